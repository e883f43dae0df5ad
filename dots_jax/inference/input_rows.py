"""The rows of a file of prompts, conversations or texts, checked before any weights are read."""

import json
import sys
from collections.abc import Collection
from typing import NamedTuple

from dots_jax.config import ModelConfig, UserError
from dots_jax.data.sources import json_lines
from dots_jax.data.tokenizers.chat import MalformedConversation
from dots_jax.inference.prompts import PromptEncoder
from dots_jax.inference.weights import check_tokens

MESSAGES = "messages"


class InputRow(NamedTuple):
    """A line of an input file: its fields, and its tokens."""

    fields: dict
    tokens: list[int]


def read_rows(
    path: str, text_field: str, encoder: PromptEncoder, config: ModelConfig, room: int, results: Collection[str] = (),
    conversations: bool = False,
) -> list[InputRow]:  # fmt: skip
    """The rows of a file of JSON lines (json_lines.py: byte order marks, .gz and .zst too), checked; blank lines are left out.

    A row has "tokens", or a text in `text_field`, or, where there are conversations, "messages". What of messages the template
    has no place for is said on stderr, with counts. room: new tokens that a row needs. results: fields that the rows get, and
    so must not have.

    Raises:
      UserError: naming the line, for the first one that cannot be used.
    """
    rows = []
    for number, fields in json_lines.read_rows(path):
        at = f"{path} line {number}"
        if isinstance(fields, json_lines.Malformed):
            raise UserError(f"{at} is {fields.reason}.")
        tokens = _tokens(at, fields, text_field, encoder, conversations)
        rows.append(InputRow(fields, check_tokens(at, tokens, config, room)))
        for name in results:
            if name in fields:
                raise UserError(f'{at} has a field "{name}" of its own, which the result would replace: rename it.')
    if not rows:
        raise UserError(f"{path} has no rows.")
    for note, count in sorted(encoder.noted.items()):
        print(f"{count:,} of {len(rows):,} rows: {note}", file=sys.stderr)
    return rows


def _tokens(at: str, fields: object, text_field: str, encoder: PromptEncoder, conversations: bool) -> list[int]:
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError(f"{at} has half of a surrogate pair, which is no character.") from None
    known = ["tokens", text_field, *([MESSAGES] if conversations else [])]
    given = [name for name in known if fields.get(name) is not None] if isinstance(fields, dict) else []
    value = fields[given[0]] if len(given) == 1 else None
    if given == ["tokens"] and isinstance(value, list) and all(type(t) is int for t in value):
        return value
    if given == [text_field] and isinstance(value, str):
        return encoder.text(value)
    if given == [MESSAGES] and isinstance(value, list):
        try:
            return encoder.messages(value)
        except MalformedConversation as error:
            raise UserError(f'{at}, field "{MESSAGES}": {error}.') from None
    either = f', "{MESSAGES}", a list of objects with role and content,' if conversations else ""
    raise UserError(f'{at} needs one of "tokens", a list of integers{either} and "{text_field}", a string.')
