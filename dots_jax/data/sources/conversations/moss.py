"""MOSS: {"meta_instruction", "chat": {"turn_1": {"Human": "<|Human|>: ...<eoh>\\n", "MOSS": "<|MOSS|>: ...<eom>\\n", ...}}}."""

import re
from collections.abc import Mapping

from dots_jax.data.sources.conversations import fields
from dots_jax.data.sources.conversations.turns import Conversation, finish, message
from dots_jax.data.tokenizers.chat import MalformedConversation

_MARKS = re.compile(r"\A\s*<\|[^|<>]+\|>: ?|<eo[a-z]>\s*\Z")
_TURN = re.compile(r"turn_([0-9]+)\Z")
_OF_TOOLS = ("Commands", "Tool Responses")


def read_moss(record: Mapping, field: str = "chat") -> Conversation:
    """The marks around each text are taken off. Turns with commands are of tools, which the template lacks."""
    chat, noted = record.get(field), set()
    if not isinstance(chat, Mapping):
        what = f"no field {field!r}" if chat is None else f"field {field!r} is no object of turns"
        raise MalformedConversation(what, complete=True)
    names = [name for name in chat if _TURN.match(name) and chat[name] is not None]
    system = fields.optional(record, "meta_instruction")
    messages = [message("system", system)] if system else []
    for name in sorted(names, key=lambda name: int(_TURN.match(name)[1])):
        turn = chat[name]
        if not isinstance(turn, Mapping):
            raise MalformedConversation(f"{name} is no object", "a turn is no object").in_field(field)
        for key in _OF_TOOLS:
            if _said(turn, key):
                raise MalformedConversation(
                    f"{name} has {key}, which the template lacks", f"a turn has {key}, which the template lacks"
                ).in_field(field)
        if _said(turn, "Inner Thoughts"):
            noted.add("Inner Thoughts of a turn are not in the template")
        messages += [message("user", _text(turn, "Human", field)), message("assistant", _text(turn, "MOSS", field))]
    if not names:
        raise MalformedConversation(f"field {field!r} has no turn_1", complete=True)
    return finish(messages, noted)


def _text(turn: Mapping, key: str, field: str) -> str:
    found = turn.get(key)
    if not isinstance(found, str):
        raise MalformedConversation(f"a turn has no text as its {key}").in_field(field)
    return _MARKS.sub("", found)


def _said(turn: Mapping, key: str) -> bool:
    found = turn.get(key)
    return isinstance(found, str) and _MARKS.sub("", found).strip() not in ("", "None")
