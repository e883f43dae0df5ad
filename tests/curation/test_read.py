"""Every kind of input, and what is broken in it: each record has its reason, and the rest is unharmed.

Claim: a truncated, damaged or mislabelled archive costs the record that it damages and no other.
"""

import gzip
import json
import zlib
from collections import Counter

import brotli
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from web_pages import http, page, record, response, shared_web, write_warc

from dots_jax.config import InputConfig, UserError
from dots_jax.curation.http import parse, unchunk
from dots_jax.curation.inputs import find_pieces, read_piece
from dots_jax.curation.record import Document, Page, Removal

CONFIG = InputConfig(max_bytes=1 << 20)


def read(*paths, config: InputConfig = CONFIG):
    """(records kept, ledger rows, records of other types)."""
    others, found = Counter(), []
    for piece in find_pieces([str(path) for path in paths]):
        found += [one.record for one in read_piece(piece, config, others)]
    kept = [one for one in found if not isinstance(one, Removal)]
    return kept, [one for one in found if isinstance(one, Removal)], others


def ids(records) -> list[str]:
    return [one.id.removeprefix("<urn:uuid:").removesuffix(">") for one in records]


def reasons(rows) -> list[tuple[str, str]]:
    return [(row.kind, row.reason) for row in rows]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "single.warc.gz"])
def test_warc(tmp_path, name):
    extra = [record("w", b"", kind="warcinfo"), record("q", b"GET /", kind="request")]
    records = [extra[0], response(1), extra[1], response(2), record("3", b"", kind="revisit")]
    path = tmp_path / name
    if name.startswith("single"):
        path.write_bytes(gzip.compress(b"".join(records)))
    else:
        write_warc(path, records)
    kept, rows, others = read(path)
    assert ids(kept) == ["1", "2"] and others == {"warcinfo": 1, "request": 1}
    assert kept[0].body == page(1).encode() and kept[0].id == "<urn:uuid:1>"
    assert (kept[0].url, kept[0].date) == ("http://site1.example/page", "2026-01-02T03:04:05Z")
    assert reasons(rows) == [("page", "revisit")]


@pytest.mark.parametrize(
    "status, reason", [("304 Not Modified", "not modified"), ("301 Moved", "redirect"), ("404 Not Found", "status")]
)
def test_answers_that_hold_no_page(tmp_path, status, reason):
    path = write_warc(tmp_path / "a.warc.gz", [record("1", http(b"<p>x</p>", status=status)), response(2)])
    kept, rows, _ = read(path)
    assert ids(kept) == ["2"] and reasons(rows) == [("page", reason)]


def test_truncated_and_damaged_gzip(tmp_path):
    records = [response(n) for n in range(6)]
    data = write_warc(tmp_path / "a.warc.gz", records).read_bytes()
    members = [gzip.compress(one) for one in records]
    (tmp_path / "cut.warc.gz").write_bytes(data[:-200])
    kept, rows, _ = read(tmp_path / "cut.warc.gz")
    assert ids(kept) == ["0", "1", "2", "3", "4"] and {row.reason for row in rows} == {"truncated file"}
    broken = bytearray(data)
    start = len(members[0]) + len(members[1]) + 60
    broken[start : start + 40] = b"\xff" * 40
    (tmp_path / "broken.warc.gz").write_bytes(broken)
    kept, rows, _ = read(tmp_path / "broken.warc.gz")
    assert ids(kept) == ["0", "1", "3", "4", "5"] and "damaged gzip" in {row.reason for row in rows}


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
@pytest.mark.parametrize("wrong", [-30, +30, +100_000])
def test_a_wrong_length_costs_no_record(tmp_path, name, wrong):
    block = http(page(2).encode())
    records = [response(1), record("2", block, length=len(block) + wrong), response(3), response(4)]
    kept, rows, _ = read(write_warc(tmp_path / name, records))
    assert ids(kept) == ["1", "2", "3", "4"] and kept[1].body.startswith(page(2).encode())
    assert reasons(rows) == [("file", "bad record")]


def test_garbage_between_records_and_a_bad_header(tmp_path):
    bad = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: many\r\n\r\nx\r\n\r\n"
    data = response(1) + b"\x00garbage\r\n" * 3 + response(2) + bad + response(3)
    (tmp_path / "a.warc").write_bytes(data)
    kept, rows, _ = read(tmp_path / "a.warc")
    assert ids(kept) == ["1", "2", "3"] and reasons(rows) == [("file", "bad record")] * 2


def test_a_truncated_plain_file_names_the_page_that_it_lost(tmp_path):
    (tmp_path / "a.warc").write_bytes((response(1) + response(2))[:-300])
    kept, rows, _ = read(tmp_path / "a.warc")
    assert ids(kept) == ["1"] and [(row.kind, row.reason, row.id) for row in rows] == [
        ("page", "truncated file", "<urn:uuid:2>")
    ]


