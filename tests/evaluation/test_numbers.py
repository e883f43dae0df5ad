"""Numbers of GSM8K and CMath."""

import time

import pytest

from dots_jax.evaluation.scoring.numbers import find_number, score_cmath, score_number

CASES = [  # the first ones: opencompass 2647, 2426; helm 4337; omlx 3484; lm-eval 3214
    (r"The answer is $\boxed{8,000}$.", "8000"),
    ("It costs $9{,}500.", "9500"),
    ("The total is 72 clips, altogether.", "72"),
    ("She pays $29.00.", "29"),
    ("#### 18", "18"),
    ("9 * 2 = <<9*2=18>>18\n#### 18\n\nQuestion: Next?\n#### 5", "18"),
    ("A: 18", "18"),
    ("The answer is 5. Wait, I forgot one. The answer is 6.", "6"),
    ("#### 5\nLet me check again.\n#### 7", "7"),
    ("The answer is $18 per day, for 2 people.", "18"),
    ("The answer is 3 + 4 = 7.", "7"),
    ("So the answer is 3 * 12 = 36 eggs in 3 days.", "36"),
    ("答案是１２。", "12"),
    ("答：一共有 1,200 个苹果。", "1200"),
    ("Thus −5 degrees.", "-5"),
    ("The answer is -5.", "-5"),
    ("He lost $-12", "-12"),
    (r"\boxed{\frac{3}{4}}", "3/4"),
    (r"\boxed{3} is wrong, so \boxed{4}", "4"),
    ("The answer is 1\\,000.", "1000"),
    ("The answer is **42**.", "42"),
    ("Final Answer: 7.5", "7.5"),
    ("In 2024 she had 10 and bought 5 more, so 15", "15"),
    ("<think>maybe 3</think>The answer is 4.", "4"),
    ("The final answer is \\boxed{1{,}234}", "1234"),
    ("10,20,30", "30"),
    ("No idea.", None),
    ("", None),
    ("#### $1,450.00", "1450"),
    ("The answer is .5", "0.5"),
    ("The answer is 3 1/2", "3.5"),
    ("The answer is 1 000.", "1000"),
    ("answer is 15 minutes, or 900 seconds", "15"),
    ("The final answer is $5 \\times 10 = 50$.", "50"),
]


@pytest.mark.parametrize("text, number", CASES)
def test_the_number(text, number):
    if number is None:
        assert find_number(text) is None and not score_number(text, "5").correct
    else:
        score = score_number(text, f"... #### {number}")
        assert score.correct, score


def test_gold_is_the_published_answer_or_a_number():
    assert score_number("#### 1,000", "so much. #### 1,000").correct
    assert score_number("#### 18", 18).correct and not score_number("#### 181", "#### 18").correct


@pytest.mark.parametrize(
    "text, gold, right",
    [
        ("99－90＝9（页）。还剩9页没有看。", "9", True),
        ("答案是五分之三，也就是3/5。", "3/5", True),
        ("5分之3", "0.6", True),
        ("一共是 1,500 元", "1500", True),
        ("先有20，再有30，最后是50个。一共是60个。", "60", True),
        ("是20个。是30个。是50个。", "20", False),  # the last two only
        ("大约是3.14", "3.15", True),  # within one percent, as the authors have it
        ("是25%", "0.25", True),
        ("答案是１８。", "18", True),
        ("不知道", "5", False),
        ("68", "68", True),
        ("是68下", "69", False),  # integers are compared exactly
    ],
)
def test_cmath(text, gold, right):
    assert score_cmath(text, gold).correct == right


def test_long_texts_cost_no_time():
    began = time.process_time()
    for text in (
        "1" * 50_000,
        "1," * 30_000,
        "answer is " * 5000,
        "\n" * 30_000,
        "answer is" + " " * 30_000 + "x",
        "1 " * 20_000,
    ):
        find_number(text)
        score_cmath(text, "1")
    assert time.process_time() - began < 10
