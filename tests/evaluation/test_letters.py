"""The letter of a multiple choice answer, on the inputs of public reports of wrong verdicts, and on tricky ones of our own."""

import time

import pytest

from dots_jax.evaluation.scoring.letters import find_letter, find_letter_mmlu_pro, score_letter, score_letters

REPORTED = [  # opencompass 2600, 1933, 1462; simple-evals 33; OPD-V 2; VLMEvalKit 1591; omlx 3668; full-width
    ("只有选项B是对的", "B"),
    ("Answer: Let's think step by step. First, we compute the value.", None),
    ("Let's think step by step. A is tempting.", None),
    ("Answer: A\nOn reflection that fails.\nAnswer: C", "C"),
    ("Antwort:\n\nAntwort: C", "C"),
    ("Answer: **D**", "D"),
    ("Answer: $B", "B"),
    ("Answer: $B$", "B"),
    ("The answer is C because I computed the integral", "C"),
    ("答案：Ｂ", "B"),
    ("本题选（Ａ）。", "A"),
]
ENGLISH = [
    (" B", "B"),
    ("B\n\nQuestion: What is next?\nAnswer: C", "B"),
    ("(C)", "C"),
    ("D. 42", "D"),
    ("C) Paris", "C"),
    ("A", "A"),
    ("A common mistake is to multiply.", None),
    ("A common mistake is to pick B. The answer is (D).", "D"),
    ("The correct answer is: (B) 12", "B"),
    ("**Answer:** C", "C"),
    ("**The answer is B.**", "B"),
    ("The best option is option D.", "D"),
    ("Option C is correct.", "C"),
    ("(A) is the correct answer.", "A"),
    ("The answer is A. Wait, that is wrong: the answer is B.", "B"),
    ("I first thought the answer is A, but it must be C.", "C"),
    ("The answer cannot be A, so the answer is D", "D"),
    ("So we get $\\boxed{B}$.", "B"),
    ("The final answer is $\\boxed{\\text{C}}$", "C"),
    ("\\boxed{A} ... no, \\boxed{D}", "D"),
    ("<think>The answer is A</think>\n\nAnswer: B", "B"),
    ('{"reasoning": "2 + 2", "answer": "C"}', "C"),
    ('{\n "reasoning": "Option A is wrong.",\n "answer": "(D)"\n}', "D"),
    ("I would choose B.", "B"),
    ("Therefore, I'll go with D", "D"),
    ("Each option fails but one.\n\nC", "C"),
    ("It is a dog.", None),
    ("The answer is a dog.", None),
    ("I don't know.", None),
    ("", None),
    ("Answer:\nB", "B"),
    ("Answer - see below", None),
    ("The answer is not A. The answer is B.", "B"),
    ("A is incorrect, B is incorrect, D is incorrect. So C is correct.", "C"),
    ("The answer is (A) and not (B).", "A"),
    ("`B`", "B"),
    ("<|response|>B<|endofresponse|>"[12:], "B"),
]
CHINESE = [
    ("答案：B", "B"),
    ("答案是Ｃ。", "C"),
    ("故选：D", "D"),
    ("因此，正确答案是（Ｃ）", "C"),
    ("所以选A。", "A"),
    ("应选B项", "B"),
    ("答案不是A，而是C。", "C"),
    ("选项A不正确，选项B不正确，选项D正确。", "D"),
    ("先看A，A错误；B不对；因此答案为C", "C"),
    ("我认为应该选择B", "B"),
    ("【答案】A", "A"),
    ("答案为【Ｄ】", "D"),
    ("正确选项是C", "C"),
    ("B正确", "B"),
    ("综上，答案选C", "C"),
    ("不选A，选B。", "B"),
    ("一开始以为答案是A，其实应该是D。", "D"),
    ("这道题考查语法知识。", None),
    ("A. 是\nB. 否\n答案：B", "B"),
]  # fmt: skip


