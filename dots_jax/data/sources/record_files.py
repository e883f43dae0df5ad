"""Files of records, one after the other: JSON lines, Parquet, ArrayRecord and TFRecord. The one reader of them all.

    *.jsonl, and with .gz .zst .zstd .xz  one JSON object a line (json_lines.py)
    *.json, and compressed the same       an array of objects, or one a line
    *.parquet                             one row a record
    *.array_record  *.arrayrecord         one tf.train.Example a record
    *.tfrecord  *.tfrecord.gz             the same, as TensorFlow writes it

A compressed file may be cut into parts (split_files.py). What of a record is its text, a RecordRule says (record_text.py).
A record that cannot be used becomes a `Malformed` in its place, with its number: what follows is still read. A file that
cannot be read to its end raises `DamagedFile`.
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
from array_record.python import array_record_module

from dots_jax.config import UserError
from dots_jax.config.records import RecordRule
from dots_jax.data.sources import json_lines, parquet_rows, parts
from dots_jax.data.sources.content import look_at
from dots_jax.data.sources.conversations.formats import KeysOnce, Taken, taken
from dots_jax.data.sources.json_lines import ByteStream, DamagedFile, Malformed
from dots_jax.data.sources.record_text import LeftOut, Record, RecordText
from dots_jax.data.sources.split_files import plain_name
from dots_jax.storage import S3

INDEXED = (".parquet", ".array_record", ".arrayrecord")  # read by an index at the end of the file
_BATCH = 1024  # records read at once
_LOOKED_AT = 100  # records that tell the format of a file
_SHOWN = 200  # characters of a malformed record that are kept


def is_record_file(path: str | Path) -> bool:
    return plain_name(str(path)).endswith(tuple(_READERS))


def check_format(path: str | Path) -> None:
    """Raises UserError for a file whose name ends in none of the formats above."""
    if not is_record_file(path):
        raise UserError(f"{path} is of no known format: its name must end in one of {', '.join(_READERS)}.")


def read_texts(
    path: str | Path, rule: RecordRule | str, *, conversations: bool, digest=None
) -> Iterator[bytes | Malformed]:
    """The text of every record of a file that the rule takes, as UTF-8, in the order of the file, in memory that does not grow.

    rule: or the name of the field alone. conversations: whether records are conversations: then a list of objects is a text, as
    its JSON, and a key that stands twice makes a record malformed. digest: of hashlib; it gets all bytes of the file, read to the
    end or damaged.

    Raises UserError for a file that cannot be opened, DamagedFile for one that cannot be read to its end.
    """
    numbered = numbered_texts(path, rule, conversations=conversations, digest=digest)
    return (text for _, text in numbered if not isinstance(text, LeftOut))


def numbered_texts(
    path: str | Path, rule: RecordRule | str, *, conversations: bool, digest=None, span: parts.Span | None = None
) -> Iterator[tuple[int, bytes | Malformed | LeftOut]]:
    """`read_texts`, each with its number from 1: of its line, or of the record in a file without lines; and what the rule
    leaves out. span: one part of the file, of those that parts.py makes; its lines are numbered from the first of them."""
    path = str(path)
    reader = next(read for ending, read in _READERS.items() if plain_name(path).endswith(ending))
    rule, noted = RecordRule(field=rule) if isinstance(rule, str) else rule, ()
    if rule.format == "auto":
        found = format_of(path)
        rule = dataclasses.replace(rule, format=found.format, field=found.field)
        noted = (f"format {found.format} in field {found.field!r}, as format = 'auto' took it",)
    make = RecordText(rule, conversations=conversations, noted=noted)
    filtered = reader is _parquet
    for number, record in reader(path, make, digest, span) if span else reader(path, make, digest):
        found = record if not isinstance(record, Record) else (None if filtered else make.refused(record))
        if found is None:
            found = make.text(record)
        if not isinstance(found, bytes):
            yield number, found._replace(number=number)
        elif isinstance(times := make.times(record), Malformed):
            yield number, times._replace(number=number)
        elif times == 0:
            yield number, LeftOut(f"repeat_field {make.rule.repeat_field}", number)
        else:
            yield from itertools.repeat((number, found), times)


def format_of(path: str | Path) -> Taken:
    """The format of conversations that the first records of a file have. Raises UserError if it is none."""
    path = str(path)
    reader = next(read for ending, read in _READERS.items() if plain_name(path).endswith(ending))
    first = itertools.islice(reader(path, RecordText(RecordRule(format="auto"), conversations=True), None), _LOOKED_AT)
    return taken([record.values for _, record in first if isinstance(record, Record)], path)


def check_beginning(path: str | Path) -> None:
    """Raises DamagedFile for what the first and the last bytes of a file tell: a pointer of git, an empty or cut off file."""
    path = str(path)
    if not path.endswith(INDEXED):
        with ByteStream(path) as stream:
            next(stream.blocks(), None)
    elif look_at(path).size == 0:
        raise DamagedFile(path, "it is empty", 0, 0)
    else:  # their reader looks for a pointer itself
        next(read_texts(path, "-", conversations=False), None)


# --- the formats ------------------------------------------------------------------------------------------------------


# Each gives (number from 1, Record, Malformed or LeftOut) of every record.


def _json_lines(path: str, rule: RecordText, digest, span: parts.Span | None = None) -> Iterator:
    decoder = KeysOnce() if rule.conversations else None
    return _objects(json_lines.read_rows(path, digest, span, decoder), rule.conversations)


def _json(path: str, rule: RecordText, digest) -> Iterator:
    decoder = KeysOnce() if rule.conversations else None
    return _objects(json_lines.read_json(path, digest, decoder), rule.conversations)


def _objects(rows, conversations: bool) -> Iterator:
    for number, row in rows:
        if conversations and isinstance(row, list) and row:  # a list of messages alone
            row = {"messages": row}
        if isinstance(row, dict):
            yield number, Record(row, row)
        elif isinstance(row, Malformed):
            yield number, row
        else:
            yield number, Malformed("no JSON object", json.dumps(row)[:_SHOWN])


def _parquet(path: str, rule: RecordText, digest, span: parts.Span | None = None) -> Iterator:
    # Read once where a checksum is wanted; who looks at the beginning only reads no more than that.
    memory = parts.read_once(path, digest, span) if digest is not None else None
    if digest is None:
        _feed(path, None)  # a pointer of git
    begin, end = span or (0, look_at(path).size)
    size = end - begin
    read, total = 0, 0

    def progress(*rows):
        nonlocal read, total
        read, total = rows

    with _damage(path, size, lambda: size - size * read // max(1, total)):
        yield from parquet_rows.rows(path, rule, progress, memory, span)


def _array_record(path: str, rule: RecordText, digest) -> Iterator:
    if path.startswith(S3):
        raise UserError(
            f"{path}: ArrayRecord cannot be read from s3://: copy it to a disk or to gs://, or write Parquet."
        )
    size = _feed(path, digest)
    start = total = 0
    with _damage(path, size, lambda: size - size * start // max(1, total)):
        if size == 0:
            raise EOFError("it is empty")
        reader = array_record_module.ArrayRecordReader(path)  # knows gs:// itself
        try:
            total = reader.num_records()
            for start in range(0, total, _BATCH):
                for number, record in enumerate(reader.read(range(start, min(start + _BATCH, total))), start=start + 1):
                    yield number, _example(record, rule)
        finally:
            reader.close()


def _tfrecord(path: str, rule: RecordText, digest) -> Iterator:
    """Records of: length (8 bytes), checksum of it (4), data, checksum of it (4)."""
    with ByteStream(path, digest) as stream:
        pieces, number = _Pieces(stream), 0
        while head := pieces.take(12):
            length = int.from_bytes(head[:8], "little")
            if len(head) == 12 and _masked_crc(head[:8]) != head[8:]:
                raise stream.damaged("a record's length does not fit its checksum")
            body = pieces.take(length + 4) if len(head) == 12 else b""
            if len(head) < 12 or len(body) < length + 4:
                raise stream.damaged(stream.broken or "it ends inside a record", len(head) + len(body))
            if _masked_crc(body[:length]) != body[length:]:
                raise stream.damaged("a record does not fit its checksum")
            number += 1
            yield number, _example(body[:length], rule)
        if stream.broken:
            raise stream.damaged(stream.broken, 0)


class _Pieces:
    def __init__(self, stream: ByteStream):
        self._blocks, self._buffer, self._at = stream.blocks(), b"", 0

    def take(self, length: int) -> bytes:
        """The next bytes; fewer at the end."""
        if len(self._buffer) - self._at < length:
            parts, have = [self._buffer[self._at :]], len(self._buffer) - self._at
            while have < length and (block := next(self._blocks, None)) is not None:
                parts.append(block)
                have += len(block)
            self._buffer, self._at = b"".join(parts), 0
        self._at += length
        return self._buffer[self._at - length : self._at]


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def _example(record: bytes, rule: RecordText) -> Record | Malformed:
    import tensorflow as tf  # these formats alone need it

    try:
        features = tf.train.Example.FromString(record).features.feature
    except Exception:  # protobuf's DecodeError, whose module is private
        return Malformed("no tf.train.Example", repr(record[:_SHOWN]))
    values = {}
    for path in rule.paths or features:  # flat: a feature has no fields inside
        if path in features:
            kind = features[path].WhichOneof("kind")
            found = list(getattr(features[path], kind).value) if kind else []
            values[path] = found[0] if len(found) == 1 else found
    return Record(values, "features: " + ", ".join(sorted(features)))


def _feed(path: str, digest) -> int:
    """All bytes of a file to the digest, since its reader jumps in it: then they are in memory for that. Returns the size."""
    with ByteStream(path, digest) as stream:
        next(stream.blocks(), None)  # a pointer of git; leaving the block reads the rest
        return stream.size


@contextlib.contextmanager
def _damage(path: str, size: int, lost_bytes) -> Iterator[None]:
    """What the libraries raise in the middle of a file, as DamagedFile."""
    try:
        yield
    except (EOFError, *parquet_rows.LIBRARY_ERRORS, RuntimeError, IndexError, ValueError, OSError) as error:
        if isinstance(error, UserError):
            raise
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from error
        reason = " ".join(str(error).split()).rstrip(".")[:_SHOWN]
        raise DamagedFile(path, reason, lost_bytes(), size) from error


_READERS = {
    **dict.fromkeys(json_lines.ENDINGS, _json_lines), ".parquet": _parquet, ".array_record": _array_record,
    ".arrayrecord": _array_record, ".tfrecord": _tfrecord, ".tfrecord.gz": _tfrecord,
    **dict.fromkeys(json_lines.JSON_ENDINGS, _json),
}  # fmt: skip
