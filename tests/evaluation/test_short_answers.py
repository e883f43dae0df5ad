"""Short answers: TriviaQA, NQ, DROP, LAMBADA, BBH, RULER."""

import pytest

from dots_jax.evaluation.scoring import long_context
from dots_jax.evaluation.scoring.short_answers import (
    drop_metrics,
    find_bbh,
    score_bbh,
    score_drop,
    score_lambada,
    score_nq,
    score_triviaqa,
)


@pytest.mark.parametrize(
    "text, gold, right",
    [
        (" J. R. R. Tolkien", ["J. R. R. Tolkien"], True),  # lm-eval stops at the full stop
        (" Washington, D.C.", ["washington dc", "Washington, D.C."], True),
        ("the Beatles", ["Beatles"], True),
        ("rock-and-roll", ["rock and roll"], True),
        ("O’Neill", ["O'Neill"], True),
        ("sunset_boulevard", ["Sunset Boulevard"], True),
        ("Onion\nQuestion: Which?\nAnswer: Leek", ["Onion"], True),
        ("Onion\nIt is a vegetable.", ["Onion"], True),
        ("The answer is Onion.", ["Onion"], True),
        ("Answer: **Onion**", ["Onion"], True),
        ("Onions and leeks", ["Onion"], False),
        ("", ["The"], False),
        ("leek", {"NormalizedAliases": ["leek"], "Value": "Leek"}, True),
        ("leek", {"aliases": [], "normalized_aliases": ["leek"], "value": "Leek"}, True),
        ("leek", {"Answer": {"NormalizedAliases": ["leek"]}, "Question": "?"}, True),
    ],
)  # fmt: skip
def test_triviaqa(text, gold, right):
    assert score_triviaqa(text, gold).correct == right


def test_a_letter_has_two_unicode_forms():
    """Found with mutated answers: an answer that was published in the decomposed form was never right."""
    one, two = "Beyonc\u00e9", "Beyonce\u0301"
    for text, gold in ((one, two), (two, one), (two, two)):
        assert score_triviaqa(text, [gold]).correct and score_nq(text, [gold]).correct
        assert score_drop(text, {"spans": [gold]}).value == 1


def test_nq_removes_punctuation_where_triviaqa_puts_a_space():
    assert score_nq("14 December 1972, UTC", ["14 December 1972 UTC", "December 1972"]).correct
    assert (
        score_nq("rockandroll", ["rock-and-roll"]).correct
        and not score_triviaqa("rockandroll", ["rock-and-roll"]).correct
    )


@pytest.mark.parametrize(
    "text, gold, em, f1",
    [
        ("12.5", {"number": "12.5", "date": {}, "spans": []}, 1, 1.0),  # lm-eval 0.4.13 cuts it to 12
        ("10\n\nPassage: The 2011", {"number": "10"}, 1, 1.0),  # lm-eval 978, 1050
        ("Answer: 10", {"ref_text": "10|ten"}, 1, 1.0),
        ("about 10 yards", "10", 0, 0.5),
        ("9 yards", "10 yards", 0, 0.0),  # a wrong number scores nothing
        ("the 4th of July", {"date": {"day": "4", "month": "July", "year": ""}}, 0, 0.0),  # 4th is no number 4
        ("4 July", {"date": {"day": "4", "month": "July", "year": ""}}, 1, 1.0),
        (
            "Tom Brady",
            {"answer": {"number": "", "spans": ["Brady"]}, "validated_answers": [{"spans": ["Tom Brady"]}]},
            1,
            1.0,
        ),
        ("23.5%", "23.5", 0, 0.0),  # official defect: 235
        ("10\nyards", "10 yards", 0, 0.0),  # official defect: one token
        ("", "10", 0, 0.0),
    ],
)
def test_drop(text, gold, em, f1):
    score = score_drop(text, gold)
    assert (score.details["em"], score.value) == (em, f1)


def test_drop_aligns_spans():
    assert drop_metrics(["b c", "a x"], ["x a", "b"]) == (0.0, 0.83)
    assert score_drop(["John", "Mary"], {"spans": ["Mary", "John"]}).value == 1


@pytest.mark.parametrize(
    "text, found",
    [
        ("So the answer is (B). ", "(B)"),  # lm-eval 2013: the space cost 39 points
        ("So the answer is (B).\n\nQ: Next\nA: So the answer is (C).", "(B)"),
        ("The answer is valid.", "valid"),
        ("So the answer is ] ) >.", "] ) >"),
        ("so the answer is True", "True"),
        ("I cannot say.\nReally.", None),
    ],
)
def test_bbh(text, found):
    assert find_bbh(text) == found


def test_bbh_equality():
    assert score_bbh("So the answer is (B) 12/14.", "(B)").correct and score_bbh("the answer is B.", "(B)").correct
    assert not score_bbh("the answer is (A).", "(B)").correct and not score_bbh("the answer is -12.", "12").correct
    assert score_bbh("So the answer is no.", "No").correct
    assert not score_bbh("So the answer is (A) or (B).", "(A)").correct


def test_lambada_is_the_first_word():
    assert score_lambada(" signs.\nAnd", "signs").correct and not score_lambada(" sign", "signs").correct


def test_ruler():
    """lm-eval has the maximum and the sum of the two exchanged; the reference must be in the prediction, not otherwise."""
    assert long_context.score_any("It is Paris.", ["Paris", "City of Paris"]).value == 1
    assert long_context.score_all("It is Paris.", ["Paris", "City of Paris"]).value == 0.5
    assert (
        long_context.score_any("The Colisée can seat 3,677 people.", ["3,677 seated"]).value == 0
    )  # RULER 100, by design
    assert long_context.score_all("\x01ABCDE\x02fghij", ["abcde", "FGHIJ"]).value == 1
