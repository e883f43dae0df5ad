"""The formats by name, and which of them the records of a file have."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from dots_jax.config import UserError
from dots_jax.config.records import CONVERSATION_FORMATS, RecordRule
from dots_jax.data.sources.conversations import coig, instructions, messages, moss, oasst, prompt_completion
from dots_jax.data.sources.conversations.turns import Conversation
from dots_jax.data.tokenizers.chat import MalformedConversation

READERS: dict[str, Callable[[Mapping, str], Conversation]] = {
    "messages": messages.read_messages,
    "sharegpt": messages.read_sharegpt,
    "alpaca": instructions.read_alpaca,
    "prompt_completion": prompt_completion.read_prompt_completion,
    "moss": moss.read_moss,
    "coig": coig.read_coig,
    "belle": instructions.read_belle,
    "oasst": oasst.read_oasst,
    "dolly": instructions.read_dolly,
    "gsm8k": instructions.read_gsm8k,
}


_OURS = "dots_jax_messages"  # no name of a user's field


class Taken(NamedTuple):
    """A format and the field that it reads first."""

    format: str
    field: str


def field_of(rule: RecordRule) -> str:
    """The field that a rule's format reads first: its own, unless the user names another."""
    own = CONVERSATION_FORMATS.get(rule.format, "")
    return own if own and rule.field == "text" else rule.field


def read(record: Mapping, rule: RecordRule) -> Conversation:
    """The messages of a record. Raises MalformedConversation for one that cannot be learned from."""
    if rule.format == "field_map":
        return instructions.read_field_map(record, rule.field_map)
    return READERS[rule.format](record, field_of(rule))


def to_text(found: Conversation, noted: tuple[str, ...] = ()) -> bytes:
    """As the text of a record, which is held out and compared; `from_text` reads it. noted: next to what it notes itself."""
    return json.dumps({_OURS: found.messages, "noted": [*noted, *found.noted]}, ensure_ascii=False).encode()


def from_text(text: bytes | str) -> Conversation:
    """Of `to_text`, or of a JSON list of messages. Raises MalformedConversation."""
    decoder = KeysOnce()
    try:
        found = decoder.decode(text)
    except (ValueError, RecursionError):
        raise MalformedConversation("it is not JSON") from None
    if decoder.twice:
        raise MalformedConversation(f"it gives the key {decoder.twice!r} twice", "a key stands twice in an object")
    if isinstance(found, Mapping) and found.keys() == {_OURS, "noted"}:
        return Conversation(found[_OURS], tuple(found["noted"]))
    return messages.read_turns(found)


class KeysOnce:
    """A JSON decoder that notes a key that stands twice in an object, of which json keeps the last one alone.

    Attributes: twice: such a key of the last value that was decoded, or "".
    """

    def __init__(self):
        self.twice = ""
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def decode(self, text: bytes | str) -> object:
        self.twice = ""
        return self._decoder.decode(text if isinstance(text, str) else text.decode("utf-8-sig"))

    def raw_decode(self, text: str, at: int) -> tuple[object, int]:
        self.twice = ""
        return self._decoder.raw_decode(text, at)

    def _object(self, pairs: list[tuple[str, object]]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            self.twice = next(key for key, count in counts.items() if count > 1)
        return found


def detect(record: Mapping) -> Taken | None:
    """The format that the names and kinds of a record's fields tell; None for one that is of none."""
    for field in ("messages", "conversations", "conversation"):
        turns = record.get(field)
        first = turns[0] if isinstance(turns, list) and turns else None
        if isinstance(first, Mapping):
            for name, keys in (
                ("messages", ("role",)),
                ("sharegpt", ("from", "value")),
                ("coig", ("question", "answer")),
            ):
                if all(key in first for key in keys):
                    return Taken(name, field)
    names = {name for name, value in record.items() if value is not None}
    if isinstance(record.get("prompt"), Mapping) and "text" in record["prompt"]:
        return Taken("oasst", "prompt")
    if isinstance(record.get("chat"), Mapping) and "turn_1" in record["chat"]:
        return Taken("moss", "chat")
    if {"trans_instruction", "trans_output"} <= names or {"textbox_question", "textbox_answer"} <= names:
        return Taken("coig", "conversations")
    human = isinstance(record.get("instruction"), str) and record["instruction"].lstrip().startswith("Human:")
    for name, field, keys in (
        ("belle" if human else "alpaca", "instruction", {"instruction", "output"}),
        ("dolly", "instruction", {"instruction", "response"}),
        ("prompt_completion", "prompt", {"prompt", "completion"}),
        ("gsm8k", "question", {"question", "answer"}),
    ):
        if keys <= names:
            return Taken(name, field)
    return None


def taken(records: Iterable[Mapping], path: str) -> Taken:
    """The format of most of the first records of a file. Raises UserError if none is of any; without records, messages."""
    records = list(records)
    found = Counter(detect(record) for record in records)
    found.pop(None, None)
    if not found and records:
        raise UserError(
            f"{path}: Source.format = 'auto' knows none of its first {len(records)} records, whose fields are "
            f"{', '.join(map(str, records[0])) or 'none'}: set it to one of {', '.join(CONVERSATION_FORMATS)}, or set "
            "Source.field_map."
        )
    return min(found, key=lambda one: (-found[one], one), default=Taken("messages", "messages"))
