"""From the fields of a record to its text, by a RecordRule: paths, lists, templates, predicates.

A record is a mapping of names to values as JSON has them, whatever file it comes from. A field that is named `a.b` as it
stands is found before the field `b` of the field `a`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import NamedTuple

from dots_jax.config.records import TEXT_HASH, Predicate, RecordRule, parse_template
from dots_jax.data.sources.conversations import formats
from dots_jax.data.sources.exclude_lists import ExcludeList
from dots_jax.data.sources.field_path import look_up, names_of
from dots_jax.data.sources.json_lines import Malformed
from dots_jax.data.tokenizers.chat import MalformedConversation

_SHOWN = 200  # characters of a malformed record that are kept


class LeftOut(NamedTuple):
    """Records that the user's settings leave out. reason: which of them. records: how many, of a part of a file that its
    statistics exclude. number: of the first, from 1; 0 if unknown."""

    reason: str
    number: int = 0
    records: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """values: the fields that were asked for, or more. shown: what a reader of a message sees of the record."""

    values: Mapping
    shown: object


class _Bad(Exception):
    """A field that cannot be used, as the reason that is counted."""


def field_text(value: object, field: str, conversations: bool, join: str | None = None) -> bytes:
    """Of a field that holds a text, a list of texts, or the messages of a conversation. Raises _Bad."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:  # JSON can spell half a surrogate pair
            raise _Bad("not UTF-8") from None
    if isinstance(value, bytes):
        try:
            value.decode()
        except UnicodeDecodeError:
            raise _Bad("not UTF-8") from None
        return value
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        if conversations:
            return field_text(json.dumps(value, ensure_ascii=False), field, conversations)
        raise _Bad(f"field {field!r} is a list of objects and no text")
    if isinstance(value, list) and join is not None and all(isinstance(one, (str, bytes)) for one in value):
        return join.encode().join(field_text(one, field, conversations) for one in value)
    raise _Bad(f"no field {field!r}" if value is None else f"field {field!r} is no text")


def text_of(value: object, field: str) -> bytes | Malformed:
    """The text of a field as UTF-8. value: what the field holds, None if it is not there."""
    try:
        return field_text(value, field, conversations=False)
    except _Bad as bad:
        return _malformed(bad, value, value)


def _malformed(bad: _Bad, value: object, shown: object) -> Malformed:
    if str(bad) == "not UTF-8" and isinstance(value, (str, bytes)):
        return Malformed(str(bad), repr(value[:_SHOWN]))
    return Malformed(str(bad), str(shown)[:_SHOWN])


