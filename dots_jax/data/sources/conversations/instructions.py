"""Records with a question and its answer in fields of their own: Alpaca, BELLE, dolly, GSM8K, and a map of fields.

An instruction and its input are one message of the user, with a line end between them.
"""

import re
from collections.abc import Mapping, Sequence

from dots_jax.data.sources.conversations import fields
from dots_jax.data.sources.conversations.turns import Conversation, finish, message
from dots_jax.data.tokenizers.chat import MalformedConversation

_BELLE_TURN = re.compile(r"(?:\A|\n)(Human|Assistant):")


def read_alpaca(record: Mapping, field: str = "instruction") -> Conversation:
    """{"instruction", "input", "output"}, with `system` and `history`, [[question, answer], ...], where they are given."""
    messages = _system(record)
    for pair in _history(record):
        messages += [message("user", pair[0]), message("assistant", pair[1])]
    fields.text(record, field)
    return finish(
        [*messages, message("user", fields.joined(record, field, "input")), _learned(record, "output")], set()
    )


def _history(record: Mapping) -> list[Sequence[str]]:
    pairs = record.get("history") or []
    good = isinstance(pairs, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, str) for one in pair) for pair in pairs
    )
    if not good:
        raise MalformedConversation("field 'history' is no list of [question, answer]", complete=True)
    return pairs


def read_belle(record: Mapping, field: str = "instruction") -> Conversation:
    """BELLE's conversations of several turns: the instruction is "Human:...\\nAssistant:...\\nHuman:...\\nAssistant:", and
    `output` the answer to it."""
    before, *parts = _BELLE_TURN.split(fields.text(record, field))
    names, texts = parts[::2], parts[1::2]
    if before.strip() or not names or names[-1] != "Assistant" or texts[-1].strip():
        raise MalformedConversation(
            f"field {field!r} is not turns of Human: and Assistant:, an open one last", complete=True
        )
    roles = {"Human": "user", "Assistant": "assistant"}
    messages = [message(roles[name], text.strip()) for name, text in zip(names[:-1], texts[:-1], strict=True)]
    return finish([*messages, _learned(record, "output")])


def read_dolly(record: Mapping, field: str = "instruction") -> Conversation:
    """{"instruction", "context", "response", "category"}."""
    fields.text(record, field)
    return finish([message("user", fields.joined(record, field, "context")), _learned(record, "response")])


def read_gsm8k(record: Mapping, field: str = "question") -> Conversation:
    """{"question", "answer"}; the answer stays as it is, calculations in << >> and the line of #### included."""
    return finish([*_system(record), message("user", fields.text(record, field)), _learned(record, "answer")])


def read_field_map(record: Mapping, field_map: Sequence[tuple[str, str]]) -> Conversation:
    """field_map: (role, path of a field) in the order of the conversation. A system message that is not there is none."""
    messages = []
    for role, path in field_map:
        if role == "system" and not fields.optional(record, path):
            continue
        messages.append(_learned(record, path) if role == "assistant" else message(role, fields.text(record, path)))
    return finish(messages)


def _system(record: Mapping) -> list[dict]:
    system = fields.optional(record, "system")
    return [message("system", system)] if system else []


def _learned(record: Mapping, field: str) -> dict:
    return message("assistant", fields.answer(record, field))
