"""A list of messages, as most data sets of conversations have them -> the messages that the chat template takes.

A message that comes out is {"role", "content", "learn"}: `learn` says whether its content is learned, which is so of the
assistant's alone. What of a record is not learned or not as it stood is noted by name, once a record; a record that nothing
can be learned from raises MalformedConversation.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dots_jax.data.tokenizers.chat import TURNS, MalformedConversation

ROLES = {"system": "system", "user": "user", "assistant": "assistant", "developer": "system"}
_TOOLS = ("tool", "function", "observation", "function_call", "tool_call", "tool_calls", "tool_response", "ipython")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_CALLS = ("tool_calls", "function_call")
# Keys of a message with no place in the template, which the manifest counts by name; any other is counted as one of them.
_IGNORED = ("name", "refusal", "audio", "annotations", "id", "tool_call_id", *_THOUGHTS)
_KNOWN = ", ".join(TURNS)


class Conversation(NamedTuple):
    """messages: {"role", "content", "learn"} of each. noted: what is not learned, or not as it stood; each once, sorted."""

    messages: list[dict]
    noted: tuple[str, ...] = ()


def message(role: str, content: str, learn: bool | None = None) -> dict:
    """learn: None: the assistant's alone."""
    return {"role": role, "content": content, "learn": role == "assistant" if learn is None else learn}


def read_turns(
    turns: object, role: str = "role", content: str = "content", roles: Mapping[str, str] = ROLES
) -> Conversation:
    """role, content: the keys of a message, as the data set calls them. roles: its names of roles -> the template's."""
    noted: set[str] = set()
    return finish(list_of(turns, noted, role, content, roles), noted)


def list_of(
    turns: object, noted: set[str], role: str = "role", content: str = "content", roles: Mapping[str, str] = ROLES
) -> list[dict]:
    """The messages one by one; `finish` has the rules for all of a conversation. noted: gets what was not as it stood."""
    if not isinstance(turns, list) or not turns:
        raise MalformedConversation("it is not a list of messages")
    return [_read(number, turn, role, content, roles, noted) for number, turn in enumerate(turns)]


def _read(number: int, turn: object, role: str, content: str, roles: Mapping[str, str], noted: set[str]) -> dict:
    at = f"message {number}"
    if not isinstance(turn, Mapping):
        raise MalformedConversation(f"{at} is not an object with {role} and {content}", "a message is not an object")
    turn = {key: value for key, value in turn.items() if value is not None}  # as Parquet has what is not there
    who = _role(at, turn.get(role), roles, noted)
    calls = next((key for key in _CALLS if turn.get(key)), None)
    if calls:
        raise MalformedConversation(
            f"{at} has {calls}, for which the template has no turn", f"a message has {calls}, which the template lacks"
        )
    for key in turn.keys() - {role, content, "weight", *_CALLS}:
        if turn[key] not in ("", [], {}):
            noted.add(f"{key} of a message is not in the template" if key in _IGNORED else "other keys of a message")
    text = _text(at, turn.get(content), content, noted)
    return message(who, text, _learn(at, who, turn.get("weight"), noted))


def _role(at: str, found: object, roles: Mapping[str, str], noted: set[str]) -> str:
    plain = found.lower() if isinstance(found, str) else None
    if plain in _TOOLS:
        raise MalformedConversation(
            f"{at} has the role {found!r}, for which the template has no turn",
            "a message is of a tool, which the template lacks",
        )
    if plain not in roles:
        known = _KNOWN if roles is ROLES else ", ".join(roles)
        raise MalformedConversation(
            f"{at} has the role {found!r}, not one of {known}", f"a message has another role than {known}"
        )
    if plain == "developer" or plain != found:
        noted.add("role developer is read as system" if plain == "developer" else "roles in capitals")
    return roles[plain]


def _text(at: str, found: object, content: str, noted: set[str]) -> str:
    """A text, or a list of parts as OpenAI has them, which are joined without anything between them."""
    if isinstance(found, str):
        return found
    if not isinstance(found, list) or not found:
        raise MalformedConversation(f"{at} has no text as its {content}", f"a message has no text as its {content}")
    parts = []
    for part in found:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str):
            raise MalformedConversation(
                f"{at} has a part of the type {kind!r}, which is no text", "a message has a part that is no text"
            )
        parts.append(part["text"])
    if len(parts) > 1:
        noted.add("text parts of a message are joined")
    return "".join(parts)


def _learn(at: str, role: str, weight: object, noted: set[str]) -> bool:
    if weight is None:
        return role == "assistant"
    if isinstance(weight, bool) or weight not in (0, 1):
        raise MalformedConversation(
            f"{at} has the weight {weight!r}, which is neither 0 nor 1", "a weight is neither 0 nor 1"
        )
    if role != "assistant":
        noted.add("weight of a message that is not the assistant's")
        return False
    if not weight:
        noted.add("an answer of weight 0 is not learned")
    return bool(weight)


def finish(messages: Sequence[dict], noted: set[str] | None = None) -> Conversation:
    """Messages of any format, with the rules that hold for all: which answers are learned, and what is noted."""
    noted, messages = set() if noted is None else noted, list(messages)
    asked, before = False, ""
    for number, one in enumerate(messages):
        role = one["role"]
        _check(number, one)
        if role == before:
            noted.add(f"two messages of {role} in a row")
        if role == "assistant":
            _check_answer(one, asked, noted)
        elif not one["content"].strip():
            noted.add(f"an empty message of {role}")
        asked, before = asked or role == "user", role
    if before == "user":
        noted.add("the last message is the user's")
    if not any(one["role"] == "assistant" for one in messages):
        raise MalformedConversation("it has no turn of the assistant, so there is nothing to learn")
    if not any(one["learn"] for one in messages):
        raise MalformedConversation(_why_nothing(messages, noted))
    return Conversation(messages, tuple(sorted(noted)))


def _check(number: int, one: dict) -> None:
    try:
        one["content"].encode()
    except UnicodeEncodeError:
        raise MalformedConversation(
            f"message {number} has half of a surrogate pair, which is no character", "a message is not UTF-8"
        ) from None
    if one["role"] == "system" and number > 0:
        raise MalformedConversation(
            f"message {number} is a system message, which can only be the first", "a system message is not the first"
        )


def _check_answer(answer: dict, asked: bool, noted: set[str]) -> None:
    if not answer["content"].strip():
        noted.add("an empty answer is not learned")
        answer["learn"] = False
    elif not asked:
        noted.add("an answer before the first question is not learned")
        answer["learn"] = False


def _why_nothing(messages: Sequence[dict], noted: set[str]) -> str:
    answers = [one for one in messages if one["role"] == "assistant"]
    if not any(one["content"].strip() for one in answers):
        return "every answer is empty"
    if "an answer of weight 0 is not learned" in noted:
        return "no answer has the weight 1"
    return "no answer has a question before it"
