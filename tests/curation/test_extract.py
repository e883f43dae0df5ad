"""HTML to text in a process of its own: what native code does to a page costs that page alone.

Claim: a page that hangs, fills memory or kills its extractor has that reason in the ledger, and no other page changes.
"""

import os
import signal
import threading
import time

import pytest
from web_pages import page, paragraph, shared_web

from dots_jax.config import CurateConfig, ExtractConfig
from dots_jax.curation import extract
from dots_jax.curation.record import Document, Page, Removal
from dots_jax.curation.sandbox import Failure, Sandbox, Text

CONFIG = ExtractConfig(seconds=1, memory=1024)
TEXT = paragraph(1)


def around(inner: str) -> str:
    return f"<html><head><title>t</title></head><body>{inner}</body></html>"


@pytest.fixture(scope="module")
def step():
    with extract.opened(CurateConfig(extract=CONFIG)) as function:
        yield lambda html: function(Page("id", "http://a.example/", b"", date="2026", html=html, encoding="utf-8"))


def test_a_page_becomes_a_document(step):
    found = step(page(1))
    assert isinstance(found, Document) and found[:2] == ("id", "http://a.example/")
    assert (found.date, found.encoding, found.extractor) == ("2026", "utf-8", "trafilatura")
    assert paragraph(10) in found.text and "Contact us" not in found.text


def test_no_state_between_pages(step):
    texts = [step(page(1)).text for _ in range(6)]
    assert len(set(texts)) == 1 and texts[0]
    assert step(page(2)).text and step(page(1)).text == texts[0]


DEEP = "<div>" * 3000 + f"<p>{TEXT}</p>" * 5 + "</div>" * 3000
FONTS = "".join(f"<p><font><i>Sentence {n} of a page that closes no tag at all." for n in range(3000))


@pytest.mark.parametrize(
    "name, inner, extractor, found",
    [
        ("300 levels", "<div>" * 300 + f"<p>{TEXT}</p>" * 5 + "</div>" * 300, "trafilatura", TEXT),
        ("3,000 levels", DEEP, "resiliparse", TEXT),
        ("unclosed fonts", FONTS, "resiliparse", "Sentence 2999 of"),
        ("a script of 12 MB", f"<script>{'x=1;' * 3_000_000}</script>" + f"<p>{TEXT}</p>" * 5, "trafilatura", TEXT),
        ("an attribute of 10 MB", f"<p title='{'a' * 10_000_000}'>x</p>" + f"<p>{TEXT}</p>" * 5, "trafilatura", TEXT),
        ("colspan", f"<table><tr><td colspan=9007199254740991>x</td></tr></table><p>{TEXT}</p>", "trafilatura", TEXT),
    ],
    ids=lambda value: value if len(str(value)) < 30 else "",
)
def test_what_the_parser_loses_in_silence_is_rescued(step, name, inner, extractor, found):
    answer = step(around(inner))
    assert isinstance(answer, Document), answer
    assert answer.extractor == extractor and found in answer.text


def test_a_page_without_text_has_its_reason(step):
    answer = step(around("<script>x</script>"))
    assert isinstance(answer, Removal) and (answer.step, answer.reason) == ("extraction", "empty")


def test_time_is_bounded_and_the_rescue_gets_its_turn(step):
    start = time.process_time()
    answer = step(around("<table>" + "<tr><td>cell of a table</td></tr>" * 60_000 + "</table>"))
    assert time.process_time() - start < 2  # of this process: the work is done elsewhere
    if isinstance(answer, Document):
        assert answer.extractor == "resiliparse"
    else:
        assert answer.reason == "time limit" and "resiliparse" in answer.detail
    assert isinstance(step(page(3)), Document)


def test_memory_is_bounded():
    config = ExtractConfig(seconds=5, memory=300)
    with Sandbox(config) as box:
        answer = box.run(around("<p>" + "<b>x</b>y" * 1_500_000), "trafilatura")
        assert isinstance(answer, Failure) and answer.reason == "memory limit", answer
        assert isinstance(box.run(page(1), "trafilatura"), Text)


def test_death_is_a_reason_and_the_next_page_has_a_new_process():
    with Sandbox(ExtractConfig(seconds=5)) as box:
        box.run(page(1), "resiliparse")
        timer = threading.Timer(0.5, os.kill, [box._child.pid, signal.SIGSEGV])
        timer.start()
        answer = box.run(around("<table>" + "<tr><td>cell of a table</td></tr>" * 60_000), "trafilatura")
        assert answer == Failure("extractor died", "trafilatura ended with SIGSEGV")
        assert isinstance(box.run(page(1), "resiliparse"), Text)


def test_a_process_that_sleeps_is_given_up(monkeypatch):
    monkeypatch.setattr("dots_jax.curation.sandbox.ASLEEP_SECONDS", 0.4)
    with Sandbox(CONFIG) as box:
        os.kill(box._start().pid, signal.SIGSTOP)
        answer = box.run(page(1), "resiliparse")
        assert answer.reason == "time limit" and "asleep" in answer.detail
        assert isinstance(box.run(page(1), "resiliparse"), Text)


def test_limits_work_in_threads_that_are_not_the_main_one():
    answers = []

    def work():
        with Sandbox(CONFIG) as box:
            answers.append(box.run(around("<table>" + "<tr><td>cell of a table</td></tr>" * 60_000), "trafilatura"))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers[0].reason == "time limit"


def test_the_other_engine(tmp_path):
    with extract.opened(CurateConfig(extract=ExtractConfig(engine="resiliparse"))) as function:
        found = function(Page("id", "", b"", html=page(1)))
    assert found.extractor == "resiliparse" and paragraph(10) in found.text


@pytest.mark.slow
def test_f1_on_real_pages():
    """Mark 1, on the pages that are at hand."""
    from benchmarks.curation_extraction import extract_folder, read_gold, score

    for name, least in (("zyte", 0.960), ("zh_articles", 0.880)):
        gold, found = read_gold(shared_web() / name), extract_folder(shared_web() / name)
        figures = score([(text, found.get(id, "")) for id, text in gold.items()])
        assert figures["f1"] >= least and figures["pages_with_recall_above_half"] >= 0.95, figures
