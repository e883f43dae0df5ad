"""Decontamination: documents that hold a long n-gram of a benchmark go; what cannot work is refused."""

import json

import pytest

from dots_jax.config import CurateConfig, DecontaminationConfig, UserError
from dots_jax.curation import decontaminate
from dots_jax.curation.record import Document

QUESTION = "A train leaves the station at nine and travels sixty miles in one hour before it stops for lunch; when?"
CHINESE = "小明有十二个苹果，他把其中的三分之一送给了妹妹，又买了五个新的苹果，请问现在他一共有多少个苹果呢？"


def step(tmp_path, rows, **settings):
    path = tmp_path / "bench.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return decontaminate.opened(CurateConfig(decontamination=DecontaminationConfig(texts=(str(path),), **settings)))


def test_a_document_that_holds_a_question_goes(tmp_path):
    """Claim: a document with 13 words in a row of a benchmark's text goes, whatever its case and punctuation."""
    with step(tmp_path, [{"q": QUESTION, "choices": [{"text": CHINESE}], "id": 7}]) as judge:
        for text in (f"See: {QUESTION.upper().replace(';', ' --')}", f"题目：{CHINESE}答案是十三。"):
            found = judge(Document("a", "", text))
            assert (found.reason, found.step) == ("benchmark text", "decontamination") and found.score >= 1
        for text in ("", "A train leaves the station at nine.", " ".join(QUESTION.split()[:12]), "苹果很好吃。"):
            document = Document("b", "", text)
            assert judge(document) is document


def test_the_number_of_hits_can_be_set(tmp_path):
    thirteen = " ".join(QUESTION.split()[:13])
    with step(tmp_path, [{"q": QUESTION}], min_hits=2) as judge:
        assert isinstance(judge(Document("a", "", thirteen)), Document)
        assert judge(Document("a", "", QUESTION)).reason == "benchmark text"


def test_texts_without_an_ngram_are_counted():
    ngrams = decontaminate.collect([QUESTION, "too short", ""])
    assert (ngrams.texts, ngrams.short) == (3, 2)
    assert decontaminate.hits(QUESTION, ngrams) == len(ngrams.hashes) == len(QUESTION.split()) - 12


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("a.csv", "x", "neither .txt"), ("a.jsonl", "{", "cannot be read"), ("a.txt", "\n", "holds no text"),
        ("a.txt", "short text", "none of 1 texts"), (None, "", "needs DecontaminationConfig.texts"),
    ],
)  # fmt: skip
def test_what_cannot_work_gets_one_sentence(tmp_path, name, content, says):
    if name:
        (tmp_path / name).write_text(content)
    paths = (str(tmp_path / name),) if name else ()
    with pytest.raises(UserError, match=says):
        decontaminate.read_ngrams(CurateConfig(decontamination=DecontaminationConfig(texts=paths)))
