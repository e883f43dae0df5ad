"""The bytes of an archive from front to end, decompressed, with the place of each and what is damaged.

The libraries that read WARC end a truncated gzip file in silence, and lose the rest of a file after one bad record. Here a
damage is a `Damage` in its place, and reading goes on at the next gzip member.
"""

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from dots_jax.storage import open_file

BLOCK = 1 << 18  # bytes read at once
_MEMBER = b"\x1f\x8b\x08"


class Block(NamedTuple):
    """data: decompressed. offset: in the file, of the data (plain) or of its gzip member."""

    data: bytes
    offset: int
    plain: bool = False


class Damage(Exception):
    """reason: one of few, to be counted. kept: what was read before it."""

    def __init__(self, reason: str, detail: str, offset: int, kept: bytes = b""):
        super().__init__(reason)
        self.reason, self.detail, self.offset, self.kept = reason, detail, offset, kept


def blocks(path: str) -> Iterator[Block | Damage]:
    """Of a plain or gzip file; a Damage stands where bytes are lost."""
    with open_file(path) as file:
        first = file.read(BLOCK)
        if first.startswith(_MEMBER):
            yield from _members(file, first)
            return
        position = 0
        while first:
            yield Block(first, position, plain=True)
            position += len(first)
            first = file.read(BLOCK)


def _members(file, data: bytes) -> Iterator[Block | Damage]:
    """One gzip member after the other; behind a damaged one, the next that begins with gzip's mark."""
    position, start = 0, 0  # of `data` and of the member, in the file
    member, broken, inside = zlib.decompressobj(wbits=31), False, False
    while True:
        if broken:
            found = data.find(_MEMBER)
            if found < 0 and len(data) > 2:
                position, data = position + len(data) - 2, data[-2:]  # the mark may be cut in two
        elif not data.strip(b"\0") and not inside:
            position, data = position + len(data), b""  # files may be filled up with zeros
        if not data or (broken and found < 0):
            more = file.read(BLOCK)
            if not more:
                break
            data += more
            continue
        if broken:
            position, data = position + found, data[found:]
            start, member, broken = position, zlib.decompressobj(wbits=31), False
        try:
            text = member.decompress(data, BLOCK)
        except zlib.error as error:
            yield Damage("damaged gzip", str(error), start)
            position, data, broken, inside = position + 1, data[1:], True, False
            continue
        inside = True
        rest = member.unused_data if member.eof else member.unconsumed_tail
        position, data = position + len(data) - len(rest), rest
        if text:
            yield Block(text, start)
        if member.eof:
            start, member, inside = position, zlib.decompressobj(wbits=31), False
    if inside:
        yield Damage("truncated file", "it ends inside a gzip member", start)


class Feed:
    """Lines and counts of bytes out of blocks. A Damage is raised or returned once, and reading goes on behind it."""

    def __init__(self, source: Iterator[Block | Damage]):
        self._source, self._buffer = source, bytearray()
        self._marks: list[tuple[int, int, bool]] = []  # (index in the buffer, offset, plain) where blocks begin
        self._damage: Damage | None = None

    def offset(self) -> int:
        """Of the next byte: in a plain file its own, in a .gz that of its member."""
        if not self._buffer:
            self._fill()
        index, offset, plain = next((mark for mark in reversed(self._marks) if mark[0] <= 0), (0, 0, False))
        return offset - index if plain else offset

    def peek(self, number: int) -> bytes:
        while len(self._buffer) < number and self._fill():
            pass
        return bytes(self._buffer[:number])

    def line(self, limit: int = 1 << 16) -> bytes:
        """With its line end; b"" at the end of the file or at a damage. Longer ones come in parts."""
        searched = 0
        while (found := self._buffer.find(b"\n", searched, limit)) < 0:
            searched = len(self._buffer)
            if searched >= limit or not self._fill():
                break
        return self._take(found + 1 if found >= 0 else min(len(self._buffer), limit))

    def read(self, number: int, keep: int) -> bytes:
        """The next `number` bytes, of which no more than `keep` are held in memory and returned.

        Raises Damage if the file ends or is damaged before.
        """
        kept, left = bytearray(), number
        while left:
            if not self._buffer and not self._fill():
                damage = self.damage() or Damage(
                    "truncated file", f"{left:,} bytes of a record are missing", self.offset()
                )
                damage.kept = bytes(kept)
                raise damage
            part = self._take(min(left, len(self._buffer)))
            left -= len(part)
            kept += part[: max(keep - len(kept), 0)]
        return bytes(kept)

    def unread(self, data: bytes, offset: int) -> None:
        """Puts bytes back in front of the next one."""
        plain = self._marks[0][2] if self._marks else True
        self._buffer[:0] = data
        self._marks = [(0, offset, plain), *((index + len(data), *rest) for index, *rest in self._marks)]

    def seek(self, marks: tuple[bytes, ...]) -> None:
        """Drops bytes until one of the marks begins a line or a block behind a damage, or to the end."""
        while True:
            found = [place + 1 for mark in marks if (place := self._buffer.find(b"\n" + mark)) >= 0]
            if found:
                self._take(min(found))
                return
            if not self._fill():
                self._take(len(self._buffer))
                return
            if len(self._buffer) > 4 * BLOCK:
                self._take(len(self._buffer) - 64)

    def damage(self) -> Damage | None:
        """The damage that stands at the end of the buffer, once."""
        damage, self._damage = (None, self._damage) if self._buffer else (self._damage, None)
        return damage

    def _fill(self) -> bool:
        """Another block. False at the end, and at a damage until it was taken."""
        block = None if self._damage else next(self._source, None)
        if isinstance(block, Damage):
            self._damage, block = block, None
        if block is None:
            return False
        self._marks.append((len(self._buffer), block.offset, block.plain))
        self._buffer += block.data
        return True

    def _take(self, number: int) -> bytes:
        data = bytes(self._buffer[:number])
        del self._buffer[:number]
        marks = [(index - number, *rest) for index, *rest in self._marks]
        while len(marks) > 1 and marks[1][0] <= 0:
            marks.pop(0)
        self._marks = marks
        return data
