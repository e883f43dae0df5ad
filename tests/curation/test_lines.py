"""Line-wise deduplication: which lines count, which occurrences stay, and that everything else keeps its bytes."""

import random
from collections import Counter

import numpy as np
import pytest

from dots_jax.config import CurateConfig, LineConfig, UserError
from dots_jax.curation import exchange, lines
from dots_jax.curation.books import Books
from dots_jax.curation.record import Document, key_of, to_line
from dots_jax.curation.unit import digest_of

CONFIG = CurateConfig(lines=LineConfig(keep=3))


def rows_of(documents, config=CONFIG, crawl=0) -> np.ndarray:
    keys = np.array([key_of(config.seed, document.id) for document in documents], np.uint64)
    digests = np.array([digest_of(to_line(document)) for document in documents], np.uint64)
    rows = lines.rows(documents, keys, digests, config)
    rows["crawl"] = crawl
    return rows


def removed(documents, rows, config=CONFIG):
    """Carries out the verdicts on these documents; the books raise if a line or character is lost."""
    decisions = lines.decide(exchange.sort_rows(rows), config)
    kept, ledger = [], []
    for document in documents:
        key, digest = key_of(config.seed, document.id), digest_of(to_line(document))
        mine = decisions[(decisions["key"] == key) & (decisions["digest"] == digest)]
        outcome = lines.apply(document, mine, str, config)
        Books().add("lines", [document], outcome.kept, outcome.removed)
        kept += outcome.kept
        ledger += outcome.removed
    return kept, ledger


def texts(number: int, line: str = "Share this page", seed: int = 0) -> list[Document]:
    """Documents that begin with one line, the second half with an own line before it."""
    return [
        Document(f"{seed}-{n}", f"http://a.org/{n}", f"{line}\nText {seed} {n}.\n\nEnd of {seed} {n}.")
        for n in range(number)
    ]


def test_the_first_and_last_five_lines_with_a_letter_or_number_count():
    text = "\n".join(["***", "", *(f"line {n}" for n in range(20)), "---", "  "])
    found = lines.ends(text, LineConfig())
    assert [line for _, line in found] == [f"line {n}" for n in (0, 1, 2, 3, 4, 15, 16, 17, 18, 19)]
    assert [place for place, _ in found] == [2, 3, 4, 5, 6, 17, 18, 19, 20, 21]


@pytest.mark.parametrize("number", [0, 1, 4, 5, 9, 10, 11])
def test_of_a_short_text_each_line_counts_once(number):
    text = "\n".join(f"line {n}" for n in range(number))
    found = [place for place, _ in lines.ends(text, LineConfig())]
    assert found == sorted(set(found)) and len(found) == min(number, 10)


def test_a_text_of_symbols_alone_has_no_line():
    assert lines.ends("***\n---\n·\n\n", LineConfig()) == []


def test_equal_lines():
    same = ["Caf\u00e9  au\tlait", " Cafe\u0301 au lait "]
    assert len({lines.line_key(line) for line in same}) == 1
    assert len({lines.line_key(line) for line in ("About us", "about us", "About us.")}) == 3


def test_the_first_occurrences_stay_and_the_rest_go_with_a_row_each():
    """Claim: of a line at the ends of many documents exactly `keep` occurrences stay; every other one is in the ledger."""
    documents = texts(8)
    kept, ledger = removed(documents, rows_of(documents))
    with_line = [document for document in kept if document.text.startswith("Share")]
    assert len(with_line) == 3 and len(kept) == 8
    first = sorted(documents, key=lambda document: key_of(0, document.id))[:3]
    assert {document.id for document in with_line} == {document.id for document in first}
    assert with_line == [document for document in documents if document in first]  # not a byte has changed
    assert sorted(row.score for row in ledger) == [4, 5, 6, 7, 8]
    assert {(row.text, row.detail, row.characters) for row in ledger} == {("Share this page", "line 1", 16)}


def test_only_the_place_goes_and_not_the_same_words_elsewhere():
    middle = "\n".join([f"first {n}" for n in range(5)] + ["Share this page"] + [f"last {n}" for n in range(5)])
    documents = [*texts(9), Document("m", "", middle)]
    kept, _ = removed(documents, rows_of(documents))
    assert kept[-1].text == middle


def test_a_line_twice_in_one_document_counts_twice():
    documents = [Document(str(n), "", "Next\nText of {n}.\nNext") for n in range(2)]
    kept, ledger = removed(documents, rows_of(documents))
    assert Counter(line for document in kept for line in document.text.split("\n"))["Next"] == 3
    assert [row.score for row in ledger if row.text == "Next"] == [4]


def test_a_document_without_any_other_line_goes_as_a_document():
    documents = [Document(str(n), "", "Not found\n\n") for n in range(5)]
    kept, ledger = removed(documents, rows_of(documents))
    assert len(kept) == 3
    assert {(row.kind, row.reason, row.lines) for row in ledger} == {("document", "lines", 3)}


def test_order_and_shards_do_not_matter():
    documents = [*texts(12), *texts(12, "Follow us", seed=1), *texts(2, "Rare", seed=2)]
    expected = removed(documents, rows_of(documents))
    shuffled = random.Random(1).sample(documents, len(documents))
    for shards in (1, 3, 7):
        rows = np.concatenate([rows_of(shuffled[n::shards]) for n in range(shards)])
        assert removed(documents, rows) == expected


def test_a_second_crawl_needs_the_counts_of_the_first_and_not_its_text():
    """Claim: lines of a crawl are judged after another crawl's state as if both were read at once."""
    first, second = texts(5) + texts(2, "Subscribe", 1), texts(5, seed=2) + texts(3, "Subscribe", 3)
    together = np.concatenate([rows_of(first), rows_of(second, crawl=1)])
    state = lines.condense(exchange.sort_rows(rows_of(first)), CONFIG)
    assert len(state) < len(rows_of(first))
    after = np.concatenate([state, rows_of(second, crawl=1)])
    assert removed(second, after) == removed(second, together)
    assert removed(first, together) == removed(first, rows_of(first))
    both = lines.condense(exchange.sort_rows(together), CONFIG)
    assert (lines.condense(exchange.sort_rows(after), CONFIG) == both).all()


def test_no_document_no_row():
    empty = np.empty(0, lines.ROW)
    assert len(lines.decide(empty, CONFIG)) == len(lines.condense(empty, CONFIG)) == 0
    assert len(rows_of([Document("a", "", "***")])) == 0


@pytest.mark.parametrize("settings", [{"keep": 0}, {"head": -1}, {"head": 0, "tail": 0}])
def test_settings_that_make_no_sense_get_one_sentence(settings):
    with pytest.raises(UserError, match="LineConfig"):
        LineConfig(**settings)
