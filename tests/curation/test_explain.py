"""`--explain`: one page's way with every number; `--compare`: what a threshold changed, from texts that were extracted once."""

import json

import pytest
from web_pages import http, page, record, response, rows, write_warc

from dots_jax.cli.main import main

# Of the first output; the second has another min_words.
LOOSE = [f"--gin_bindings=EnglishRules.{kind}_ngrams = ()" for kind in ("top", "duplicate")]


def curate(*words: str) -> int:
    return main(["curate", "--gin_file=gin/curate.gin", "--gin_bindings=LineConfig.keep = 3", *LOOSE, *map(str, words)])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """(archive, texts of it, output with min_words = 50, output with 100)."""
    folder = tmp_path_factory.mktemp("explain")
    shared = "<article><p>Welcome to the reading room, which is open on every day.</p>"
    records = [response(n, page(n).replace("<article>", shared)) for n in range(8)]
    records += [record("copy", http(page(2).replace("<article>", shared).encode()), url="http://copy.example/page")]
    records += [record("short", http(page(30, paragraphs=1).encode()), url="http://short.example/page")]
    records += [record("pdf", http(b"%PDF-1.7"), url="http://pdf.example/page")]
    archive, texts = write_warc(folder / "a.warc.gz", records), folder / "texts.jsonl.zst"
    assert curate(f"--input={archive}", f"--output={texts}", "--only=extraction") == 0
    outputs = []
    for least in (50, 100):
        outputs.append(folder / f"min{least}")
        binding = f"--gin_bindings=EnglishRules.min_words = {least}"
        assert curate(f"--input={texts}", f"--output={outputs[-1]}", binding) == 0
    return archive, texts, *outputs


def explain(capsys, source, output, address: str) -> str:
    capsys.readouterr()
    assert curate(f"--input={source}", *([f"--output={output}"] if output else []), f"--explain={address}") == 0
    return capsys.readouterr().out


def test_a_page_that_stays_has_a_number_of_every_step(corpus, capsys):
    archive, _, output, _ = corpus
    lost = next(
        row
        for row in rows(output, "removed")
        if row["reason"] == "frequent line" and row["url"] != "http://copy.example/page"
    )
    said = explain(capsys, archive, output, lost["url"])
    for fact in (
        "read as utf-8; 0 undecodable", "trafilatura: ", "resiliparse: ", "en 0.", "at least 0.65", "MD5 ", "times, 3 stay",
        "loses a line: frequent line", "gopher words: ", "shingles of 5 words", "0 found, at most 20",
    ):  # fmt: skip
        assert fact in said
    assert "was made with" not in said
    kept = {row["id"] for row in rows(output, "documents")}
    assert ("as in the corpus" in said) == (lost["id"] in kept)


def test_a_page_that_goes_names_the_step_and_the_winner(corpus, capsys):
    archive, _, output, other = corpus
    twins = [row for row in rows(output, "removed") if row["reason"] == "duplicate"]
    said = explain(capsys, archive, other, twins[0]["id"])
    assert "--output was made with other CurateConfig.rules" in said
    said = explain(capsys, archive, output, twins[0]["id"])
    assert f"REMOVED: duplicate (score 1; instead stays {twins[0]['other']})" in said and said.strip().endswith(
        "by identity"
    )
    assert "REMOVED: not html (PDF)" in explain(capsys, archive, output, "http://pdf.example/page")
    said = explain(capsys, archive, None, "http://short.example/page")
    assert "what compares documents is not known" in said and "kept" in said


def test_an_address_that_no_record_has_is_refused(corpus, capsys):
    assert curate(f"--input={corpus[0]}", "--explain=http://nowhere.example/") == 2
    assert "no record of --input has this address or id" in capsys.readouterr().err


def test_two_outputs_of_one_extraction(corpus, capsys):
    _, _, first, second = corpus
    capsys.readouterr()
    assert curate("--compare", str(first), str(second)) == 0
    said = capsys.readouterr().out
    assert "CurateConfig.rules.english.min_words: 50 and 100" in said
    assert f"1 documents are only in {first}" in said and "1  rules: gopher words" in said
    assert "http://short.example/page; score " in said and f"0 documents are only in {second}" in said
    same = len(rows(second, "documents"))
    assert f"{'in both, same text':<28}{same:>10,}" in said
    report = json.loads((second / "report.json").read_text())
    assert not any(row["step"] == "extraction" and row["removed"].get("rows") for row in report["funnel"])


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--compare", "one"], "--compare takes two output folders, but got 1"),
        (["--compare", "/nowhere/a", "/nowhere/b"], "--compare=/nowhere/a"),
    ],
)
def test_bad_comparisons(words, sentence, capsys):
    assert curate(*words) == 2
    assert sentence in capsys.readouterr().err
