"""OpenAssistant's trees: {"message_tree_id", "prompt": {"text", "role": "prompter", "replies": [{"rank", ...}, ...]}}."""

from collections.abc import Mapping

from dots_jax.data.sources.conversations.turns import Conversation, finish, message
from dots_jax.data.tokenizers.chat import MalformedConversation

_ROLES = {"prompter": "user", "assistant": "assistant"}
_DEEPEST = 1000  # messages of one path


def read_oasst(record: Mapping, field: str = "prompt") -> Conversation:
    """One conversation a tree: from the root on the best reply of each message, the one of the lowest rank (the first, if none
    is ranked). So no text is learned twice; the other replies are noted. Deleted replies do not count."""
    node, messages, noted = record.get(field), [], set()
    if not isinstance(node, Mapping):
        what = f"no field {field!r}" if node is None else f"field {field!r} is no tree of messages"
        raise MalformedConversation(what, complete=True)
    while node is not None:
        if len(messages) == _DEEPEST:
            raise MalformedConversation(f"it has a path of more than {_DEEPEST} messages").in_field(field)
        if node.get("role") not in _ROLES:
            raise MalformedConversation(
                f"message {len(messages)} has the role {node.get('role')!r}, not one of {', '.join(_ROLES)}",
                f"a message has another role than {', '.join(_ROLES)}",
            ).in_field(field)
        if not isinstance(node.get("text"), str):
            raise MalformedConversation(
                f"message {len(messages)} has no text as its text", "a message has no text"
            ).in_field(field)
        messages.append(message(_ROLES[node["role"]], node["text"]))
        node = _best(node.get("replies"), field, noted)
    return finish(messages, noted)


def _best(replies: object, field: str, noted: set[str]) -> Mapping | None:
    if not replies:
        return None
    if not isinstance(replies, list) or not all(isinstance(one, Mapping) for one in replies):
        raise MalformedConversation("replies are not a list of messages").in_field(field)
    there = [one for one in replies if not one.get("deleted")]
    if len(there) < len(replies):
        noted.add("deleted replies of a tree are left out")
    if len(there) > 1:
        noted.add("other replies of a tree than the best are not used")
    return min(there, key=_rank, default=None)


def _rank(reply: Mapping) -> float:
    rank = reply.get("rank")
    return rank if isinstance(rank, (int, float)) else float("inf")
