"""Texts of a record by the names of its fields, for the formats that are no list of messages."""

from collections.abc import Mapping

from dots_jax.data.sources.field_path import look_up
from dots_jax.data.tokenizers.chat import MalformedConversation


def text(record: Mapping, field: str) -> str:
    """Raises MalformedConversation for a field that is not there or no text."""
    found = look_up(record, field)
    if not isinstance(found, str):
        what = f"no field {field!r}" if found is None else f"field {field!r} is no text"
        raise MalformedConversation(what, complete=True)
    return found


def optional(record: Mapping, field: str) -> str:
    """The same; "" for a field that is not there or null."""
    return "" if look_up(record, field) is None else text(record, field)


def joined(record: Mapping, *fields: str) -> str:
    """The texts of those fields that are there and not empty, with a line end between two."""
    return "\n".join(found for found in (optional(record, field) for field in fields) if found)


def answer(record: Mapping, field: str) -> str:
    """A text that is learned. Raises MalformedConversation also for an empty one."""
    found = text(record, field)
    if not found.strip():
        raise MalformedConversation(f"field {field!r} is empty", complete=True)
    return found


def items(record: Mapping, field: str) -> list:
    """A list. Raises MalformedConversation for what is none, and for an empty one."""
    found = look_up(record, field)
    if not isinstance(found, list) or not found:
        what = f"no field {field!r}" if found is None else f"field {field!r} is not a list of messages"
        raise MalformedConversation(what, complete=True)
    return found
