"""`dots curate` from outside: its output, the ledger and the books; the same bytes however the input is cut and run.

Claim: a corpus and its ledger have the same bytes over 1, 3 and 7 input files in any order, with Beam and without, and when
the run is killed and started again.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from web_pages import ROOT, http, output_bytes, page, paragraph, read_zst, record, response, rows, write_warc

from dots_jax.cli.main import main
from dots_jax.curation import unit
from dots_jax.curation.books import Books
from dots_jax.curation.record import Document, Removal, removal

STEPS = "--gin_bindings=CurateConfig.steps = ('url', 'decoding', 'extraction', 'language', 'identity')"


def curate(*words: str) -> int:
    return main(["curate", "--gin_file=gin/curate.gin", STEPS, *map(str, words)])


def some_records() -> list[bytes]:
    """24 articles, of which 3 stand there twice, and 7 records that go."""
    records = [response(n) for n in range(24)]
    records += [record(f"copy{n}", http(page(n).replace("<p>", "<p> ").encode())) for n in range(3)]
    records += [
        record("pdf", http(b"%PDF-1.7")), record("moved", http(b"", status="301 Moved")), record("empty", http(b" ")),
        record("numbers", http(b"<html><body><p>" + b"1 2 3 4 5 6 " * 30 + b"</p></body></html>")),
        record("visit", b"", kind="revisit"), record("none", http(b"<html><body></body></html>")),
        record("info", b"software: x", kind="warcinfo"),
    ]  # fmt: skip
    return records


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(output folder, its bytes) of one input file."""
    folder = tmp_path_factory.mktemp("one")
    path, output = write_warc(folder / "a.warc.gz", some_records()), folder / "out"
    assert curate(f"--input={path}", f"--output={output}", "--crawl=c1") == 0
    return output, output_bytes(output)


def test_the_output(finished):
    output, _ = finished
    documents, removed, places = (rows(output, name) for name in ("documents", "removed", "places"))
    assert len(documents) == 24 and len({row["text"] for row in documents}) == 24
    one = next(row for row in documents if row["id"] == "<urn:uuid:7>")
    assert list(one) == list(Document._fields)
    assert (one["crawl"], one["language"], one["url"]) == ("c1", "en", "http://site7.example/page")
    assert paragraph(70) in one["text"] and one["language_score"] >= 0.65 and one["date"] == "2026-01-02T03:04:05Z"
    reasons = {row["id"][10:-1]: (row["kind"], row["step"], row["reason"]) for row in removed}
    assert reasons["pdf"] == ("page", "decoding", "not html") and reasons["moved"] == ("page", "read", "redirect")
    assert reasons["none"] == ("page", "extraction", "empty") and reasons["visit"] == ("page", "read", "revisit")
    duplicates = [row for row in removed if row["reason"] == "duplicate"]
    kept = {row["id"]: row["text"] for row in documents}
    assert len(duplicates) == 3 and all(row["other"] in kept for row in duplicates)
    assert len(documents) + len(removed) == len(places) == len(some_records()) - 1
    assert not (output / "work").exists() and not list(output.glob(".owner*"))


def test_the_books_of_the_report(finished):
    report = json.loads((finished[0] / "report.json").read_text())
    assert report["books"]["records_read"] == 33 and report["books"]["documents_written"] == 24
    assert report["books"]["ledger_rows_of_records"] == 9 and report["records_of_other_types"] == {"warcinfo": 1}
    assert [row["step"] for row in report["funnel"]] == [
        "read",
        "url",
        "decoding",
        "extraction",
        "language",
        "identity",
    ]
    assert report["removed_nothing"] == ["url"]
    for row in report["funnel"]:
        came, kept, went = (row[side].get("records", 0) for side in ("in", "kept", "removed"))
        assert came == kept + went and sum(row["reasons"].values()) == row["removed"].get("rows", 0)


def test_same_bytes_over_input_files(finished, tmp_path):
    records = some_records()
    for number, name in ((3, "a"), (7, "b")):
        folder = tmp_path / name
        folder.mkdir()
        shuffled = records[::-1] if number == 7 else records
        for shard in range(number):
            write_warc(folder / f"{9 - shard}.warc{'.gz' if shard % 2 else ''}", shuffled[shard::number])
        assert curate(f"--input={folder}", f"--output={tmp_path / f'{name}.out'}", "--crawl=c1") == 0
        assert output_bytes(tmp_path / f"{name}.out") == finished[1]


