"""A small web, made on the spot from pydoc's HTML of the Python library, with known faults planted; curated, and compared.

    python -m benchmarks.demo_web --output=runs/demo-curate

It writes `web/*.warc.gz`, runs `dots curate` with gin/curate.gin into `corpus/`, and looks up each planted page in the ledger.
Sites: docs.demo has a page for every module, reader.demo one for every long docstring, between a greeting and a farewell that
all its pages share; mirror.demo repeats pages; planted.demo and blocked.demo hold one page of each fault. Nothing is downloaded.
"""

import argparse
import gzip
import hashlib
import html
import importlib
import inspect
import itertools
import json
import pydoc
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

GREETING = "Welcome to the reading room of the Python library, which is open on every day of the year."
FAREWELL = "You have read to the end of this page, and the librarian thanks you for the visit."
MENU = "".join(f'<li><a href="/{name}">{name}</a></li>' for name in ("home", "index", "modules", "search", "about"))
SKIPPED = (
    "antigravity",
    "this",
    "idlelib",
    "turtledemo",
    "lib2to3",
)  # modules that open a window or print when imported
LARGEST = 60_000  # characters of a page of pydoc; larger ones are left out, since the demo is to be short
LEAST_WORDS = 60  # of a docstring with a page of its own
NEAR = 12  # pages that are repeated with a few other words
SAME = 12  # pages that are repeated as they are
LONG = 220  # spaces of a page whose text is long enough to be repeated


class Planted(NamedTuple):
    """A page with a fault: where it must be in the ledger, or `kept` with the encoding or extractor that it must have."""

    name: str
    step: str
    reason: str
    block: bytes  # of the WARC record
    url: str


class Web(NamedTuple):
    """What is planted: (name, step, reason) of each page with a fault, and the addresses of repeated pages."""

    planted: list[list[str]]
    repeated: list[str]


