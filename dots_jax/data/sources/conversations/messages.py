"""Records that hold their messages as a list: OpenAI's {"role", "content"} and ShareGPT's {"from", "value"}."""

from collections.abc import Mapping

from dots_jax.data.sources.conversations import fields
from dots_jax.data.sources.conversations.turns import Conversation, finish, message, read_turns
from dots_jax.data.tokenizers.chat import MalformedConversation

SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
    "bing": "assistant", "bard": "assistant", "system": "system",
}  # fmt: skip


def read_messages(record: Mapping, field: str = "messages") -> Conversation:
    """{"messages": [{"role": "user", "content": "..."}, ...]}, content parts, `weight` and `name` of a message included."""
    return _with_tools(record, _in_field(field, lambda: read_turns(fields.items(record, field))))


def read_sharegpt(record: Mapping, field: str = "conversations") -> Conversation:
    """{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", ...}], "system": "..."}."""
    found = _in_field(field, lambda: read_turns(fields.items(record, field), "from", "value", SHAREGPT_ROLES))
    system = fields.optional(record, "system")
    if system:
        if found.messages[0]["role"] == "system":
            raise MalformedConversation(
                f"it has a system message in 'system' and one in {field!r}", "two system messages", complete=True
            )
        found = finish([message("system", system), *found.messages], set(found.noted))
    return _with_tools(record, found)


def _with_tools(record: Mapping, found: Conversation) -> Conversation:
    """Tools that a record only offers change no message; the template cannot show them."""
    offered = [name for name in ("tools", "functions") if record.get(name)]
    return found._replace(noted=tuple(sorted({*found.noted, *(f"field {n!r} is not used" for n in offered)})))


def _in_field(field: str, read) -> Conversation:
    try:
        return read()
    except MalformedConversation as error:
        raise error.in_field(field)  # noqa: B904  the same error