def test_same_bytes_with_small_runs_and_batches(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("dots_jax.curation.streams.RUN_BYTES", 3000)
    monkeypatch.setattr(unit, "BATCH_RECORDS", 5)
    path = write_warc(tmp_path / "a.warc", some_records())
    assert curate(f"--input={path}", f"--output={tmp_path / 'out'}", "--crawl=c1") == 0
    assert output_bytes(tmp_path / "out") == finished[1]


@pytest.mark.subprocess
def test_same_bytes_with_beam(finished, tmp_path):
    for shard in range(3):
        write_warc(tmp_path / f"{shard}.warc.gz", some_records()[shard::3])
    beam = "CurateConfig.beam = ('--runner=FnApiRunner', '--direct_num_workers=2', '--direct_running_mode=multi_threading')"
    words = [f"--input={tmp_path}/*.warc.gz", f"--output={tmp_path / 'out'}", "--crawl=c1", f"--gin_bindings={beam}"]
    assert curate(*words) == 0
    assert output_bytes(tmp_path / "out") == finished[1]


@pytest.mark.subprocess
def test_killed_and_started_again(finished, tmp_path):
    for shard in range(4):
        write_warc(tmp_path / f"{shard}.warc.gz", some_records()[shard::4])
    words = [
        sys.executable,
        "-m",
        "dots_jax.curate",
        STEPS,
        f"--input={tmp_path}/*.gz",
        f"--output={tmp_path / 'out'}",
        "--crawl=c1",
    ]
    kills = 0
    for pieces_done in (1, 3):
        child = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while child.poll() is None:
            if len(list((tmp_path / "out" / "work").glob("records-0/*.json"))) >= pieces_done:
                child.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.01)
        child.wait()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert kills and output_bytes(tmp_path / "out") == finished[1]


def test_a_complete_run_is_left_alone_and_another_one_refused(finished, tmp_path, capfd):
    output, _ = finished
    source = output.parent / "a.warc.gz"
    assert curate(f"--input={source}", f"--output={output}", "--crawl=c1") == 0
    assert "already complete" in capfd.readouterr().out
    assert curate(f"--input={source}", f"--output={output}", "--crawl=c2") == 2
    assert re.search(r"holds a run with other crawl: give another --output", capfd.readouterr().err)
    binding = "--gin_bindings=LanguageConfig.min_score = 0.7"
    assert curate(f"--input={source}", f"--output={output}", "--crawl=c1", binding) == 2
    assert "other CurateConfig.language" in capfd.readouterr().err


# --- one step alone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.zst"])
def test_only_extraction_of_a_folder(tmp_path, name):
    folder = tmp_path / "pages"
    folder.mkdir()
    for number in (1, 2):
        (folder / f"{number}.html").write_text(page(number))
    (folder / "copy.html").write_text(page(1))  # no later step drops it
    (folder / "digits.html").write_bytes(b"<html><body><p>" + b"1 2 3 " * 40 + b"</p></body></html>")
    (folder / "x.html").write_bytes(b"%PDF-1.7")
    assert curate(f"--input={folder}", f"--output={tmp_path / name}", "--only=extraction") == 0
    found = {row["id"]: row["text"] for row in read_zst(tmp_path / name)}
    assert found.keys() == {"1.html", "2.html", "copy.html", "digits.html"} and paragraph(10) in found["1.html"]
    assert [row["id"] for row in read_zst(tmp_path / "out.removed.jsonl")] == ["x.html"]
    assert sorted(os.listdir(tmp_path)) == sorted(["pages", name, "out.removed.jsonl"])


def test_only_a_step_on_written_documents(finished, tmp_path):
    output, _ = finished
    words = [f"--input={output / 'documents'}", f"--output={tmp_path / 'out'}", "--only=language"]
    assert curate(*words, "--gin_bindings=LanguageConfig.languages = ('zh',)") == 0
    assert rows(tmp_path / "out", "documents") == [] and len(rows(tmp_path / "out", "removed")) == 24
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["books"]["ledger_rows_of_records"] == 24


