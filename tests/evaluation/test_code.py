"""Programs: what is taken from a prediction, and the verdicts through the sandbox."""

import base64
import json
import pickle
import zlib

import pytest

from dots_jax.config import UserError
from dots_jax.evaluation.scoring import code
from dots_jax.sandbox.run import open_sandbox

pytestmark = pytest.mark.subprocess
PROMPT = 'from typing import List\n\n\ndef total(xs: List[int]) -> int:\n    """The sum.\n    >>> total([1, 2])\n    3\n    """\n'
ITEM = {
    "prompt": PROMPT,
    "entry_point": "total",
    "test": "def check(f):\n    assert f([1, 2]) == 3\n    assert f([]) == 0\n",
}
GOOD = "    return sum(xs)\n"


@pytest.fixture(scope="module")
def sandbox():
    return open_sandbox(unsafe_code=True)


@pytest.mark.parametrize(
    "prediction, right",
    [
        (GOOD, True),
        (GOOD + "\n\ndef other(:\n", True),  # cut at the official stop strings, where it does not parse
        (GOOD + "\nif __name__ == '__main__':\n    print(total([", True),
        ("return sum(xs)", True),  # its indentation was stripped
        ("Here it is:\n```python\ndef total(xs):\n    return sum(xs)\n```\nIt adds.", True),
        (
            "```python\nimport math\n```\nand\n```python\ndef total(xs):\n    return int(math.fsum(xs))\n```",
            False,
        ),  # no import
        ("```python\ndef total(xs):\n    return sum(xs)\n```\nUsage:\n```python\nprint(total([1]))\n```", True),
        (
            "<think>```python\ndef total(xs): return 0\n```</think>```python\ndef total(xs):\n    return sum(xs)\n```",
            True,
        ),
        (PROMPT + GOOD, True),
        ("    return len(xs)\n", False),
        ("    import sys; sys.exit(0)\n", False),
        ("", False),
    ],
)
def test_humaneval(sandbox, prediction, right):
    score = code.score_humaneval(prediction, ITEM, sandbox)
    assert score.correct == right, score


def test_mbpp(sandbox):
    gold = {"test_list": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"], "test_setup_code": ""}
    right = " def add(a, b):\r\n    return a + b\r\n"[1:]
    assert code.score_mbpp(right, gold, sandbox).correct
    assert code.score_mbpp(f"[BEGIN]\n{right}[DONE]\nYou are", gold, sandbox).correct
    assert code.score_mbpp(f"```python\n{right}```", gold, sandbox).correct
    assert not code.score_mbpp("def add(a, b): return 3", gold, sandbox).correct
    with pytest.raises(UserError, match="needs 'test_list'"):
        code.score_mbpp(right, {}, sandbox)


def test_mbpp_plus_names_base_and_plus(sandbox):
    gold = {"task_id": "Mbpp/2", "prompt": "", "entry_point": "pair",
            "canonical_solution": "def pair(a, b): return len(a) + len(b)",
            "base_input": [[[1], [2]]], "plus_input": [[[], [1, 2, 3]]], "atol": 0}  # fmt: skip
    score = code.score_evalplus("def pair(a, b): return 2", gold, sandbox)
    assert (score.correct, score.details["base"], score.details["plus"]) == (False, "passed", "failed")
    assert code.score_evalplus(
        "def pair(a, b): return len(a + b) if type(a) is tuple else 0", gold, sandbox
    ).correct  # tuples


def test_bigcodebench_is_calibrated(sandbox):
    test = "import unittest\nclass TestCases(unittest.TestCase):\n    def test_a(self): self.assertEqual(task_func(2), 4.0)\n"
    start = "import math\ndef task_func(x):"
    gold = {
        "code_prompt": start,
        "complete_prompt": start + '\n    """Twice."""\n',
        "test": test,
        "entry_point": "task_func",
    }
    assert code.score_bigcodebench("def task_func(x):\n    return 2 * math.fabs(x)", gold, sandbox).correct
    assert code.score_bigcodebench("    return 2 * math.fabs(x)", gold, sandbox).correct
    assert not code.score_bigcodebench("def task_func(x):\n    return x", gold, sandbox).correct


def private(cases) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def test_livecodebench(sandbox):
    public = json.dumps([{"input": "2\n", "output": "4\n", "testtype": "stdin"}])
    gold = {
        "public_test_cases": public,
        "private_test_cases": private([{"input": "3", "output": "6.0", "testtype": "stdin"}]),
    }
    assert code.score_livecodebench("```python\nprint(2 * int(input()))\n```", gold, sandbox).correct
    assert code.score_livecodebench("```python\nprint(4)\n```", gold, sandbox).details["detail"].startswith("test 1")
    functions = [{"input": "[1, 2]\n3", "output": "[4, 5]", "testtype": "functional"}]
    gold = {"public_test_cases": json.dumps(functions), "metadata": json.dumps({"func_name": "add"})}
    right = (
        "class Solution:\n    def add(self, xs: List[int], n: int) -> List[int]:\n        return [x + n for x in xs]"
    )
    assert code.score_livecodebench(right, gold, sandbox).correct
    assert not code.score_livecodebench(right.replace("x + n", "x"), gold, sandbox).correct


def test_a_data_file_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    text = base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()
    with pytest.raises(UserError, match="only a pickled text is read"):
        code.livecodebench_cases({"private_test_cases": text})
    assert not (tmp_path / "written").exists()


def test_mceval_judges_python_and_names_the_others(sandbox):
    item = ITEM | {"task_id": "Python/1"}
    assert code.score_mceval(GOOD, item, sandbox).correct
    with pytest.raises(UserError, match="items of Rust need its toolchain"):
        code.score_mceval("fn main() {}", item | {"task_id": "Rust/1"}, sandbox)
