"""JSON lines, the one form of records that a person writes: the rules of all that reads them. Standard library alone, and
zstandard for .zst.

    one JSON value a line, in UTF-8 with or without a byte order mark, with LF or CR LF; blank lines are no records;
    *.jsonl as it is, *.jsonl.gz, .zst, .zstd and .xz compressed, in one frame or many;
    *.json and the same compressed: JSON lines too, or one array, of which each element is a record

A line that is no JSON is a `Malformed` in its place, with its number, and what follows is still read. A file that breaks off
raises `DamagedFile`: what is behind that place is lost.
"""

import codecs
import itertools
import json
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from dots_jax.config import UserError
from dots_jax.data.sources.split_files import open_joined, plain_name

COMPRESSIONS = (".gz", ".zst", ".zstd", ".xz")
ENDINGS = (".jsonl", *(f".jsonl{ending}" for ending in COMPRESSIONS))
JSON_ENDINGS = (".json", *(f".json{ending}" for ending in COMPRESSIONS))
_LONGEST = 1 << 28  # characters of an array's element, so that a broken one does not fill the memory
_BLOCK = 1 << 18  # bytes read at once
_NOT_JSON, _NOT_UTF8 = "not JSON", "not UTF-8"
_SHOWN = 200  # characters of a malformed record that are kept
_POINTERS = {
    b"version https://git-lfs.github.com/spec/": "it is a Git LFS pointer and not the file itself: run `git lfs pull`",
    b"/annex/objects/": "it is a pointer of git-annex and not the file itself: run `git annex get`",
}


class Malformed(NamedTuple):
    """A record that cannot be used. reason: one of few, to be counted. shown: the beginning of the record.
    number: of its line, or else of the record in the file, from 1; 0 if unknown."""

    reason: str
    shown: str = ""
    number: int = 0


class DamagedFile(UserError):
    """A file that cannot be read to its end.

    Attributes: path; reason; lost_bytes: that are here and gave no record; what is missing cannot be counted;
    size: of the file, in bytes.
    """

    def __init__(self, path: str, reason: str, lost_bytes: int, size: int):
        self.path, self.reason, self.lost_bytes, self.size = path, reason, lost_bytes, size
        super().__init__(f"{path} cannot be read to its end ({reason}): bring the file again, or leave it out.")

    def __reduce__(self):
        return type(self), (self.path, self.reason, self.lost_bytes, self.size)