class RecordText:
    """A RecordRule, ready to be used on many records.

    Attributes: paths: of all fields that it looks at; empty: it may look at any, as a format of conversations. compared: of
    those that `refused` looks at. conversations: whether records are conversations, in which a key must not stand twice; then a
    list of objects is a text, as its JSON.
    """

    def __init__(self, rule: RecordRule, *, conversations: bool, noted: tuple[str, ...] = ()):
        """noted: of every conversation."""
        self.rule, self.conversations, self._noted = rule, conversations, noted
        inside = f"{rule.each}." if rule.each else None
        self._of_items = tuple(
            dataclasses.replace(one, path=one.path.removeprefix(inside))
            for one in rule.filters
            if inside and one.path.startswith(inside)
        )
        self.filters = tuple(one for one in rule.filters if not (inside and one.path.startswith(inside)))
        self._template = parse_template("template", rule.template) if rule.template else ()
        fields = [path for _, path in self._template if path] if rule.template else [rule.field]
        fields = [f"{inside or ''}{path}" for path in fields]
        self._exclude = [(path, ExcludeList(glob)) for path, glob in rule.exclude]
        self.compared = tuple(
            dict.fromkeys([*(one.path for one in self.filters), *(p for p, _ in rule.exclude if p != TEXT_HASH)])
        )
        inside_items = (one.path for one in rule.filters if one not in self.filters)
        counted = [rule.repeat_field] if rule.repeat_field else []
        paths = [] if rule.format else [*fields, *self.compared, *inside_items, *counted]
        self.paths = tuple(dict.fromkeys(paths))

    def refused(self, record: Record) -> Malformed | LeftOut | None:
        """What the predicates and the lists say; None for a record that all of them take."""
        try:
            for one in self.filters:
                if not _holds(one, record.values):
                    return LeftOut(one.text)
            for path, listed in self._exclude:
                if path != TEXT_HASH and _present(record.values, path) in listed:
                    return LeftOut(f"exclude by {path}")
        except _Bad as bad:
            return _malformed(bad, None, record.shown)
        return None

    def text(self, record: Record) -> bytes | Malformed | LeftOut:
        """The text of a record that the predicates take, as UTF-8."""
        values, rule, value = record.values, self.rule, None
        try:
            if rule.format:
                text = formats.to_text(formats.read(values, rule), self._noted)
            elif rule.each:
                text = self._each(values)
            elif self._template:
                text = self._filled(values)
            else:
                value = look_up(values, rule.field)
                text = field_text(value, rule.field, self.conversations, rule.join)
        except _Bad as bad:
            return _malformed(bad, value, record.shown)
        except MalformedConversation as error:
            return Malformed(error.counted(), f"{error}: {record.shown}"[: 2 * _SHOWN])
        return text if isinstance(text, LeftOut) else (self._refused_text(text) or text)

    def _refused_text(self, text: bytes) -> LeftOut | None:
        rule = self.rule
        if rule.min_characters or rule.max_characters:
            broken = rule.refused_length("characters", len(text.decode()))
            if broken:
                return LeftOut(broken)
        if any(path == TEXT_HASH and hashlib.sha256(text).hexdigest() in listed for path, listed in self._exclude):
            return LeftOut(f"exclude by {TEXT_HASH}")
        if rule.held_out:
            # The same text falls on the same side wherever it stands, so that no copy of it is learned.
            draw = int.from_bytes(hashlib.blake2b(text, digest_size=8, person=b"held_out").digest(), "little")
            if (draw < rule.held_out * 2.0**64) != rule.is_held_out:
                return LeftOut("held_out: of train" if rule.is_held_out else "held_out: of validation")
        return None

    def times(self, record: Record) -> int | Malformed:
        """How often a record is read in one pass."""
        rule = self.rule
        if not rule.repeat_field:
            return 1
        count = look_up(record.values, rule.repeat_field)
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            reason = f"no field {rule.repeat_field!r}" if count is None else f"field {rule.repeat_field!r} is no count"
            return Malformed(reason, str(record.shown)[:_SHOWN])
        if not rule.repeat_steps:
            return count
        return next((times for start, times in reversed(rule.repeat_steps) if count >= start), 0)

    def _each(self, values: Mapping) -> bytes | LeftOut:
        each = self.rule.each
        items = look_up(values, each)
        if items is None:
            raise _Bad(f"no field {each!r}")
        if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
            raise _Bad(f"field {each!r} is no list of objects")
        if not items:
            raise _Bad(f"field {each!r} is empty")
        for one in self._of_items:
            items = [item for item in items if _holds(one, item, f"{each}.")]
            if not items:
                return LeftOut(one.text)
        return (self.rule.join or "").encode().join(self._filled(item, f"{each}.") for item in items)

    def _filled(self, values: Mapping, inside: str = "") -> bytes:
        parts = []
        for before, path in self._template:
            parts.append(before.encode())
            if path:
                value = look_up(values, path)
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    value = str(value)
                parts.append(field_text(value, inside + path, False, self.rule.join))
        return b"".join(parts)


def _holds(one: Predicate, values: Mapping, inside: str = "") -> bool:
    found = look_up(values, one.path)
    if found is None:
        if _is_there(values, one.path):
            return False  # null, which compares with nothing
        raise _Bad(f"no field {inside + one.path!r}")
    if isinstance(found, bytes):
        found = found.decode(errors="replace")
    if not one.fits(found):
        raise _Bad(f"field {inside + one.path!r} is no {one.kind}")
    return one.holds(found)


def _present(values: Mapping, path: str) -> object:
    """A field that an exclude list is asked for; null is in none."""
    found = look_up(values, path)
    if found is None and not _is_there(values, path):
        raise _Bad(f"no field {path!r}")
    return b"" if found is None else found


def _is_there(values: object, path: str) -> bool:
    """Whether a record has the field, be it null, or null in a field around it."""
    if isinstance(values, Mapping) and path in values:
        return True
    for name in names_of(path):
        if values is None:
            return True
        if not isinstance(values, Mapping) or name not in values:
            return False
        values = values[name]
    return True
