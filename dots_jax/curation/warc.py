"""Records of WARC, WET and ARC files, plain or gzip: pages, texts, and a reason for every record that is neither.

A bad record costs itself: reading goes on at the next line or gzip member that begins a record. Requests and metadata are no
pages; they are counted by their type, and have no row.
"""

import re
from collections import Counter
from collections.abc import Iterator

from dots_jax.config import InputConfig
from dots_jax.curation import http
from dots_jax.curation.feed import Damage, Feed
from dots_jax.curation.record import Document, Page, Read, Removal, clean, content_id

_WARC, _ARC = b"WARC/", b"filedesc://"
_HEADERS = 1 << 16  # bytes of HTTP headers above InputConfig.max_bytes
_ARC_LINE = re.compile(rb"(\S.*) (\S+) (\d{14}|\d{12}|\d{8}) (\S+)(?: .*)? (\d+)\s*$")
OTHER = ("warcinfo", "request", "metadata")  # records that are no pages


def read_warc(path: str, feed: Feed, config: InputConfig, others: Counter) -> Iterator[Read]:
    """others: gets the number of records that are no pages, by type."""
    for head in _heads(path, feed):
        if isinstance(head, Read):
            yield head
            continue
        start, line = head
        if not line.startswith(_WARC):
            yield _bad(path, start, f"a record begins with {line[:40]!r}")
            feed.seek((_WARC,))
            continue
        lines = list(iter(lambda: feed.line().rstrip(b"\r\n"), b""))
        headers = http.parse_headers(lines)
        length = headers.get("content-length", "")
        if not re.fullmatch(r"\d{1,15}", length):
            yield _bad(path, start, f"Content-Length is {length!r}")
            feed.seek((_WARC,))
            continue
        content_start = feed.offset()
        limit = config.max_bytes + _HEADERS
        try:
            block = feed.read(int(length), keep=limit)
        except Damage as damage:
            end = damage.kept.find(b"\n" + _WARC) + 1
            if end == 0:
                yield _lost(path, damage, headers)
                continue
            block = damage.kept[:end].rstrip(b"\r\n")  # the length was wrong, and ran over the records behind it
            feed.unread(damage.kept[end:], content_start)
            yield _bad(path, start, f"Content-Length {length} is longer than the record")
        else:
            if not _ends_here(feed):
                yield _bad(path, start, f"Content-Length {length} is not the record's length")
                block = _to_the_next(feed, block, limit, content_start)
        record = _record(headers, block, int(length) > limit, config, others)
        if record is not None:
            yield Read(record, path, start)


def _heads(path: str, feed: Feed) -> Iterator[tuple[int, bytes] | Read]:
    """(offset, first line) of every record, and the row of what a damage took. The caller reads the rest of a record before it
    asks for the next one."""
    while True:
        start = feed.offset()
        damage = feed.damage()
        line = b"" if damage else feed.line()
        if line.strip():
            yield start, line
        elif not line:
            damage = damage or feed.damage()
            if damage is None:
                return
            yield _lost(path, damage)


def _ends_here(feed: Feed) -> bool:
    following = feed.peek(4)
    return not following or following.startswith((b"\r\n\r\n", b"\n\n", b"\r\n", _WARC[:4]))


def _to_the_next(feed: Feed, block: bytes, limit: int, start: int) -> bytes:
    """The content of a record of a wrong length: up to the next record, which may begin inside the block."""
    end = block.find(b"\n" + _WARC) + 1
    if end:
        feed.unread(block[end:], start)
        return block[:end].rstrip(b"\r\n")
    parts, size = [block], len(block)
    while not feed.peek(len(_WARC)).startswith(_WARC) and (line := feed.line()):
        if size <= limit:
            parts.append(line)
        size += len(line)
    return b"".join(parts).rstrip(b"\r\n")


