"""Lists of values that a source leaves out: URLs, ids, hashes, one a line, in text files that may be compressed.

A list is kept as the first 64 bits of a hash of each value, sorted: 8 bytes a value, and one document in 2**64 / len(list) is
left out by chance.
"""

import functools
import hashlib
from collections.abc import Iterator

import numpy as np

from dots_jax.config import UserError
from dots_jax.data.sources.content import checksum
from dots_jax.data.sources.json_lines import ByteStream
from dots_jax.storage import FoundFile, find_files


class ExcludeList:
    """The values of the files that a glob names."""

    def __init__(self, pattern: str):
        self._hashes = _hashes(tuple(_files(pattern)))

    def __contains__(self, value: object) -> bool:
        key = _key(value if isinstance(value, bytes) else str(value).encode(errors="replace"))
        place = int(np.searchsorted(self._hashes, np.uint64(key)))
        return place < len(self._hashes) and int(self._hashes[place]) == key


def content_of(pattern: str) -> str:
    """A hash of all that the lists hold: another list makes another cache."""
    return hashlib.sha256(repr([_sha256(file) for file in _files(pattern)]).encode()).hexdigest()[:16]


def _files(pattern: str) -> list[FoundFile]:
    found = find_files(pattern)
    if not found:
        raise UserError(
            f"No file matches {pattern!r}, where Source.exclude says that a list is: bring it; a token cache belongs to its "
            "lists, so that the machine that trains needs them too."
        )
    return found


@functools.lru_cache(1024)
def _sha256(file: FoundFile) -> str:
    return checksum(file.path).sha256


@functools.lru_cache(16)
def _hashes(files: tuple[FoundFile, ...]) -> np.ndarray:
    keys = np.fromiter((_key(line) for file in files for line in _lines(file.path)), np.uint64)
    return np.unique(keys)


def _lines(path: str) -> Iterator[bytes]:
    pending = b""
    with ByteStream(path) as stream:
        for block in stream.blocks():
            *lines, pending = (pending + block).split(b"\n")
            yield from (line.strip() for line in lines if line.strip())
        if stream.broken:
            raise stream.damaged(stream.broken)
    if pending.strip():
        yield pending.strip()


def _key(value: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "little")
