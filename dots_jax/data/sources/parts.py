"""Large files in parts, each one worker's piece: JSON lines by byte ranges, Parquet by row groups.

Where a file is cut depends on its bytes and PART_BYTES alone. The parts follow each other and cover all bytes, so that their
checksums together are one of the file. Compressed files, ArrayRecord and TFRecord stay in one part: where a record begins in
them is known only to who has read what stands before it.
"""

import bisect
import concurrent.futures
import io
from collections.abc import Iterable, Sequence

import pyarrow
import pyarrow.parquet

from dots_jax.data.sources.json_lines import ByteStream
from dots_jax.storage import open_file

PART_BYTES = 128 << 20  # of a file; a Parquet part is in memory while it is read
READ_TWICE_BYTES = 512 << 20  # a Parquet part with a row group above this is not held in memory but read a second time
_THREADS = 16  # that read footers

Span = tuple[int, int]  # bytes begin <= i < end of a file


def spans_of(files: Iterable[tuple[str, int]]) -> list[tuple[Span, ...]]:
    """Of each (path, size) its parts, empty for a file that stays in one. Opens Parquet files above PART_BYTES."""
    files = list(files)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        waiting = [
            pool.submit(_parquet_spans, path, size) if path.endswith(".parquet") and size > PART_BYTES else None
            for path, size in files
        ]
        return [one.result() if one else _line_spans(path, size) for one, (path, size) in zip(waiting, files)]


def number_of_parts(path: str, size: int) -> int:
    """About how many parts a file has, by its size alone."""
    return max(1, -(-size // PART_BYTES)) if path.endswith((".jsonl", ".parquet")) else 1


def _line_spans(path: str, size: int) -> tuple[Span, ...]:
    if not path.endswith(".jsonl") or size <= PART_BYTES:
        return ()
    number = -(-size // PART_BYTES)
    edges = [size * i // number for i in range(number + 1)]
    return tuple(zip(edges, edges[1:]))


def _parquet_spans(path: str, size: int) -> tuple[Span, ...]:
    """Row groups together until they have PART_BYTES."""
    try:
        with open_file(path) as file:
            starts = group_starts(pyarrow.parquet.ParquetFile(file).metadata)
    except (pyarrow.ArrowException, OSError, ValueError):
        return ()  # who reads it says what is wrong
    edges = [0]
    for start in starts[1:]:
        if start - edges[-1] >= PART_BYTES:
            edges.append(start)
    edges.append(size)
    return tuple(zip(edges, edges[1:])) if len(edges) > 2 else ()


def group_starts(metadata: pyarrow.parquet.FileMetaData) -> list[int]:
    """The first byte of each row group. Raises ValueError for groups that do not follow each other."""
    starts = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(i) for i in range(group.num_columns)]
        # A dictionary page stands before the data pages; an offset of 0 means that there is none.
        starts.append(min(c.dictionary_page_offset or c.data_page_offset for c in columns) if columns else 0)
    if starts != sorted(starts):
        raise ValueError("row groups in another order than their bytes")
    return starts


def groups_of(metadata: pyarrow.parquet.FileMetaData, span: Span | None) -> tuple[list[int], int]:
    """(the row groups of a part, rows before them)."""
    if span is None:
        return list(range(metadata.num_row_groups)), 0
    starts = group_starts(metadata)
    starts[:1] = [0] * len(starts[:1])  # what stands before the first group belongs to it
    first, last = (bisect.bisect_left(starts, edge) for edge in span)
    return list(range(first, last)), sum(metadata.row_group(i).num_rows for i in range(first))


def read_once(path: str, digest, span: Span | None) -> io.RawIOBase | None:
    """A part of a Parquet file in memory, as a file in which all others of its bytes can be read too. digest: gets the part.
    None if the part is too large for that: then the digest has it all the same."""
    with ByteStream(path, digest, span) as stream:
        begin, end = span or (0, stream.size)
        blocks = stream.blocks()
        if end - begin > READ_TWICE_BYTES:
            next(blocks, None)  # a pointer of git; leaving the block reads the rest
            return None
        data = bytearray()
        for block in blocks:
            data += block
    return _InMemory(path, stream.size, begin, data)


class _InMemory(io.RawIOBase):
    """A file of which a part is in memory; the rest is read where it is, from one opening."""

    def __init__(self, path: str, size: int, begin: int, data: bytearray):
        self._path, self._size, self._begin, self._data = path, size, begin, memoryview(data)
        self._position, self._file = 0, None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer) -> int:
        at = self._position - self._begin
        if 0 <= at < len(self._data):
            found: Sequence[int] = self._data[at : at + len(buffer)]
        else:
            if self._file is None:
                self._file = open_file(self._path)
            self._file.seek(self._position)
            found = self._file.read(len(buffer))
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)

    def read(self, size: int = -1) -> bytes:
        size = self._size - self._position if size is None or size < 0 else size
        parts = []
        while size > 0 and (part := super().read(size)):
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()
