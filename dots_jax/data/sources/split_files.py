"""Files that were cut into parts, as `split` does: `zh_cc.jsonl.gz.part00`, `zh_cc.jsonl.gz.part01`, ... are one file.

The first part stands for all of them: its path is the path of the file, and reading it goes on in the next part.
"""

import io
import re
from collections.abc import Iterable
from typing import BinaryIO

from dots_jax.config import UserError
from dots_jax.storage import FoundFile, find_files, open_file

_PART = re.compile(r"(.+)\.part[-_.]?(\d+)")


def plain_name(path: str) -> str:
    """The name that the file had before it was cut; others as they are."""
    found = _PART.fullmatch(path)
    return found[1] if found else path


def is_part(path: str) -> bool:
    return _PART.fullmatch(path) is not None


def with_parts_joined(files: Iterable[FoundFile]) -> list[FoundFile]:
    """Every file once: of one in parts the first, with the size of all and the newest time.

    Raises UserError for a part that is missing in between; one that is missing at the end shows when the file is read.
    """
    uncut, parts = [], {}
    for file in files:
        if is_part(file.path):
            parts.setdefault(plain_name(file.path), []).append(file)
        else:
            uncut.append(file)
    return sorted(uncut + [_joined(name, found) for name, found in parts.items()])


def _number(path: str) -> int:
    return int(_PART.fullmatch(path)[2])


def _joined(name: str, parts: list[FoundFile]) -> FoundFile:
    parts = sorted(parts, key=lambda part: _number(part.path))
    numbers = [_number(part.path) for part in parts]
    missing = sorted(set(range(min(1, numbers[0]), numbers[-1] + 1)) - set(numbers))
    if missing or len(set(numbers)) < len(numbers):
        wrong = f"part {missing[0]} is missing" if missing else "a part is there twice"
        raise UserError(f"{name} is cut into parts, of which {len(parts)} are there, and {wrong}: bring all of them.")
    return FoundFile(parts[0].path, sum(part.size for part in parts), max(part.modified for part in parts))


def parts_of(path: str) -> list[FoundFile]:
    """The parts of the file whose first part this is, in their order."""
    name = plain_name(path)
    found = [file for file in find_files(re.sub(r"([*?\[])", r"[\1]", name) + ".part*") if is_part(file.path)]
    _joined(name, found or [FoundFile(path, 0, 0)])
    return sorted(found, key=lambda part: _number(part.path))


def open_joined(path: str) -> BinaryIO:
    """The bytes of a file, all its parts one after the other. Raises UserError for one that is missing or forbidden."""
    if not is_part(path):
        return open_file(path)
    return io.BufferedReader(_Joined(parts_of(path)))


class _Joined(io.RawIOBase):
    """Reads from front to end, and tells its size."""

    def __init__(self, parts: list[FoundFile]):
        self._parts, self._at, self._file, self._position = parts, 0, None, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = sum(part.size for part in self._parts)
        target = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: size}[whence]
        self._close_part()
        self._at, before = 0, 0
        while self._at < len(self._parts) and before + self._parts[self._at].size <= target:
            before += self._parts[self._at].size
            self._at += 1
        if self._at < len(self._parts):
            self._file = open_file(self._parts[self._at].path)
            self._file.seek(target - before)
        self._position = target
        return target

    def readinto(self, buffer) -> int:
        while self._at < len(self._parts):
            self._file = self._file or open_file(self._parts[self._at].path)
            data = self._file.read(len(buffer))
            if data:
                buffer[: len(data)] = data
                self._position += len(data)
                return len(data)
            self._close_part()
            self._at += 1
        return 0

    def _close_part(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        self._close_part()
        super().close()
