"""Files of records, one after the other: JSON lines, Parquet, ArrayRecord and TFRecord. The one reader of them all.

    *.jsonl  *.jsonl.gz  *.jsonl.zst      one JSON object a line (json_lines.py)
    *.parquet                             one row a record
    *.array_record  *.arrayrecord         one tf.train.Example a record
    *.tfrecord  *.tfrecord.gz             the same, as TensorFlow writes it

The field of a record is a text, or the messages of a conversation, a list of objects, which becomes its JSON.
A record that cannot be used becomes a `Malformed` in its place, with its number: what follows is still read. A file that
cannot be read to its end raises `DamagedFile`.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import pyarrow
import pyarrow.parquet
import tensorflow as tf
from array_record.python import array_record_module

from dots_jax.config import UserError
from dots_jax.data.sources import json_lines, parts
from dots_jax.data.sources.content import look_at
from dots_jax.data.sources.json_lines import ByteStream, DamagedFile, Malformed
from dots_jax.storage import BUCKET, filesystem, in_bucket

_BATCH = 1024  # records read at once
_SHOWN = 200  # characters of a malformed record that are kept


def is_record_file(path: str | Path) -> bool:
    return str(path).endswith(tuple(_READERS))


def check_format(path: str | Path) -> None:
    """Raises UserError for a file whose name ends in none of the formats above."""
    if not is_record_file(path):
        raise UserError(f"{path} is of no known format: its name must end in one of {', '.join(_READERS)}.")


def read_texts(path: str | Path, field: str, messages: bool = True, digest=None) -> Iterator[bytes | Malformed]:
    """The text of every record of a file, as UTF-8, in the order of the file, in memory that does not grow.

    messages: whether a list of objects is a text too, as its JSON. digest: of hashlib; it gets all bytes of the file, read
    to the end or damaged.

    Raises UserError for a file that cannot be opened, DamagedFile for one that cannot be read to its end.
    """
    return (text for _, text in numbered_texts(path, field, messages, digest))


def numbered_texts(
    path: str | Path, field: str, messages: bool = True, digest=None, span: parts.Span | None = None
) -> Iterator[tuple[int, bytes | Malformed]]:
    """`read_texts`, each with its number from 1: of its line, or of the record in a file without lines. span: one part of the
    file, of those that parts.py makes; its lines are numbered from the first of them."""
    path = str(path)
    reader = next(read for ending, read in _READERS.items() if path.endswith(ending))
    number = 0
    for value in reader(path, field, digest, span) if span else reader(path, field, digest):
        if type(value) is tuple:  # (number of the line, value)
            number, value = value
        else:
            number += 1
        text = value if isinstance(value, Malformed) else text_of(value, field, messages)
        yield number, text._replace(number=number) if isinstance(text, Malformed) else text


def check_beginning(path: str | Path) -> None:
    """Raises DamagedFile for what the first and the last bytes of a file tell: a pointer of git, an empty or cut off file."""
    path = str(path)
    size = look_at(path).size
    with ByteStream(path) as stream:
        next(stream.blocks(), None)
    if path.endswith((".parquet", ".array_record", ".arrayrecord")):
        if size == 0:
            raise DamagedFile(path, "it is empty", 0, 0)
        next(read_texts(path, ""), None)


class _Field:
    """A record's field, of which `shown` tells what the record has."""

    __slots__ = ("shown", "value")

    def __init__(self, value, shown):
        self.value, self.shown = value, shown


def text_of(value, field: str, messages: bool = True) -> bytes | Malformed:
    """The text of a field as UTF-8. value: what the field holds, None if it is not there."""
    record = value
    if isinstance(value, _Field):
        value, record = value.value, value.shown
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:  # JSON can spell half a surrogate pair
            return Malformed("not UTF-8", repr(value[:_SHOWN]))
    if isinstance(value, bytes):
        try:
            value.decode()
        except UnicodeDecodeError:
            return Malformed("not UTF-8", repr(value[:_SHOWN]))
        return value
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        if messages:
            return text_of(json.dumps(value, ensure_ascii=False), field)
        return Malformed(f"field {field!r} is a list of objects and no text", str(record)[:_SHOWN])
    reason = f"no field {field!r}" if value is None else f"field {field!r} is no text"
    return Malformed(reason, str(record)[:_SHOWN])


# --- the formats ------------------------------------------------------------------------------------------------------


