"""Replies of judges: unreadable ones are asked again, ties count one half, seats are exchanged."""

import math

import pytest

from dots_jax.evaluation.scoring import judged


@pytest.mark.parametrize(
    "reply, grade",
    [
        ("A", "CORRECT"),
        ("B.", "INCORRECT"),
        ("C: NOT_ATTEMPTED", "NOT_ATTEMPTED"),
        ("INCORRECT", "INCORRECT"),  # simple-evals finds the C: NOT_ATTEMPTED
        ("CORRECT", "CORRECT"),
        ("Not attempted", "NOT_ATTEMPTED"),
        ("**A**", "CORRECT"),
        ("The grade is (B)", "INCORRECT"),
        ("A: CORRECT", "CORRECT"),
        ("A or B", None),
        ("A perfect reply.", None),
        ("I cannot grade this", None),
        ("", None),
    ],
)
def test_simpleqa(reply, grade):
    assert judged.parse_simpleqa(reply) == grade
    assert judged.score_simpleqa(reply).value == (None if grade is None else float(grade == "CORRECT"))


def test_alpaca_ties_and_missing_verdicts():
    assert judged.alpaca_win_rate([2, 1, 1.5, 0, 1.25, None, float("nan"), 7]) == (
        100 * (1 + 0 + 0.5 + 0.5 + 0.25) / 5,
        3,
    )
    assert judged.parse_alpaca("M") == 2.0 and judged.parse_alpaca("m") == 1.0 and judged.parse_alpaca("Both.") is None
    assert math.isnan(judged.alpaca_win_rate([None])[0])


def test_arena_exchanges_the_seats():
    """The model is B in the first game and A in the second; arena-hard-auto 14 and PR 23."""
    assert judged.arena_battles("B>>A", "A>B") == [1.0, 1.0, 1.0, 1.0]
    assert judged.arena_battles("A>B", "A=B") == [0.0, 0.5]
    assert judged.arena_battles("A>>B", "B>A") == [0.0] * 4
    assert judged.arena_battles(None, "A>B") is None
    assert judged.parse_arena("My verdict is [[A>B]].") == "A>B"
    assert judged.parse_arena("[[A>B]] or [[B>A]]") is None and judged.parse_arena("A>B") is None
    rate, low, high = judged.arena_win_rate([[1.0, 1.0], [0.0], [0.5]] * 50)
    assert rate == 62.5 and low < rate < high
