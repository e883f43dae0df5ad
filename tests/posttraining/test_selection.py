"""Which samples become data, and the account of those that do not.

Claim: `dots rft keep` keeps right answers, one of each path, and names every sample that it leaves out.
"""

import dataclasses
import random

import pytest

from dots_jax.posttraining import selection
from dots_jax.posttraining.answer_path import answer_path
from dots_jax.posttraining.questions import Question
from dots_jax.posttraining.samples import Sample
from dots_jax.posttraining.selection import Rules, select

QUESTIONS = [
    Question(id=name, messages=({"role": "user", "content": f"ask {name}"},), answer="4") for name in ("a", "b", "c")
]


def sample(question, number, text="#### 4", verdict="correct", finish_reason="stop"):
    (of,) = [one for one in QUESTIONS if one.id == question]
    return Sample(of, number, text, finish_reason, verdict, {"extracted": "4"})


WRONG = sample("a", 9, "#### 5", "wrong")


PLAIN = Rules()


def reasons(samples, rules=PLAIN, is_contaminated=lambda text: False):
    found = select(QUESTIONS, samples, rules, is_contaminated)
    assert len(found.kept) + len(found.left_out) == len(samples)
    return {(one.question.id, one.number): reason for one, reason in found.left_out}


def test_each_reason():
    samples = [
        sample("a", 0, "2 + 2 = 4\n#### 4"), sample("a", 1, "so 2+2=4 #### 4"), sample("a", 2, "1+3=4 #### 4"),
        sample("a", 3, "3+1=4 #### 4"), sample("a", 4, "4+0=4", finish_reason="length"), sample("a", 5, "?", "no_answer"),
        sample("a", 6, " "), sample("a", 7, "5-1=4", finish_reason="tool_calls"), WRONG, sample("b", 0), sample("b", 1),
        sample("c", 0, "#### 5", "wrong"),
    ]  # fmt: skip
    assert reasons(samples, Rules(cap=2)) == {
        ("a", 1): selection.SAME, ("a", 3): selection.CAP, ("a", 4): selection.CUT, ("a", 5): "no_answer",
        ("a", 6): selection.EMPTY, ("a", 7): "finish_reason tool_calls", ("a", 9): "wrong",
        ("b", 0): selection.ALWAYS, ("b", 1): selection.ALWAYS, ("c", 0): "wrong",
    }  # fmt: skip


def test_settings():
    samples = [sample("b", 0), sample("c", 0, "#### 5", "wrong"), sample("c", 1, "#### 4")]
    assert reasons(samples, Rules(always_right=True)) == {("c", 0): "wrong"}
    assert reasons(samples, Rules(unverified=True)) == {}
    assert reasons(samples, is_contaminated=lambda text: text == "ask c") == {
        ("b", 0): selection.ALWAYS, ("c", 0): selection.CONTAMINATED, ("c", 1): selection.CONTAMINATED,
    }  # fmt: skip


def test_the_order_of_the_file_does_not_matter():
    samples = [sample("a", n, f"{n}+{4 - n}=4") for n in range(5)] + [WRONG]
    shuffled = list(samples)
    random.Random(0).shuffle(shuffled)
    one, other = (select(QUESTIONS, these, Rules(cap=3), lambda text: False) for these in (samples, shuffled))
    assert one == other and [kept.number for kept in one.kept] == [0, 1, 2] and one.shares == {"a": 5 / 6}


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("2 × 3 = 6, so 6.", "We have 2*3=6 !", True),
        ("2+3=5", "3+2=5", False),
        ("答案是４", "答案是4。", True),
        ("It is four.", "it  is FOUR", True),
        ("It is four.", "It is not four.", False),
    ],
)
def test_paths_of_answers(one, other, same):
    assert (answer_path(one) == answer_path(other)) is same


def test_paths_of_programs():
    plain = "def f(x):\n    return x + 1"
    said = 'def f( x ):\n    """More by one."""\n    return x+1  # one'
    assert answer_path("", plain) == answer_path("", said) != answer_path("", plain.replace("1", "2"))
    assert answer_path("", "def f(:") == "def f("


def test_a_question_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        QUESTIONS[0].answer = "5"
