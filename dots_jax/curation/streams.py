"""Runs of JSON lines on disk: sorted by (key, line), cut into partitions, each partition a zstd frame with a checksum.

A run holds what one unit of work wrote. Partition p of all runs, merged, is the same sequence of lines however the input was
cut into files and in whatever order units ran. A merge holds the compressed partition in memory.
"""

import heapq
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import zstandard

from dots_jax.config import UserError
from dots_jax.storage import atomic_write

RUN_BYTES = 64 << 20  # of lines in memory before they become a run


class Slice(NamedTuple):
    """One partition of a run: bytes [start, end) of the file."""

    start: int
    end: int
    crc32: int
    lines: int


def partition_of(key: int, partitions: int) -> int:
    """Equal ranges of the 64-bit keys."""
    return key * partitions >> 64


class RunWriter:
    """Collects (key, line) and writes `<stem>-000.zst`, `<stem>-001.zst`, ...; `close` returns [(file name, slices), ...]."""

    def __init__(self, stem: Path, partitions: int):
        self._stem, self._partitions = stem, partitions
        self._lines: list[tuple[int, bytes]] = []
        self._bytes = 0
        self._runs: list[tuple[str, list[Slice]]] = []

    def add(self, key: int, line: bytes) -> None:
        self._lines.append((key, line))
        self._bytes += len(line)
        if self._bytes >= RUN_BYTES:
            self._flush()

    def close(self) -> list[tuple[str, list[Slice]]]:
        self._flush()
        return self._runs

    def _flush(self) -> None:
        if not self._lines:
            return
        self._lines.sort()
        parts: list[list[bytes]] = [[] for _ in range(self._partitions)]
        for key, line in self._lines:
            parts[partition_of(key, self._partitions)].append(line)
        name = f"{self._stem.name}-{len(self._runs):03d}.zst"
        slices, position = [], 0
        with atomic_write(self._stem.with_name(name), "wb") as file:
            for part in parts:
                data = compress(part) if part else b""
                file.write(data)
                slices.append(Slice(position, position + len(data), zlib.crc32(data), len(part)))
                position += len(data)
        self._runs.append((name, slices))
        self._lines, self._bytes = [], 0


def compress(lines: Iterable[bytes]) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(b"".join(line + b"\n" for line in lines))


def merge(runs: Sequence[tuple[Path, Slice]], key_of_line) -> Iterator[tuple[int, bytes]]:
    """(key, line) of one partition of many runs, in order. key_of_line: from a line to the key it was added with."""
    return heapq.merge(*(_read(path, part, key_of_line) for path, part in runs if part.lines))


def _read(path: Path, part: Slice, key_of_line) -> Iterator[tuple[int, bytes]]:
    with open(path, "rb") as file:
        file.seek(part.start)
        data = file.read(part.end - part.start)
    if zlib.crc32(data) != part.crc32:
        raise UserError(f"{path} is damaged (its checksum differs): remove the output folder and start again.")
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data))
    for line in io.BufferedReader(reader, 1 << 16):
        line = line.rstrip(b"\n")
        yield key_of_line(line), line
