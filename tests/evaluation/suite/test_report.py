"""The report of a run: every row keeps its place, and what a model wrote is text.

Claim: the group means of the report's own figures are those that it prints, all nine to 0.05.
"""

from html.parser import HTMLParser

import pytest

from dots_jax.evaluation.suite.published import FIGURES, group_means
from dots_jax.evaluation.suite.report import page, write_report
from dots_jax.evaluation.suite.summary import RowSummary, Scores, summarise

PRINTED = {
    "table2": {"Chinese": 91.3, "English": 75.7, "Mathematics": 78.3, "Code": 59.6},
    "table5": {"English": 64.4, "Code": 65.0, "Mathematics": 60.9, "Chinese": 80.5, "Alignment": 77.9},
}
EVIL = '<script>alert(1)</script><img src="http://x/">&</pre>'


def answer(row="gsm8k", score=1.0, group="", **more) -> dict:
    line = {
        "row": row, "group": group, "id": EVIL, "mode": "generation", "key": str(more), "shots": 8, "dropped_shots": 0, "cut": 0,
        "ended": "stop", "new_tokens": 3, "text": EVIL, "extracted": "18", "score": score, "context": EVIL, "expected": EVIL,
    }  # fmt: skip
    return line | more


@pytest.mark.parametrize("suite", PRINTED)
def test_group_means_are_those_that_the_report_prints(suite):
    found = group_means(suite, FIGURES[suite])
    assert {name: pytest.approx(mean, abs=0.0501) for name, (mean, *_) in found.items()} == PRINTED[suite]
    assert all(mean == report for mean, report, *_ in found.values())
    missing = dict(list(FIGURES[suite].items())[1:])
    first = next(iter(PRINTED[suite]))
    assert group_means(suite, missing)[first][0] is None


def test_scores_and_their_errors():
    scores = Scores()
    for value in (1, 0, 1, 1):
        scores.add("a", value)
    assert scores.mean(False) == pytest.approx((75.0, 25.0))
    scores.add("b", 0)
    scores.add("b", 0)
    assert scores.mean(True) == pytest.approx((37.5, 12.5)) and scores.mean(False)[0] == pytest.approx(50)


def test_counts_by_name():
    lines = [
        answer(),
        answer(score=0.0, extracted=None, ended="length", n=1),
        answer(score=None, details={"left_out": "bad_question"}, n=2),
        answer(shots=3, dropped_shots=5, cut=7, n=3),
        answer(shots=0, n=4),
    ]
    (row,) = summarise([("gsm8k", "")], lines)
    assert row.counts() == {
        "without an answer": 1, "cut off": 1, "prompts cut": 1, "shots dropped": 5, "shots without data": 8,
        "left out (bad_question)": 1,
    }  # fmt: skip
    assert row.generated.items == 4 and row.score[0] == pytest.approx(75)


def test_the_page_is_alone_and_escapes_what_it_shows(tmp_path):
    rows = summarise(
        [("gsm8k", ""), ("nq", "no data: DATA/nq has none of NQ-open.dev.jsonl."), ("mmlu", "")],
        [answer(), answer(score=0.0, n=1), answer("mmlu", 1.0, "art"), answer("mmlu", 0.0, "law", n=1)],
    )
    write_report(str(tmp_path), "table2", "An <evaluation>", {"step": EVIL}, rows)
    text = (tmp_path / "report.html").read_text()
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "<script" not in text and '<img src="http' not in text and text.count("&lt;script&gt;") > 8
    outside = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attributes: outside.extend(
        value for name, value in attributes if name in ("src", "href") and not value.startswith(("data:", "#"))
    )
    reader.feed(text)
    assert not outside
    assert "86.7" in text and "-36.7" in text, "the report's figure and the difference"
    line = next(part for part in text.split("<tr") if "Natural Questions" in part)
    assert "no data" in line and '<td class="n">—</td>' in line and ">0.0<" not in line
    assert 'id="mmlu"' in text and "Answers that are wrong" in text and ">law<" in text


def test_a_run_without_any_data_still_has_its_rows():
    rows = [RowSummary("gsm8k", "no data: nothing")]
    text = page("table2", "t", {}, rows, b"")
    assert "GSM8K" in text and all(f">{figure}<" in text for figure in PRINTED["table2"].values())
