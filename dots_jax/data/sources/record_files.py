"""Files of records, one after the other: JSON lines, Parquet, ArrayRecord and TFRecord.

    *.jsonl  *.jsonl.gz  *.jsonl.zst      one JSON object a line; blank lines are skipped
    *.parquet                             one row a record
    *.array_record  *.arrayrecord         one tf.train.Example a record
    *.tfrecord  *.tfrecord.gz             the same, as TensorFlow writes it

The field of a record is a text, or the messages of a conversation, a list of objects, which becomes its JSON.
A record that cannot be used becomes a `Malformed` in its place: what follows is still read.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow
import pyarrow.parquet
import tensorflow as tf
import zstandard
from array_record.python import array_record_module

from dots_jax.config import UserError
from dots_jax.storage import BUCKET, filesystem, in_bucket, open_file

_BATCH = 1024  # records read at once
_SHOWN = 200  # characters of a malformed record that are kept


class Malformed(NamedTuple):
    """A record without a text. reason: one of few, to be counted. shown: the beginning of the record."""

    reason: str
    shown: str = ""


def check_format(path: str | Path) -> None:
    """Raises UserError for a file whose name ends in none of the formats above."""
    if not str(path).endswith(tuple(_READERS)):
        raise UserError(f"{path} is of no known format: its name must end in one of {', '.join(_READERS)}.")


def read_texts(path: str | Path, field: str) -> Iterator[bytes | Malformed]:
    """The text of every record of a file, as UTF-8, in the order of the file, in memory that does not grow.

    A file that breaks off or is damaged ends with a Malformed "damaged file". Raises UserError for one that cannot be opened.
    """
    reader = next(read for ending, read in _READERS.items() if str(path).endswith(ending))
    open_file(str(path)).close()  # is missing or forbidden, which is no damage
    try:
        yield from reader(str(path), field)
    except (
        EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError, pyarrow.ArrowException, tf.errors.OpError,
        RuntimeError, IndexError,
    ) as error:  # fmt: skip
        yield Malformed("damaged file", str(error)[:_SHOWN])


def _text(value, field: str, record) -> bytes | Malformed:
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
        return _text(json.dumps(value, ensure_ascii=False), field, record)
    reason = f"no field {field!r}" if value is None else f"field {field!r} is no text"
    return Malformed(reason, str(record)[:_SHOWN])


# --- JSON lines -----------------------------------------------------------------------------------------------------


def _json_lines(path: str, field: str) -> Iterator[bytes | Malformed]:
    with open_file(path) as file:
        if path.endswith(".gz"):
            lines = gzip.GzipFile(fileobj=file)
        elif path.endswith(".zst"):
            lines = _lines(_zstd_blocks(file))
        else:
            lines = file
        for line in lines:
            if line.strip():
                yield _json_text(line, field)


def _zstd_blocks(file: BinaryIO) -> Iterator[bytes]:
    """The text of a file of one frame or more. zstandard's own reader takes a file that breaks off for a whole one."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)  # `zstd --long=31` too
    frame, inside = decompressor.decompressobj(), False
    while data := file.read(1 << 18):
        while data:
            yield frame.decompress(data)
            data, inside = frame.unused_data, not frame.eof
            if frame.eof:
                frame = decompressor.decompressobj()
    if inside:
        raise EOFError("the file ends inside a zstd frame")


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    pending = []  # pieces of one line, joined once: a line may be longer than many blocks
    for block in blocks:
        first, *others = block.split(b"\n")
        pending.append(first)
        if others:
            yield b"".join(pending)
            yield from others[:-1]
            pending = others[-1:]
    yield b"".join(pending)


def _json_text(line: bytes, field: str) -> bytes | Malformed:
    try:
        record = json.loads(line)
    except UnicodeDecodeError:
        return Malformed("not UTF-8", repr(line[:_SHOWN]))
    except (ValueError, RecursionError):
        return Malformed("not JSON", line[: 4 * _SHOWN].decode(errors="replace")[:_SHOWN])
    if not isinstance(record, dict):
        return Malformed("no JSON object", line[: 4 * _SHOWN].decode(errors="replace")[:_SHOWN])
    return _text(record.get(field), field, record)


# --- the rest -------------------------------------------------------------------------------------------------------


def _parquet(path: str, field: str) -> Iterator[bytes | Malformed]:
    # A local path as it is, which pyarrow reads without Python. A bucket through the one client that this project has for them.
    client = filesystem(path) if in_bucket(path) else None
    with pyarrow.parquet.ParquetFile(path.removeprefix(BUCKET), filesystem=client) as file:
        names = file.schema_arrow.names
        if field not in names:
            shown = "columns: " + ", ".join(names)
            yield from (Malformed(f"no field {field!r}", shown) for _ in range(file.metadata.num_rows))
            return
        for batch in file.iter_batches(_BATCH, columns=[field]):
            for value in batch.column(0).to_pylist():
                yield _text(value, field, "null" if value is None else value)


def _array_record(path: str, field: str) -> Iterator[bytes | Malformed]:
    reader = array_record_module.ArrayRecordReader(path)
    try:
        total = reader.num_records()
        for start in range(0, total, _BATCH):
            for record in reader.read(range(start, min(start + _BATCH, total))):
                yield _example_text(record, field)
    finally:
        reader.close()


def _tfrecord(path: str, field: str) -> Iterator[bytes | Malformed]:
    compression = "GZIP" if path.endswith(".gz") else ""
    for record in tf.data.TFRecordDataset(path, compression).as_numpy_iterator():
        yield _example_text(record, field)


def _example_text(record: bytes, field: str) -> bytes | Malformed:
    try:
        features = tf.train.Example.FromString(record).features.feature
    except Exception:  # protobuf's DecodeError, whose module is private
        return Malformed("no tf.train.Example", repr(record[:_SHOWN]))
    if field not in features:
        return Malformed(f"no field {field!r}", "features: " + ", ".join(sorted(features)))
    values = features[field].bytes_list.value
    return _text(values[0] if len(values) == 1 else list(values), field, features[field])


_READERS = {
    ".jsonl": _json_lines, ".jsonl.gz": _json_lines, ".jsonl.zst": _json_lines, ".parquet": _parquet,
    ".array_record": _array_record, ".arrayrecord": _array_record, ".tfrecord": _tfrecord, ".tfrecord.gz": _tfrecord,
}  # fmt: skip