class ByteStream:
    """The bytes of a file, decompressed by the ending of its name, from front to end.

    digest: of hashlib; it gets all bytes of the file as it is on the disk, also those behind a damage. span: of a file that
    is not compressed, only its bytes begin <= i < end.
    Use as a context manager: damage and trouble inside the block become DamagedFile and UserError.

    Attributes: path; size: of the file, in bytes; broken: after the last block, why the file ends too early, or "".
    """

    def __init__(self, path: str, digest=None, span: tuple[int, int] | None = None):
        self.path, self.broken = path, ""
        self._file, self._digest = open_joined(path), digest
        self.size = self._file.seek(0, os.SEEK_END)
        self._begin, self._end = span or (0, self.size)
        self._file.seek(self._begin)
        self._position = self._piece = self._begin  # in the file, behind what was read, and before the last piece

    def __enter__(self) -> "ByteStream":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None or issubclass(kind, DamagedFile):
                self._drain()
            elif issubclass(kind, OSError):
                raise UserError(f"{self.path} cannot be read: {error.strerror or error}.") from None
        finally:
            self._file.close()

    def damaged(self, reason: object, lost_bytes: int | None = None) -> DamagedFile:
        """lost_bytes: if not all that follows the last piece that was right."""
        reason = " ".join(str(reason).split()).rstrip(".")[:_SHOWN]
        return DamagedFile(self.path, reason, self.size - self._piece if lost_bytes is None else lost_bytes, self.size)

    def blocks(self) -> Iterator[bytes]:
        """Raises DamagedFile for what is no longer the format."""
        first = self._read()
        for pointer, reason in _POINTERS.items():
            if first.startswith(pointer):
                raise self.damaged(reason, _size_in_pointer(first) or self.size)
        name = plain_name(self.path)
        if name.endswith(COMPRESSIONS) and not first:
            raise self.damaged("it is empty, which a compressed file never is")
        if name.endswith(".gz"):
            yield from self._frames(first, lambda: zlib.decompressobj(wbits=31), zlib.error, "gzip member")
        elif name.endswith(".xz"):
            yield from self._frames(first, lzma.LZMADecompressor, lzma.LZMAError, "xz stream")
        elif name.endswith((".zst", ".zstd")):
            import zstandard  # not needed by who reads no .zst

            decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)  # `zstd --long=31` too
            yield from self._frames(first, decompressor.decompressobj, zstandard.ZstdError, "zstd frame")
        else:
            while first:
                yield first
                first = self._read()

    def _frames(self, data: bytes, new: Callable, error_type: type[Exception], what: str) -> Iterator[bytes]:
        """The text of one frame or more. The libraries' own readers take a file that breaks off for a complete one."""
        frame, inside, padded = new(), False, what != "zstd frame"  # gzip and xz files may be filled up with zeros
        while data:
            while data:
                try:
                    text = frame.decompress(data)
                except error_type as error:
                    behind = not inside and padded and self._position > len(data)
                    raise self.damaged(f"behind its last {what} stands something else" if behind else error) from None
                yield text
                data, inside = frame.unused_data, not frame.eof
                if frame.eof:
                    frame = new()
                    data = data.lstrip(b"\0") if padded else data
            data = self._read()
            if padded and not inside:
                while data and not data.strip(b"\0"):
                    data = self._read()
                data = data.lstrip(b"\0")
        if inside:
            self.broken = f"it ends inside {'an' if what[0] == 'x' else 'a'} {what}"

    @property
    def position(self) -> int:
        """Bytes of the file in front of what is read next."""
        return self._position

    def lines_begun(self) -> Iterator[bytes]:
        """Blocks of the lines that begin inside the span; the last of them may go on behind it."""
        self._file.seek(max(0, self._begin - 1))
        inside, last = self._begin == 0 or self._file.read(1) == b"\n", b""
        for block in self.blocks():
            last = block[-1:]
            if not inside:
                place = block.find(b"\n")
                inside, block = place >= 0, block[place + 1 :] if place >= 0 else b""
            yield block
        while inside and last not in (b"", b"\n") and (block := self._file.read(_BLOCK)):
            place = block.find(b"\n")
            yield block[: place + 1] if place >= 0 else block
            last = b"" if place >= 0 else last

    def _read(self) -> bytes:
        self._piece = self._position
        data = self._file.read(min(_BLOCK, max(0, self._end - self._position)))
        self._position += len(data)
        if self._digest is not None:
            self._digest.update(data)
        return data

    def _drain(self) -> None:
        while self._digest is not None and self._read():
            pass


def _size_in_pointer(begins: bytes) -> int:
    words = begins.split()
    return int(words[words.index(b"size") + 1]) if b"size" in words[:-1] else 0


# --- lines ------------------------------------------------------------------------------------------------------------


