"""Documents taken down by address, and Parquet output: the same corpus in another form."""

import json

import pyarrow.parquet as pq
import pytest
from web_pages import http, output_bytes, page, record, response, rows, write_warc

from dots_jax.cli.main import main
from dots_jax.curation import takedown
from dots_jax.curation.corpus_files import read_documents
from dots_jax.curation.record import Document

STEPS = "--gin_bindings=CurateConfig.steps = ('url', 'decoding', 'extraction', 'language', 'identity', 'lines')"


def curate(*words: str) -> int:
    keep = "--gin_bindings=LineConfig.keep = 2"
    return main(["curate", "--gin_file=gin/curate.gin", STEPS, keep, *map(str, words)])


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    shared = "<article><p>Welcome to the reading room, which is open on every day.</p>"
    records = [response(n, page(n).replace("<article>", shared)) for n in range(9)]
    records += [record("copy", http(page(2).encode()), url="http://site2.example/Copy?of=it")]
    return write_warc(tmp_path_factory.mktemp("archive") / "a.warc.gz", records)


def make(archive, output, *words: str):
    assert curate(f"--input={archive}", f"--output={output}", "--crawl=c", *words) == 0
    return output


def test_takedown(archive, tmp_path, capsys, monkeypatch):
    output = make(archive, tmp_path / "out")
    before = {row["url"]: row for row in rows(output, "documents")}
    listed = tmp_path / "list.txt"
    listed.write_text(
        "# of today\nhttp://site0.example/page\nsite3.example\nhttp://site4.example/p*\nhttp://site5.example/PAGE\n"
    )
    # Killed between the ledger and the documents of a partition, and started again.
    with monkeypatch.context() as patch:
        patch.setattr(takedown, "write_documents", lambda *_: 1 / 0)
        assert curate(f"--output={output}", f"--takedown={listed}") == 2
    assert curate(f"--output={output}", f"--takedown={listed}") == 0
    assert f"3 documents taken down now, 3 in all; {len(before) - 3} stay" in capsys.readouterr().out
    gone = {"http://site0.example/page", "http://site3.example/page", "http://site4.example/page"}
    after = {row["url"]: row for row in rows(output, "documents")}
    assert after == {url: row for url, row in before.items() if url not in gone}
    removed = rows(output, "removed")
    mine = [row for row in removed if row["step"] == "takedown"]
    assert {row["url"]: row["detail"] for row in mine} == {
        "http://site0.example/page": "http://site0.example/page", "http://site3.example/page": "site3.example",
        "http://site4.example/page": "http://site4.example/p*",
    }  # fmt: skip
    assert sum(row["characters"] for row in mine) == sum(len(before[url]["text"]) for url in gone)
    assert not [row for row in removed if row.get("text") and row["url"] in gone]
    report = json.loads((output / "report.json").read_text())
    assert report["funnel"][-1]["step"] == "takedown" and report["books"]["documents_written"] == len(after)
    assert report["books"]["records_read"] == len(after) + report["books"]["ledger_rows_of_records"]
    said = (output / "report.html").read_text()
    assert "takedown" in said and not any(before[url]["text"][:300] in said for url in gone)
    # Once more changes nothing.
    same = output_bytes(output)
    assert curate(f"--output={output}", f"--takedown={listed}") == 0 and output_bytes(output) == same


@pytest.mark.parametrize("text, sentence", [("# nothing\n", "holds no entry"), (b"\xff\xfe\xfd", "is not UTF-8 text")])
def test_lists_that_cannot_work(archive, tmp_path, capsys, text, sentence):
    output, listed = make(archive, tmp_path / "out", "--only=language"), tmp_path / "list.txt"
    listed.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert curate(f"--output={output}", f"--takedown={listed}") == 2 and sentence in capsys.readouterr().err


def test_takedown_needs_a_complete_corpus(tmp_path, capsys):
    assert curate(f"--takedown={tmp_path / 'list'}") == 2 and "needs --output" in capsys.readouterr().err
    assert curate(f"--takedown={tmp_path / 'list'}", f"--output={tmp_path}") == 2
    assert "run.json is missing" in capsys.readouterr().err


def test_parquet_holds_the_same_documents(archive, tmp_path):
    lines = make(archive, tmp_path / "lines")
    columns = make(archive, tmp_path / "columns", "--gin_bindings=CurateConfig.output_format = 'parquet'")
    files = sorted((columns / "documents").iterdir())
    assert all(file.name.endswith(".parquet") for file in files)
    assert list(read_documents(str(columns))) == list(read_documents(str(lines)))
    table = pq.read_table(columns / "documents")
    assert table.column_names == list(Document._fields)
    row = table.to_pylist()[0]
    assert (
        row["crawl"] == "c" and row["language"] == "en" and row["language_score"] > 0.65 and row["url"] and row["date"]
    )
    listed = tmp_path / "list.txt"
    listed.write_text("site0.example\n")
    assert curate(f"--output={columns}", f"--takedown={listed}") == 0
    assert table.num_rows - 1 == len(list(read_documents(str(columns))))