def test_texts_need_no_extraction_and_pages_without_it_have_a_reason(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "a", "text": paragraph(1)}) + "\n")
    write_warc(tmp_path / "b.warc", [response(1), response(2)])
    words = [f"--input={tmp_path}/?.*", f"--output={tmp_path / 'out'}"]
    assert curate(*words, "--gin_bindings=CurateConfig.steps = ('url', 'identity')") == 0
    assert [row["id"] for row in rows(tmp_path / "out", "documents")] == ["a"]
    assert [(row["step"], row["reason"]) for row in rows(tmp_path / "out", "removed")] == [
        ("text", "not extracted")
    ] * 2


def test_two_records_of_one_id_both_stay_and_it_is_said(tmp_path, capfd):
    lines = [json.dumps({"id": "same", "text": paragraph(n)}) for n in (1, 2, 3)]
    found = []
    for name, order in (("a", lines), ("b", lines[::-1])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(order) + "\n")
        assert curate(f"--input={tmp_path / name}.jsonl", f"--output={tmp_path / name}") == 0
        assert "got a number behind it: 2" in capfd.readouterr().out
        found.append({row["id"]: row["text"] for row in rows(tmp_path / name, "documents")})
    assert found[0] == found[1] and found[0].keys() == {"same", "same~2", "same~3"}


# --- wrong use --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("--output=o", "Missing --input"),
        ("--input={here}/a.warc", "Missing --output"),
        ("--input={here}/nothing.warc --output={here}/o", "names no file"),
        ("--input={here}/a.warc --output={here}/o --only=extract", "there is no such step; the steps are url, decoding"),
        ("--input={here}/a.warc --output={here}/o.jsonl", "goes with --only"),
        ("--input={here}/a.warc --output={here}/a.warc", "is a file"),
        ("--input={here}/a.warc --output=gs://b/o", "a folder of this machine"),
        ("--input={here}/a.warc --output={here}/o --gin_bindings=UrlConfig.domains=('{here}/no.txt',)", "no.txt cannot be read"),
        ("--input={here}/a.warc --output={here}/o --gin_bindings=CurateConfig.steps=('spelling',)", "but the steps are"),
        ("--input={here}/a.warc --output={here}/o --gin_bindings=CurateConfig.steps=('language','url')", "order url, language"),
        ("--input={here}/a.warc --output={here}/o --gin_bindings=ExtractConfig.memory=10", "at least 256"),
        ("--input={here}/a.warc --output={here}/o --gin_bindings=CurateConfig.beam=('--runner=Nowhere',)", "no runner 'Nowhere'"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_sentence_before_anything_is_written(tmp_path, capfd, words, sentence):
    write_warc(tmp_path / "a.warc", [response(1)])
    assert curate(*words.format(here=tmp_path).split()) == 2
    out, err = capfd.readouterr()
    assert sentence in err and err.startswith("error: ") and err.count("\n") == 1 and out == ""
    assert os.listdir(tmp_path) == ["a.warc"]


def test_a_dry_run_says_what_there_is_to_do(tmp_path, capfd):
    write_warc(tmp_path / "a.warc", [response(1)])
    (tmp_path / "b.html").write_text(page(1))
    assert curate(f"--input={tmp_path}", "--dry_run") == 0
    out = capfd.readouterr().out
    assert re.search(r"^warc +1 ", out, re.M) and re.search(r"^page +1 ", out, re.M) and "identity" in out
    assert sorted(os.listdir(tmp_path)) == ["a.warc", "b.html"]


# --- the books --------------------------------------------------------------------------------------------------------


def test_a_step_that_loses_something_without_a_row_ends_the_run():
    documents = [Document("a", "", "one\ntwo"), Document("b", "", "three")]
    books = Books()
    books.add("x", documents, documents[:1], [removal(documents[1], "x", "gone")])
    line = Removal("line", "x", "line", "a", lines=1, characters=4, text="two")
    books.add("x", documents[:1], [documents[0]._replace(text="one")], [line])
    assert books.to_dict()["x"]["removed"] == {"rows": 2, "records": 1, "lines": 2, "characters": 9}
    lost = [([], []), (documents[:1], []), ([documents[0]._replace(text="one"), documents[1]], [])]
    for kept, removed in lost:
        with pytest.raises(RuntimeError, match="The step x got"):
            books.add("x", documents, kept, removed)


def test_the_table_and_the_config_name_the_same_steps():
    from dots_jax.config import CURATION_STEPS
    from dots_jax.curation.steps import STEPS

    assert tuple(step.name for step in STEPS) == CURATION_STEPS
