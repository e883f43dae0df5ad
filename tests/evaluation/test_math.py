"""The verifier of mathematics: its truth table, time-outs that cost no other pair, and the text that answers stand in.

Claim: on 60 pairs in Chinese and English with more than 20 traps the mathematics verifier calls nothing correct that is wrong.
"""

import time

import pytest
from math_truth_table import HANGS, PAIRS

from dots_jax.config import UserError
from dots_jax.evaluation.scoring import math_verifier
from dots_jax.evaluation.scoring.answer_text import last_box
from dots_jax.evaluation.scoring.math_text import find_answer, hendrycks_form, same_text
from dots_jax.evaluation.scoring.math_verifier import MathVerdict, MathVerifier, score_math

pytest.importorskip("math_verify", reason="math-verify is an extra: pip install 'dots_jax[evaluation]'")
pytestmark = pytest.mark.subprocess


@pytest.fixture(scope="module")
def verifier():
    with MathVerifier(seconds=1.0) as verifier:
        yield verifier


def test_truth_table(verifier):
    found = verifier.verify([(solution, gold) for solution, gold, _ in PAIRS])
    different = [(pair, ours) for pair, ours in zip(PAIRS, found) if ours.verdict != pair[2]]
    assert not [pair for pair, ours in different if ours.verdict == "correct"], "wrong answers called correct"
    assert not different


def test_a_pair_that_hangs_costs_its_own_time_and_no_other_verdict(verifier):
    pairs = [
        (HANGS, "3"),
        (r"\boxed{\sqrt{18}}", r"3\sqrt{2}"),
        (r"\boxed{(a+b)^2}", "a^2+2ab+b^2"),
        (r"\boxed{\sqrt{7}}", r"\sqrt{8}"),
    ]
    assert [each.verdict for each in verifier.verify(pairs * 2)] == ["timeout", "correct", "correct", "wrong"] * 2
    score = score_math(HANGS, "3", verifier)
    assert score.value == 0 and score.details == {"verdict": "timeout"}


def test_rows_of_matrices_are_compared_and_nothing_is_read_out_of_what_is_no_latex(verifier):
    matrix = r"\begin{pmatrix} 1 & %d \\ 0 & 2 \end{pmatrix}"
    pairs = [(rf"$\boxed{{{matrix % 3}}}$", matrix % other) for other in (3, 4)]
    pairs += [(r"$\boxed{\begin{cases} 7 \ }$", r"\begin{array} 8 & 7 \ "), (r"$\boxed{1 & 2 \ 3}$", r"4 & 2 \ 3")]
    assert [each.verdict for each in verifier.verify(pairs)] == ["correct", "wrong", "wrong", "wrong"]


def test_most_pairs_need_no_algebra(verifier):
    began = time.process_time()
    pairs = [(f"So we get $\\boxed{{{n}}}$.", str(n)) for n in range(500)]
    assert {each.verdict for each in verifier.verify(pairs)} == {"correct"}
    assert {each.verdict for each in verifier.verify([(a, "-1") for a, _ in pairs])} == {"wrong"}
    assert time.process_time() - began < 5


def test_a_worker_that_dies_is_an_error_of_its_pair(verifier, monkeypatch):
    monkeypatch.setattr(math_verifier._Worker, "ask", lambda *_: (_ for _ in ()).throw(BrokenPipeError()))
    assert verifier.verify_one(r"\boxed{\sqrt{18}}", r"3\sqrt{2}") == MathVerdict("error", r"\sqrt{18}")


def test_without_math_verify_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'dots_jax\[evaluation\]'"):
        MathVerifier()


@pytest.mark.parametrize(
    "text, box",
    [
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),  # ms-swift 10147: the first brace is not the last
        (r"\boxed{3} then \boxed{4}", "4"),
        (r"$\boxed{3}$ and $\boxed{4}$", "3,4"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed 5", "5"),
        (r"\fbox{9}", "9"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{4} and later \boxed{5", "4"),
        ("none", None),
    ],
)
def test_boxes(text, box):
    assert last_box(text) == box


def test_answers_without_a_box():
    assert find_answer("Final Answer: The final answer is $12$. I hope it is correct.") == "12"
    assert find_answer(r"The answer is \(x = 5\), since it fits.") == "x = 5"
    assert find_answer("The answer is 12 because 3 * 4 = 12.") == "12" == find_answer("The answer is 12.")
    assert find_answer("x" * 10_000) is None and len(find_answer("answer is " + "9" * 10_000)) <= 1000


def test_hendrycks_form():
    for one, other in (
        (r"\frac12", r"\frac{1}{2}"), (r"\dfrac{1}{2}", "1/2"), ("0.5", "1/2"), (r"\sqrt3", r"\sqrt{3}"), ("x=5", "5"),
        (r"10\%", "10"), (r"90^\circ", "90"), (r"\left(1,2\right)", "(1,2)"), (r"5\text{ feet}", "5"), (".5x", "0.5x"),
    ):  # fmt: skip
        assert hendrycks_form(one) == hendrycks_form(other)
    assert hendrycks_form("") == "" and same_text("3", "4") is False and same_text("x", "y") is None
