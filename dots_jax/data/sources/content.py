"""What a file holds, as the checksum of all its bytes says, and when it was changed, as its storage says."""

import concurrent.futures
import hashlib
import os
import stat
import time
from collections.abc import Iterable
from typing import NamedTuple

from dots_jax.config import UserError
from dots_jax.data.sources.split_files import is_part, open_joined, parts_of, with_parts_joined
from dots_jax.storage import FoundFile, first_line, in_bucket, source_filesystem

_THREADS = 8  # of checksums: hashing and reading both let other threads run
_RECENT_SECONDS = 2  # clocks of file systems tick in up to two seconds


class Content(NamedTuple):
    """What a file held when all of it was read. modified: as in storage.FoundFile; 0 if it may have changed since in the same
    tick of the clock, so that only the checksum tells. spans: bytes (begin, end) that were read one by one, so that sha256 is
    `combined` of theirs, or of the only one; empty: all bytes in one go."""

    size: int
    modified: float
    sha256: str
    spans: tuple[tuple[int, int], ...] = ()


def combined(checksums: list[str]) -> str:
    """The checksum of a file that was read in parts, of those of its parts."""
    return checksums[0] if len(checksums) == 1 else hashlib.sha256("".join(checksums).encode()).hexdigest()


def look_at(path: str) -> FoundFile:
    """Size and time of a file. Raises UserError for what is none, or is not there."""
    if is_part(path):
        return with_parts_joined(parts_of(path))[0]
    try:
        if in_bucket(path):
            found = source_filesystem(path).info(path)
            return FoundFile(path, found["size"], found["mtime"].timestamp())
        found = os.stat(path)
    except FileNotFoundError:
        raise UserError(f"{path} cannot be read: No such file or directory.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or first_line(error)}.") from error
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is no plain file: give files of records.")
    return FoundFile(path, found.st_size, found.st_mtime)


def checksum(path: str, spans: tuple[tuple[int, int], ...] = ()) -> Content:
    """Of all bytes, or of these. Raises UserError for a file that cannot be read, or changes meanwhile."""
    before, found = look_at(path), []
    with open_joined(path) as file:
        try:
            for begin, end in spans or ((0, before.size),):
                digest = hashlib.sha256()
                file.seek(begin)
                while block := file.read(min(1 << 20, end - begin)):
                    digest.update(block)
                    begin += len(block)
                found.append(digest.hexdigest())
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or first_line(error)}.") from error
    return unchanged_since(before, combined(found))._replace(spans=spans)


def unchanged_since(before: FoundFile, digest: str) -> Content:
    """What was read of a file since `before`. Raises UserError if it has changed meanwhile."""
    if look_at(before.path) != before:
        raise UserError(f"{before.path} changed while it was read: start again when nothing writes to it any more.")
    settled = time.time() - before.modified > _RECENT_SECONDS
    return Content(before.size, before.modified if settled else 0, digest)


def checksums(files: Iterable[tuple[str, tuple[tuple[int, int], ...]]]) -> list[Content]:
    """Of each (path, spans), several at a time."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda file: checksum(*file), files))