def _json_lines(path: str, field: str, digest, span: parts.Span | None = None) -> Iterator:
    for number, row in json_lines.read_rows(path, digest, span):
        if isinstance(row, dict):
            yield number, _Field(row.get(field), row)
        elif isinstance(row, Malformed):
            yield number, row
        else:
            yield number, Malformed("no JSON object", json.dumps(row)[:_SHOWN])


def _parquet(path: str, field: str, digest, span: parts.Span | None = None) -> Iterator:
    # Read once where a checksum is wanted; who looks at the beginning only reads no more than that.
    memory = parts.read_once(path, digest, span) if digest is not None else None
    if digest is None:
        _feed(path, None)  # a pointer of git
    begin, end = span or (0, look_at(path).size)
    size = end - begin
    read = total = 0
    with _damage(path, size, lambda: size - size * read // max(1, total)):
        # A local path as it is, which pyarrow reads without Python; a bucket through the one client of this project. Checksums of
        # pages are there if the writer wrote some.
        client = filesystem(path) if in_bucket(path) and memory is None else None
        with pyarrow.parquet.ParquetFile(
            memory or path.removeprefix(BUCKET), filesystem=client, page_checksum_verification=True
        ) as file:
            groups, before = parts.groups_of(file.metadata, span)
            names, total = file.schema_arrow.names, sum(file.metadata.row_group(i).num_rows for i in groups)
            if field not in names:
                missing = Malformed(f"no field {field!r}", "columns: " + ", ".join(names))
                yield from ((before + number, missing) for number in range(1, total + 1))
                return
            for batch in file.iter_batches(_BATCH, row_groups=groups, columns=[field]):
                for number, value in enumerate(batch.column(0).to_pylist(), start=before + read + 1):
                    yield number, _Field(value, "null" if value is None else value)
                read += len(batch)
            if read != total:
                raise EOFError(f"it has {read:,} of the {total:,} rows that it promises")


def _array_record(path: str, field: str, digest) -> Iterator:
    size = _feed(path, digest)
    start = total = 0
    with _damage(path, size, lambda: size - size * start // max(1, total)):
        if size == 0:
            raise EOFError("it is empty")
        reader = array_record_module.ArrayRecordReader(path)  # knows gs:// itself
        try:
            total = reader.num_records()
            for start in range(0, total, _BATCH):
                for record in reader.read(range(start, min(start + _BATCH, total))):
                    yield _example_field(record, field)
        finally:
            reader.close()


def _tfrecord(path: str, field: str, digest) -> Iterator:
    """Records of: length (8 bytes), checksum of it (4), data, checksum of it (4)."""
    with ByteStream(path, digest) as stream:
        pieces = _Pieces(stream)
        while head := pieces.take(12):
            length = int.from_bytes(head[:8], "little")
            if len(head) == 12 and _masked_crc(head[:8]) != head[8:]:
                raise stream.damaged("a record's length does not fit its checksum")
            body = pieces.take(length + 4) if len(head) == 12 else b""
            if len(head) < 12 or len(body) < length + 4:
                raise stream.damaged(stream.broken or "it ends inside a record", len(head) + len(body))
            if _masked_crc(body[:length]) != body[length:]:
                raise stream.damaged("a record does not fit its checksum")
            yield _example_field(body[:length], field)
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


def _example_field(record: bytes, field: str):
    try:
        features = tf.train.Example.FromString(record).features.feature
    except Exception:  # protobuf's DecodeError, whose module is private
        return Malformed("no tf.train.Example", repr(record[:_SHOWN]))
    if field not in features:
        return Malformed(f"no field {field!r}", "features: " + ", ".join(sorted(features)))
    values = features[field].bytes_list.value
    return _Field(values[0] if len(values) == 1 else list(values), features[field])


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
    except (EOFError, pyarrow.ArrowException, RuntimeError, IndexError, ValueError, OSError) as error:
        if isinstance(error, UserError):
            raise
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from error
        reason = " ".join(str(error).split()).rstrip(".")[:_SHOWN]
        raise DamagedFile(path, reason, lost_bytes(), size) from error


_READERS = {
    ".jsonl": _json_lines, ".jsonl.gz": _json_lines, ".jsonl.zst": _json_lines, ".parquet": _parquet,
    ".array_record": _array_record, ".arrayrecord": _array_record, ".tfrecord": _tfrecord, ".tfrecord.gz": _tfrecord,
}  # fmt: skip