def _lines(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """(line, whether it is closed by an LF)."""
    pending = []  # pieces of one line, joined once: a line may be longer than many blocks
    for block in blocks:
        first, *others = block.split(b"\n")
        pending.append(first)
        if others:
            yield b"".join(pending), True
            for line in others[:-1]:
                yield line, True
            pending = others[-1:]
    yield b"".join(pending), False


def read_rows(
    path: str | os.PathLike, digest=None, span: tuple[int, int] | None = None, decoder=None
) -> Iterator[tuple[int, object]]:
    """(number of the line from 1, its JSON value or a Malformed) of every line that is not blank.

    span: only the lines that begin in these bytes of a file that is not compressed, numbered from the first of them.
    decoder: has `decode`, `raw_decode` and `twice`, a key that stands twice in an object: then the record is malformed.

    Raises UserError for a file that cannot be opened, DamagedFile for one that cannot be read to its end: also one whose last
    line has no line end and is no JSON.
    """
    with ByteStream(str(path), digest, span) as stream:
        yield from _rows(stream, stream.lines_begun() if span else stream.blocks(), decoder)


def _rows(stream: ByteStream, blocks: Iterable[bytes], decoder=None) -> Iterator[tuple[int, object]]:
    for number, (line, closed) in enumerate(_lines(blocks), start=1):
        if stream.broken and not closed:
            raise stream.damaged(stream.broken, len(line))
        if not line.strip():
            continue
        row = parse(line, decoder)
        if isinstance(row, Malformed):
            if not closed and row.reason in (_NOT_JSON, _NOT_UTF8):
                raise stream.damaged(f"its last line, {number}, breaks off", len(line))
            row = row._replace(number=number)
        yield number, row


# --- arrays -----------------------------------------------------------------------------------------------------------


def read_json(path: str | os.PathLike, digest=None, decoder=None) -> Iterator[tuple[int, object]]:
    """(number from 1, JSON value or a Malformed) of a .json file: of each element of its array, or of each line.

    Raises as read_rows does. An array is read piece by piece: memory holds its longest element.
    """
    with ByteStream(str(path), digest) as stream:
        blocks, head = stream.blocks(), b""
        while not (begin := head.removeprefix(codecs.BOM_UTF8).lstrip()) and (block := next(blocks, None)) is not None:
            head += block
        rest = itertools.chain([head], blocks)
        if begin.startswith(b"["):
            yield from enumerate(_elements(stream, rest, decoder), start=1)
        else:
            yield from ((number, row) for number, (_, row) in enumerate(_rows(stream, rest, decoder), start=1))


_BLANK = re.compile(r"\s*")


def _elements(stream: ByteStream, blocks: Iterable[bytes], decoder=None) -> Iterator[object]:
    text, at, found, more = "", 0, 0, True
    pieces = codecs.iterdecode(blocks, "utf-8-sig")
    scan = (decoder or json.JSONDecoder()).raw_decode

    def refill() -> bool:
        """Doubles what is in memory at least, so that a long element is not scanned again for each block."""
        nonlocal text, at, more
        parts, size = [text[at:]], len(text) - at
        wanted = max(_BLOCK, 2 * size)
        while more and size < wanted:
            try:
                piece = next(pieces, None)
            except UnicodeDecodeError:
                raise stream.damaged(f"it is not UTF-8 behind record {found}") from None
            more = piece is not None
            parts.append(piece or "")
            size += len(piece or "")
        text, at, grown = "".join(parts), 0, size > len(parts[0])
        return grown

    def next_sign() -> str:
        nonlocal at
        while (at := _BLANK.match(text, at).end()) == len(text):
            if not refill():
                raise stream.damaged(stream.broken or f"its array ends behind record {found} without a bracket")
        return text[at]

    next_sign()
    at += 1  # the bracket
    while next_sign() != "]":
        while True:
            try:
                value, end = scan(text, at)
                end = _BLANK.match(text, end).end()
            except (ValueError, RecursionError):
                end = 0
            if 0 < end < len(text):  # else a number may go on in the next block
                break
            if len(text) - at > _LONGEST or not refill():
                if end:
                    break
                raise stream.damaged(stream.broken or f"record {found + 1} of its array is no JSON or breaks off")
        at, found = end, found + 1
        twice = decoder.twice if decoder else ""
        yield _twice(twice, value) if twice else value
        if next_sign() == ",":
            at += 1
        elif text[at] != "]":
            raise stream.damaged(f"behind record {found} of its array stands no comma")


def _twice(key: str, row: object) -> Malformed:
    return Malformed("a key stands twice in an object", f"{key!r} in {json.dumps(row, ensure_ascii=False)}"[:_SHOWN])


def parse(line: bytes, decoder=None) -> object:
    """The JSON value of a line; a Malformed if it has none. decoder: as read_rows has it."""
    try:
        row = decoder.decode(line) if decoder else json.loads(line)
        return _twice(decoder.twice, row) if decoder and decoder.twice else row
    except UnicodeDecodeError:
        return Malformed(_NOT_UTF8, repr(line[:_SHOWN]))
    except json.JSONDecodeError:
        return Malformed(_NOT_JSON, _shown(line))
    except (ValueError, RecursionError):
        return Malformed("JSON with a number or a nesting too long", _shown(line))


def _shown(line: bytes) -> str:
    return line[: 4 * _SHOWN].decode(errors="replace")[:_SHOWN]