def _record(headers: dict[str, str], block: bytes, cut: bool, config: InputConfig, others: Counter):
    kind = headers.get("warc-type", "").lower()
    url = headers.get("warc-target-uri", "").strip().strip("<>")
    date = headers.get("warc-date", "")
    if kind in OTHER or kind == "continuation":
        others[kind] += 1
        return None
    id = headers.get("warc-record-id", "").strip() or content_id("record", url, date, block)
    row = lambda reason, **rest: Removal("page", "read", reason, id, clean(url), **rest)
    if kind == "revisit":
        return row("revisit")
    if kind not in ("response", "resource", "conversion"):
        return row("record type", detail=kind)
    if cut:
        return row("too large")
    if kind == "conversion":
        text = clean(block.decode("utf-8", "replace"))
        return Document(id, clean(url), text, date) if text.strip() else row("empty body")
    if kind == "resource":
        if not url.startswith(("http:", "https:")) and "html" not in headers.get("content-type", ""):
            others["resource"] += 1
            return None
        return (
            Page(id, clean(url), block, headers.get("content-type", ""), date) if block.strip() else row("empty body")
        )
    return page_of(id, url, date, block, config)


def page_of(id: str, url: str, date: str, block: bytes, config: InputConfig) -> Page | Removal:
    """From the HTTP message of a response to a page, or the reason why there is none."""
    row = lambda reason, **rest: Removal("page", "read", reason, id, clean(url), **rest)
    try:
        message = http.parse(block, config.max_bytes)
    except http.TooLarge:
        return row("too large")
    if message.status == 304:
        return row("not modified")
    if 300 <= message.status < 400:
        return row("redirect", score=message.status)
    if message.status and message.status != 200:
        return row("status", score=message.status)
    if not message.body.strip():
        return row("empty body")
    return Page(id, clean(url), message.body, message.headers.get("content-type", ""), date)


def read_arc(path: str, feed: Feed, config: InputConfig, others: Counter) -> Iterator[Read]:
    """ARC 1 and 2: `URL IP date type length`, a line, and that many bytes."""
    for head in _heads(path, feed):
        if isinstance(head, Read):
            yield head
            continue
        start, line = head
        found = _ARC_LINE.match(line)
        if not found:
            yield _bad(path, start, f"a record begins with {line[:40]!r}")
            feed.seek((b"http://", b"https://"))
            continue
        url, date, length = found[1].decode("utf-8", "replace"), found[3].decode(), int(found[5])
        try:
            block = feed.read(length, keep=config.max_bytes + _HEADERS)
        except Damage as damage:
            yield _lost(path, damage)
            continue
        if line.startswith(_ARC):
            others["filedesc"] += 1
            continue
        if not url.startswith(("http:", "https:")):
            others[url.partition(":")[0]] += 1
            continue
        date = f"{date[:4]}-{date[4:6]}-{date[6:8]}T{date[8:10] or '00'}:{date[10:12] or '00'}:{date[12:14] or '00'}Z"
        id = content_id("arc", url, date, block)
        if length > config.max_bytes + _HEADERS:
            yield Read(Removal("page", "read", "too large", id, clean(url)), path, start)
            continue
        yield Read(page_of(id, url, date, block, config), path, start)


def _lost(path: str, damage: Damage, headers: dict[str, str] | None = None) -> Read:
    """The row of what a damage took: a page if the record's header is known, else a part of the file."""
    headers = headers or {}
    id = headers.get("warc-record-id", "").strip()
    if id and headers.get("warc-type", "").lower() in ("response", "conversion", "revisit", "resource"):
        url = clean(headers.get("warc-target-uri", "").strip().strip("<>"))
        return Read(Removal("page", "read", damage.reason, id, url, detail=damage.detail), path, damage.offset)
    name = path.rpartition("/")[2]
    return Read(Removal("file", "read", damage.reason, name, detail=damage.detail), path, damage.offset)


def _bad(path: str, offset: int, detail: str) -> Read:
    name = path.rpartition("/")[2]
    return Read(Removal("file", "read", "bad record", f"{name}@{offset}", detail=detail), path, offset)
