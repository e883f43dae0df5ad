"""Small web pages, and archives of them, written by hand: what the tests of curation read."""

import gzip
import json
import subprocess
from pathlib import Path

import pytest
import zstandard

ROOT = Path(__file__).parents[1]
WORDS = (
    "river", "town", "bridge", "market", "winter", "harvest", "road", "school", "garden", "letter", "village", "window",
    "morning", "teacher", "forest", "island", "captain", "kitchen", "summer", "station",
)  # fmt: skip


def paragraph(number: int) -> str:
    """English of about 60 words, another one for each number."""
    word = lambda place: WORDS[(number * 7 + place * 3 + number // 20) % len(WORDS)]
    return " ".join(
        f"The {word(i)} near the {word(i + 1)} was quiet in the year {1800 + number}, "
        f"and the people of the {word(i + 2)} walked there."
        for i in range(3)
    )


def page(number: int, paragraphs: int = 4) -> str:
    """An article with a menu and a footer around it."""
    body = "".join(f"<p>{paragraph(number * 10 + i)}</p>" for i in range(paragraphs))
    menu = "".join(f'<li><a href="/{word}">{word}</a></li>' for word in WORDS[:6])
    return (
        f"<!DOCTYPE html><html><head><meta charset='utf-8'><title>Page {number}</title></head><body><ul>{menu}</ul>"
        f"<article><h1>About the {WORDS[number % 20]}</h1>{body}</article><footer>Contact us</footer></body></html>"
    )


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, *([] if headers else ["Content-Type: text/html"])]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def record(id: str, block: bytes, url: str = "", kind: str = "response", length: int | None = None) -> bytes:
    """A WARC record; length: another one than the block's."""
    headers = [
        "WARC/1.0", f"WARC-Type: {kind}", f"WARC-Record-ID: <urn:uuid:{id}>",
        f"WARC-Target-URI: {url or f'http://site{id}.example/page'}", "WARC-Date: 2026-01-02T03:04:05Z",
        f"Content-Length: {len(block) if length is None else length}",
    ]  # fmt: skip
    return "\r\n".join(headers).encode() + b"\r\n\r\n" + block + b"\r\n\r\n"


def response(number: int, html: str | None = None, **keywords) -> bytes:
    return record(str(number), http((html or page(number)).encode()), **keywords)


def write_warc(path: Path, records: list[bytes]) -> Path:
    """One gzip member a record, as crawlers write it; plain without .gz."""
    path.write_bytes(b"".join(map(gzip.compress, records) if path.suffix == ".gz" else records))
    return path


def read_zst(path: Path) -> list[dict]:
    data = path.read_bytes()
    text = zstandard.ZstdDecompressor().stream_reader(data).read() if path.suffix == ".zst" else data
    return [json.loads(line) for line in text.splitlines()]


def rows(output: Path, name: str) -> list[dict]:
    """Rows of all files of `documents`, `removed` or `places`."""
    return [row for path in sorted((output / name).iterdir()) for row in read_zst(path)]


def output_bytes(output: Path) -> dict[str, bytes]:
    """What must be the same however a run went: the corpus, the ledger and both reports."""
    paths = [*(output / "documents").iterdir(), *(output / "removed").iterdir(), *output.glob("report.*")]
    return {
        path.name if path.suffix in (".json", ".html") else f"{path.parent.name}/{path.name}": path.read_bytes()
        for path in paths
    }


def shared_web() -> Path:
    """The folder of real pages, which belong to their owners and are never in this repository."""
    folders = [ROOT.parent / "shared" / "data" / "web"]
    common = subprocess.run(["git", "rev-parse", "--git-common-dir"], cwd=ROOT, capture_output=True, text=True)
    if common.returncode == 0:
        folders.append((ROOT / common.stdout.strip()).resolve().parents[1] / "shared" / "data" / "web")
    found = next((folder for folder in folders if folder.is_dir()), None)
    return found or pytest.skip("the folder ../shared/data/web of real pages is not here")