MORE = [
    ("The correct answer is option (B).", "B"),
    ("Answer: (C) 12", "C"),
    ("**Answer: (A)**", "A"),
    ("Final answer: D", "D"),
    ("ANSWER: B", "B"),
    ("answer: c", None),
    ("The answer is\n\n**B**", "B"),
    ("Answer:\n\n(B)", "B"),
    ("Let's analyze. A: incorrect. B: correct. Therefore B.", "B"),
    ("Therefore, the answer is: **(D)**.", "D"),
    ("My answer: C", "C"),
    ("So, the correct choice is B: 5.", "B"),
    ("Among the options, C is the most appropriate.", "C"),
    ("I think A, but after checking, the answer should be C.", "C"),
    ("The answer is A or B? No, it's C.", "C"),
    ("Initially A. Actually, B is right.", "B"),
    ("Correct option: D", "D"),
    ("The right answer is “B”.", "B"),
    ("$\\boxed{\\textbf{(C)}}$", "C"),
    ("$\\boxed{\\text{D. } 5}$", "D"),
    ("\\boxed{B\\text{. foo}}", "B"),
    ("\\boxed{\\mathrm{A}}", "A"),
    ("The answer is $\\mathbf{B}$.", "B"),
    ("选B。", "B"),
    ("选择 C", "C"),
    ("答案应为 D", "D"),
    ("故答案为：A．", "A"),
    ("故选Ａ．", "A"),
    ("因此，选项 C 是正确的。", "C"),
    ("答案：(B) 只有", "B"),
    ("正确答案：Ｃ", "C"),
    ("所以答案是 **D**。", "D"),
    ("综上所述，本题的正确答案是B。", "B"),
    ("A、B、D都不对，只有C符合题意。", "C"),
    ("A选项错误；B选项错误；C选项正确；D选项错误。", "C"),
    ("答案 C", "C"),
    ("答案Ｄ", "D"),
    ("我选择A选项", "A"),
    ("首先排除A和B，在C和D之间，应选D。", "D"),
    ("由此可知答案为C项。", "C"),
    ("因此应该选（B）", "B"),
    ("该题答案：D。", "D"),
    ("经过分析，D项正确", "D"),
    ("答案是B，而不是A", "B"),
    ("不是B，是C", "C"),
    ("本题应选择：C", "C"),
    ("The answer is B, not A.", "B"),
    ("The correct answer isn't A; it's D.", "D"),
    ("B is the answer.", "B"),
    ("Thus (C).", "C"),
    ("Hence, option B", "B"),
    ("Hence option B is the correct answer", "B"),
    ("Choice D is correct", "D"),
    ("So it's B.", "B"),
    ("the best answer is thus B", "B"),
    ("Option A seems right. Hmm, no. Option B is correct. Final: B", "B"),
    ('{"answer": "B"}', "B"),
    ('```json\n{"reasoning": "..", "answer": "D"}\n```', "D"),
    ("Answer: B. The reason is that A is wrong", "B"),
    ("B because 2+2=4", "B"),
    ("B, since it is", "B"),
    (" D\n", "D"),
    ("C\n\nC is right", "C"),
    ("The answer to this question is C", "C"),
    ("I'd say D.", "D"),
    ("[B]", "B"),
    ("<answer>C</answer>", "C"),
    ("Answer is D", "D"),
    ("Answer D", "D"),
    ("The answer, therefore, is A.", "A"),
    ("A：是", "A"),
    ("B：否", "B"),
    ("答案为:A", "A"),
    ("答：C", "C"),
    ("【答案】：B", "B"),
    ("[答案] D", "D"),
    ("参考答案：A", "A"),
    ("解析：……故正确选项为B", "B"),
]


@pytest.mark.parametrize("text, letter", REPORTED + ENGLISH + CHINESE + MORE)
def test_the_letter(text, letter):
    assert find_letter(text) == letter


def test_more_and_fewer_options():
    assert find_letter("The answer is I.", "ABCDEFGHIJ") == "I"
    assert find_letter("The answer is I think C", "ABCDEFGHIJ") == "C"
    assert find_letter("D", "AB") is None
    assert score_letter("No answer", "A").value == 0  # no credit for guessing


@pytest.mark.parametrize(
    "text, letters",
    [("答案：A、C", "AC"), ("BD", "BD"), ("The answer is A, B and D.", "ABD"),
     ("故选ACD。", "ACD"), ("Answer: C", "C"), ("无", None)],
)  # fmt: skip
def test_several_letters(text, letters):
    assert find_letter(text, several=True) == letters


def test_several_letters_must_all_be_right():
    assert score_letters("答案：AC", ["A", "C"]).correct
    assert not score_letters("答案：A", ["A", "C"]).correct and not score_letters("答案：ACD", ["A", "C"]).correct


def test_mmlu_pro_is_the_first_official_pattern():
    assert find_letter_mmlu_pro("... the answer is (J). Q: ... the answer is (A)") == "J"
    assert find_letter_mmlu_pro("Answer: B") is None  # published as wrong; never a random letter


def test_long_lines_cost_no_time():
    """MMLU-Pro's third pattern takes seconds for such a line."""
    began = time.process_time()
    for text in (
        "x" * 100_000,
        "A " * 50_000,
        "answer " * 15_000,
        "答" * 50_000,
        "\\boxed{" * 3000,
        "选" * 50_000,
        "答案是" + " " * 50_000,
        "is" + "\n" * 50_000,
    ):
        find_letter(text)
    assert time.process_time() - began < 5