def write_web(folder: Path, modules: int | None = None, texts: int | None = None) -> Web:
    """Writes the archives, of at most this many modules and docstrings. A web that is there stays as it is, since pydoc does not
    write the same bytes twice, and a demo that was stopped is to go on."""
    about = folder.parent / "web.json"
    if about.exists():
        return Web(**json.loads(about.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    library = list(itertools.islice(_library(), modules))
    documented = [(f"http://docs.demo/{name}.html", _page(name, content)) for name, content in _module_pages(library)]
    read = [(f"http://reader.demo/{name}.html", _reading_page(name, content)) for name, content in _texts(library)][
        :texts
    ]
    long = [(url, page) for url, page in read if page.count(" ") > LONG]
    same = [(f"http://mirror.demo/same/{_tail(url)}", page) for url, page in long[::3][:SAME]]
    near = [(f"http://mirror.demo/near/{_tail(url)}", _edited(page)) for url, page in long[1::3][:NEAR]]
    planted = list(_planted(read[0][1]))
    pages = [(url, _http(text.encode())) for url, text in (*documented, *read, *same, *near)]
    records = [_record(url, url, block) for url, block in pages]
    records += [_record(one.name, one.url, one.block) for one in planted]
    half = len(records) // 2
    _write(folder / "a.warc.gz", records[:half])
    _write(folder / "b.warc.gz", records[half:])
    cut = gzip.compress(_record("cut", "http://planted.demo/cut", _http(b"<p>" + b"never complete " * 4000)))
    (folder / "truncated.warc.gz").write_bytes(cut[: len(cut) // 2])
    (folder.parent / "blocked.txt").write_text("# domains that the demo blocks\nblocked.demo\n")
    web = Web([[one.name, one.step, one.reason] for one in planted], [url for url, _ in (*same, *near)])
    about.write_text(json.dumps(web._asdict()) + "\n")
    return web


def _library() -> Iterator[tuple[str, object]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in sorted(sys.stdlib_module_names):
            if name.startswith("_") or name in SKIPPED:
                continue
            try:
                yield name, importlib.import_module(name)
            except ImportError:  # of another platform
                continue


def _module_pages(library) -> Iterator[tuple[str, str]]:
    for name, module in library:
        content = pydoc.html.document(module, name)
        if len(content) <= LARGEST:
            yield name, content


def _texts(library) -> Iterator[tuple[str, str]]:
    """(name, HTML) of classes and functions with a long docstring, each text once."""
    seen = set()
    for module_name, module in library:
        for name, thing in sorted(vars(module).items()):
            if name.startswith("_") or getattr(thing, "__module__", None) != module_name:
                continue
            if not (inspect.isclass(thing) or inspect.isroutine(thing)):
                continue
            methods = sorted(vars(thing).items()) if inspect.isclass(thing) else []
            for path, one in [(name, thing), *((f"{name}.{of}", method) for of, method in methods if of[0] != "_")]:
                text = inspect.getdoc(one) if inspect.isclass(one) or inspect.isroutine(one) else None
                if text and len(text.split()) >= LEAST_WORDS and text not in seen:
                    seen.add(text)
                    yield f"{module_name}.{path}", pydoc.html.markup(text, pydoc.html.preformat)


def _page(title: str, content: str) -> str:
    return (
        f"<!DOCTYPE html><html><head><meta charset='utf-8'><title>{html.escape(title)}</title></head><body>"
        f"<nav><ul>{MENU}</ul></nav><main>{content}</main><footer><p>All rights reserved by the demo.</p></footer></body></html>"
    )


def _reading_page(name: str, content: str) -> str:
    paragraphs = "".join(f"<p>{part}</p>" for part in content.replace("&nbsp;", " ").split("<br>\n<br>\n"))
    return _page(name, f"<article><p>{GREETING}</p><h1>{html.escape(name)}</h1>{paragraphs}<p>{FAREWELL}</p></article>")


def _tail(url: str) -> str:
    return url.rpartition("/")[2]


def _edited(page: str) -> str:
    """A near-duplicate: one more sentence at the end of the text."""
    return page.replace(f"<p>{FAREWELL}", f"<p>Copied for the mirror.</p><p>{FAREWELL}")


ENGLISH = (
    "The library stands in the middle of the town, in a house that was built for a merchant a hundred years ago. In the morning "
    "people wait at the door with books under their arms, and the first of them have been there since seven. The librarian says "
    "that more readers came this year than last, students among them, but also old people who have retired. The windows of the "
    "reading room are wide, and light falls on long tables of oak. Some read novels, some write letters, and others only sit "
    "in silence. When evening comes, the lamps are turned down one by one; the last visitor puts a volume back and walks home "
    "through the rain."
)
CHINESE = (
    "图书馆在城市的中心，是一座有一百年历史的建筑。每天早上，人们在门口等待开门，他们带着书和笔记本。馆员说，今年来的读者比去年多，"
    "其中有学生，也有退休的老人。阅览室的窗户很大，阳光照在木头的桌子上。有人在读小说，有人在写信，也有人只是安静地坐着。下午的时候，"
    "孩子们在儿童室里听故事，他们为故事里的小狐狸担心。晚上八点，灯光慢慢暗下来，最后一位读者把书放回书架，和馆员说了再见，然后走进了雨中的街道。"
)


def _planted(good: str) -> Iterator[Planted]:
    site = "http://planted.demo/"
    say = lambda name, step, reason, block, url=None: Planted(name, step, reason, block, url or site + name)
    yield say("blocked-domain", "url", "blocked domain", _http(good.encode()), "http://www.blocked.demo/page")
    yield say("pdf", "decoding", "not html", _http(b"%PDF-1.7 under a header of HTML"))
    yield say("json", "decoding", "not html", _http(b'{"title": "no page", "items": [1, 2, 3]}'))
    yield say(
        "noise", "decoding", "encoding", _http(b"<html><body><p>" + bytes(range(128, 256)) * 40 + b"</p>", "utf-8")
    )
    yield say("moved", "read", "redirect", _http(b"", status="301 Moved Permanently"))
    yield say("missing", "read", "status", _http(b"<p>not found</p>", status="404 Not Found"))
    yield say("nothing", "read", "empty body", _http(b" \n"))
    yield say("no-text", "extraction", "empty", _http(b"<html><body><img src='a.png'></body></html>"))
    yield say("digits", "language", "undecided", _article("7 11 13 :: 17 19 23 " * 40))
    yield say("short", "rules", "gopher words", _article("The library is open to all who want to read in it."))
    yield say(
        "repeats", "rules", "gopher top 2-gram", _article("The library is open and the reader of it has time. " * 30)
    )
    words = ENGLISH.split(" ")
    mail = " ".join(f"{word} reader{at}@library.example.org" if at % 4 == 3 else word for at, word in enumerate(words))
    yield say("addresses", "pii", "personal data", _article(mail))
    page = f"<html><head><meta charset=gb2312></head><body><article><p>{CHINESE}</p></article></body></html>"
    yield say("chinese", "kept", "gb18030", _http(page.encode("gb18030")))
    yield say("deep", "kept", "resiliparse", _http(("<div>" * 3000 + f"<p>{ENGLISH}").encode()))


def _article(text: str) -> bytes:
    return _http(f"<html><body><article><p>{html.escape(text)}</p></article></body></html>".encode())


def _http(body: bytes, charset: str = "", status: str = "200 OK") -> bytes:
    kind = f"text/html; charset={charset}" if charset else "text/html"
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n\r\n".encode() + body


def record_id(name: str) -> str:
    return f"<urn:sha1:{hashlib.sha1(name.encode()).hexdigest()}>"


def _record(name: str, url: str, block: bytes) -> bytes:
    headers = (
        "WARC/1.0", "WARC-Type: response", f"WARC-Record-ID: {record_id(name)}", f"WARC-Target-URI: {url}",
        "WARC-Date: 2026-12-01T00:00:00Z", f"Content-Length: {len(block)}",
    )  # fmt: skip
    return "\r\n".join(headers).encode() + b"\r\n\r\n" + block + b"\r\n\r\n"


def _write(path: Path, records: list[bytes]) -> None:
    path.write_bytes(b"".join(map(gzip.compress, records)))


# --- what became of it ------------------------------------------------------------------------------------------------


def check(output: Path, web: Web, seed: int = 0) -> list[tuple[str, str, str]]:
    """(name, expected, found) of every planted thing, from the ledger and the corpus."""
    from dots_jax.curation.survey import groups

    wanted = {record_id(name): name for name, _, _ in web.planted}
    found, lines = {}, 0
    for documents, rows in groups(str(output), seed):
        for document in documents:
            if name := wanted.get(document.id):
                found[name] = f"kept: {document.encoding if name == 'chinese' else document.extractor}"
            else:
                found[document.id] = "kept"
        for row in rows:
            if row.kind in ("page", "document", "file"):
                found[wanted.get(row.id, row.id)] = f"{row.step}: {row.reason}"
            lines += row.reason == "frequent line" and row.text in (GREETING, FAREWELL)
    rows = [(name, f"{step}: {reason}", found.get(name, "not found")) for name, step, reason in web.planted]
    rows.append(("truncated.warc.gz", "read: truncated file", found.get("truncated.warc.gz", "not found")))
    for kind, reason in (("same", "identity: duplicate"), ("near", "minhash: near duplicate")):
        urls = [url for url in web.repeated if f"/{kind}/" in url]
        pairs = [[found.get(record_id(each)) for each in (url, f"http://reader.demo/{_tail(url)}")] for url in urls]
        stay = sum(pair == ["kept", "kept"] for pair in pairs)
        by = f"no pair stays, {reason}"  # of a pair that an earlier step removed, neither does
        ok = stay == 0 and any(reason in pair for pair in pairs)
        rows.append((f"{len(pairs)} {kind} pages", by, by if ok else f"{stay} pairs stay"))
    rows.append(("shared lines", "removed", "removed" if lines else "none removed"))
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="runs/demo-curate", help="folder of the web and the corpus")
    parser.add_argument("--modules", type=int, help="of the library, at most; default: all")
    parser.add_argument("--texts", type=int, help="pages of docstrings, at most; default: all")
    parser.add_argument("--keep", type=int, default=200, help="LineConfig.keep")
    parser.add_argument("--beam", default="", help="CurateConfig.beam, as a Python tuple")
    options = parser.parse_args(arguments)
    from dots_jax.cli.main import main as dots

    started, folder = time.monotonic(), Path(options.output)
    web = write_web(folder / "web", options.modules, options.texts)
    print(f"{folder}/web: made in {time.monotonic() - started:.0f} s")
    bindings = [f"LineConfig.keep = {options.keep}", f"UrlConfig.domains = ({str(folder / 'blocked.txt')!r},)"]
    bindings += [f"CurateConfig.beam = {options.beam}"] if options.beam else []
    words = [f"--input={folder / 'web'}", f"--output={folder / 'corpus'}", "--crawl=demo"]
    if status := dots(
        ["curate", "--gin_file=gin/curate.gin", *(f"--gin_bindings={line}" for line in bindings), *words]
    ):
        return status
    rows = check(folder / "corpus", web)
    for name, expected, found in rows:
        print(
            f"{'ok' if expected == found else 'WRONG':<6}{name:<20}{found}"
            + ("" if expected == found else f", expected {expected}")
        )
    seconds = time.monotonic() - started
    right = sum(expected == found for _, expected, found in rows)
    result = {"planted": len(rows), "found": right, "seconds": round(seconds, 1)}
    (folder / "demo.json").write_text(json.dumps(result) + "\n")
    print(f"{right} of {len(rows)} planted things found by name; {seconds:.0f} s; look at {folder}/corpus/report.html")
    return 0 if right == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
