"""The HTTP message in a WARC record: status, headers, and the body without transfer and content encoding, bounded.

Every decompression stops at a limit, so that a bomb costs no more than a page. A header that is wrong (a body that is not
chunked, not compressed) gives the body as it is, since archives store what they unpacked under the old headers.
"""

import re
import zlib
from typing import NamedTuple

_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? +(\d{3})", re.I)
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
_HEADER_BYTES = 1 << 16


class TooLarge(Exception):
    """A body above the limit."""


class Message(NamedTuple):
    status: int  # 0 if the block has no status line
    headers: dict[str, str]  # names in lower case; of two with one name the first
    body: bytes


def parse(block: bytes, limit: int) -> Message:
    """Raises TooLarge for a body of more than `limit` bytes after decompression."""
    first = _STATUS.match(block)
    if not first:
        return Message(0, {}, block)
    ends = [(found.start(), found.end()) for found in (re.search(rb"\r?\n\r?\n", block[:_HEADER_BYTES]),) if found]
    stop, start = ends[0] if ends else (len(block), len(block))
    headers = parse_headers(block[:stop].split(b"\n")[1:])
    body = block[start:]
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = unchunk(body)
    for coding in reversed(headers.get("content-encoding", "").lower().split(",")):
        body = decompress(body, coding.strip(), limit)
    if len(body) > limit:
        raise TooLarge
    return Message(int(first[1]), headers, body)


def parse_headers(lines: list[bytes]) -> dict[str, str]:
    """Names in lower case. A line that begins with a space continues the one before."""
    headers: dict[str, str] = {}
    last = ""
    for line in lines:
        text = line.rstrip(b"\r\n").decode("utf-8", "replace")
        if text[:1] in " \t" and last:
            headers[last] += " " + text.strip()
            continue
        name, colon, value = text.partition(":")
        if colon:
            last = name.strip().lower()
            headers.setdefault(last, value.strip())
    return headers


def unchunk(body: bytes) -> bytes:
    """The body of chunks; as it is if it does not begin with one, and with its rest as it is where the chunks break off."""
    parts, position = [], 0
    while found := _CHUNK.match(body, position):
        size, start = int(found[1], 16), found.end()
        if size == 0:
            return b"".join(parts)
        if start + size > len(body):
            if position == 0:
                return body  # a text that happens to begin like a chunk
            return b"".join([*parts, body[start:]])
        parts.append(body[start : start + size])
        position = start + size
        position += 2 if body[position : position + 2] == b"\r\n" else body[position : position + 1] == b"\n"
    return b"".join([*parts, body[position:]])


def decompress(body: bytes, coding: str, limit: int) -> bytes:
    """Raises TooLarge above the limit; what is not in that coding comes back as it is, what breaks off as far as it goes."""
    if coding in ("gzip", "x-gzip"):
        return _zlib(body, 31, limit) if body[:2] == b"\x1f\x8b" else body
    if coding == "deflate":
        found = _zlib(body, 15, limit)
        return found if found is not body else _zlib(body, -15, limit)
    if coding == "br":
        return _brotli(body, limit)
    if coding == "zstd":
        return _zstd(body, limit)
    return body


def _zlib(body: bytes, wbits: int, limit: int) -> bytes:
    parts, total = [], 0
    while body:
        decoder = zlib.decompressobj(wbits=wbits)
        try:
            part = decoder.decompress(body, limit + 1 - total)
        except zlib.error:
            return b"".join(parts) if parts else body
        parts.append(part)
        total += len(part)
        if total > limit:
            raise TooLarge
        body = decoder.unused_data if wbits == 31 and decoder.unused_data[:2] == b"\x1f\x8b" else b""
    return b"".join(parts)


def _brotli(body: bytes, limit: int) -> bytes:
    import brotli

    decoder, parts, total, data = brotli.Decompressor(), [], 0, body
    try:
        while True:
            part = decoder.process(data, output_buffer_limit=1 << 20)
            parts.append(part)
            total += len(part)
            if total > limit:
                raise TooLarge
            if decoder.is_finished() or (decoder.can_accept_more_data() and not part):
                break
            data = b""
    except brotli.error:
        return b"".join(parts) if any(parts) else body
    return b"".join(parts) if any(parts) else body


def _zstd(body: bytes, limit: int) -> bytes:
    import io

    import zstandard

    try:
        found = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(body), read_across_frames=True).read(limit + 1)
    except zstandard.ZstdError:
        return body
    if len(found) > limit:
        raise TooLarge
    return found