def test_transfer_and_content_encodings():
    text = page(1).encode()
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(text[i : i + 500]), text[i : i + 500]) for i in range(0, len(text), 500))
    coded = {"gzip": gzip.compress(text), "br": brotli.compress(text), "deflate": zlib.compress(text)}
    coded["x"] = text
    assert parse(http(chunked + b"0\r\n\r\n", "Transfer-Encoding: chunked"), 1 << 20).body == text
    for coding, body in coded.items():
        assert parse(http(body, f"Content-Encoding: {coding}"), 1 << 20).body == text, coding
        # Headers that speak of what the archive has unpacked already.
        wrong = http(text, f"Content-Encoding: {coding}", "Transfer-Encoding: chunked")
        assert parse(wrong, 1 << 20).body == text, coding
    assert unchunk(b"5\r\nhello\r\nzz\r\nrest") == b"hellozz\r\nrest"


def test_bombs_are_refused_without_being_unpacked(tmp_path):
    bomb = b"0" * (8 << 20)
    records = [
        record("1", http(gzip.compress(bomb), "Content-Encoding: gzip")),
        record("2", http(brotli.compress(bomb, quality=1), "Content-Encoding: br")),
        record("3", http(bomb)),
        response(4),
    ]
    kept, rows, _ = read(write_warc(tmp_path / "a.warc.gz", records))
    assert ids(kept) == ["4"] and reasons(rows) == [("page", "too large")] * 3


def test_arc_and_wet(tmp_path):
    body = http(page(1).encode())
    line = b"http://a.example/with space 1.2.3.4 20260102030405 text/html %d\n" % len(body)
    head = b"filedesc://a.arc 0.0.0.0 20260102030405 text/plain 3\n1 0\n\n"
    (tmp_path / "a.arc.gz").write_bytes(gzip.compress(head) + gzip.compress(line + body + b"\n"))
    (found,), rows, others = read(tmp_path / "a.arc.gz")
    assert (found.url, found.date, rows) == ("http://a.example/with space", "2026-01-02T03:04:05Z", [])
    assert found.body == page(1).encode() and others == {"filedesc": 1}
    write_warc(tmp_path / "a.warc.wet.gz", [record("1", "naïve 文本".encode(), kind="conversion")])
    (text,), rows, _ = read(tmp_path / "a.warc.wet.gz")
    assert isinstance(text, Document) and text.text == "naïve 文本" and rows == []


def test_rows_of_json_and_parquet(tmp_path):
    rows = [
        {"id": "a", "text": "one", "url": "http://a.example/"},
        {"text": "no id"}, {"id": 7, "html": page(1)}, {"id": "e", "text": " "},
        {"id": "n", "title": "no text"},
    ]  # fmt: skip
    lines = [json.dumps(row) for row in rows] + ["{broken", '"a string"', '{"id": "s", "text": "a\\ud800b\\u0000"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    kept, removed, _ = read(tmp_path / "a.jsonl")
    assert [one.id for one in kept[::2]] == ["a", "7"] and kept[1].id.startswith("text:") and kept[3].id == "s"
    assert isinstance(kept[2], Page) and kept[3].text == "a?b"  # a lone surrogate and NUL are no text
    assert [row.reason for row in removed] == ["empty body", "no text", "bad row", "bad row"]
    fields = {name: [row.get(name) for row in rows] for name in ("text", "url", "html", "title")}
    pq.write_table(pa.table({"id": [str(row.get("id", "")) for row in rows], **fields}), tmp_path / "a.parquet")
    kept, removed, _ = read(tmp_path / "a.parquet")
    assert [one.id for one in kept if not one.id.startswith("text:")] == ["a", "7"] and len(removed) == 2
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    assert reasons(read(tmp_path / "b.parquet")[1]) == [("file", "damaged file")]
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes())[:-30])
    assert ("file", "truncated file") in reasons(read(tmp_path / "b.jsonl.gz")[1])


def test_a_folder_of_pages_has_every_file(tmp_path):
    folder = tmp_path / "site"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.html").write_text(page(1))
    (folder / "deep" / "b.html.gz").write_bytes(gzip.compress(page(2).encode()))
    (folder / "empty.html").write_text("")
    (folder / "cut.html.gz").write_bytes(gzip.compress(page(3).encode())[:100])
    write_warc(folder / "c.warc.gz", [response(4)])
    kept, rows, _ = read(folder)
    assert sorted(ids(kept)) == ["4", "a.html", "cut.html.gz", "deep/b.html.gz"]
    found = sorted((row.kind, row.id, row.reason) for row in rows)
    assert found == [("file", "cut.html.gz", "truncated file"), ("page", "empty.html", "empty body")]
    assert find_pieces([str(folder)]) == find_pieces([str(folder / "*.html"), str(folder)])
    with pytest.raises(UserError, match="names no file"):
        find_pieces([str(tmp_path / "nothing*")])


def test_ids_do_not_depend_on_the_place(tmp_path):
    for name, order in (("a", (1, 2)), ("b", (2, 1))):
        write_warc(tmp_path / f"{name}.warc", [response(n).replace(b"WARC-Record-ID", b"X-Other") for n in order])
    a, b = (read(tmp_path / f"{name}.warc")[0] for name in "ab")
    assert sorted(ids(a)) == sorted(ids(b)) and len(set(ids(a))) == 2


@pytest.mark.parametrize(
    "name, pages", [("whirlwind.warc.gz", 1), ("warcfile.warc.gz", 12), ("example.arc.gz", 1), ("cc.warc.gz", 1)]
)
def test_archives_of_other_projects(name, pages):
    kept, rows, _ = read(shared_web() / "warc" / name, config=InputConfig())
    assert len(kept) >= pages and not [row for row in rows if row.kind == "file"]
