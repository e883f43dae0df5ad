"""Programs and their tests: verdicts, limits, values between the two processes."""

import collections
import datetime
import decimal
import fractions

import pytest

from dots_jax.sandbox.check import Comparison, ScriptTests, UnitTests, check
from dots_jax.sandbox.guest import values
from dots_jax.sandbox.limits import MIB, Limits
from dots_jax.sandbox.run import Sandbox, open_sandbox

pytestmark = pytest.mark.subprocess


CLASSES = "class P:\n    def __init__(self, a): self.a = a\ndef f(ps): return max(p.a for p in ps)"


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return open_sandbox(unsafe_code=True)


@pytest.mark.parametrize(
    "program, code, status",
    [
        ("def f(x): return x + 1", "assert f(1) == 2", "passed"),
        ("def f(x): return x", "assert f(1) == 2", "failed"),
        ("def f(x: return x", "assert f(1) == 2", "failed"),
        ("def g(x): return x", "assert f(1) == 2", "failed"),
        ("def sum(a, b): return a + b", "assert sum(1, 2) == 3", "passed"),  # MBPP has such names
        ("def f(x): return x\ndef set(x): return 5", "assert set(f([1])) == 5", "failed"),  # but tests keep their own
        (CLASSES, "assert f([P(1), P(7)]) == 7", "passed"),
        ("def f(x): x.sort()", "x = [3, 1]\nf(x)\nassert x == [1, 3]", "passed"),  # changed in place
        ("def f(x): return (n for n in range(x))", "assert list(f(3)) == [0, 1, 2]", "passed"),
        ("def f(x): raise ValueError('no')", "try:\n    f(1)\n    assert False\nexcept ValueError: pass", "passed"),
        ("def f(x): return float('nan')", "assert f(1) != f(1)", "passed"),
        ("def f(x): return 10 ** 5000", "assert f(1) == 10 ** 5000", "passed"),
        ("def f(x):\n    while True: pass", "assert f(1) == 2", "timeout"),
    ],
)  # fmt: skip
def test_scripts(sandbox, program, code, status):
    assert check(sandbox, program, ScriptTests(code=code), Limits(cpu_seconds=1)).status == status


def test_prompts_define_what_tests_use(sandbox):
    """HumanEval 32: the tests call `poly` of the prompt; the program cannot replace it."""
    setup = 'def poly(x):\n    return x * x\n\ndef f(x):\n    """Its root."""\n'
    tests = ScriptTests(setup=setup, code="def check(c):\n    assert poly(c(9)) == 9", entry_point="f", call_check=True)
    assert check(sandbox, setup + "    return x ** .5", tests).passed
    assert not check(sandbox, setup + "    return 1\ndef poly(x): return 9", tests).passed


def test_comparison_with_a_canonical_solution(sandbox):
    tests = Comparison(canonical="def f(x): return [x / 3]", entry_point="f", inputs=[[1], [2.5]])
    assert check(sandbox, "def f(x): return [x * (1 / 3)]", tests).passed  # floats: 1e-6
    assert not check(sandbox, "def f(x): return [x / 3 + 1e-3]", tests).passed
    assert not check(sandbox, "def f(x): return (x / 3,)", tests).passed
    tests = Comparison(canonical="def sum_div(a): return a", entry_point="sum_div", inputs=[[1]])
    assert check(sandbox, "def sum_div(a): return 0", tests).passed  # EvalPlus has its own rules for some of MBPP+


def test_unittest_in_the_programs_module(sandbox):
    code = """
import unittest
from unittest.mock import patch
class TestCases(unittest.TestCase):
    @patch("__test__.now", return_value=5)
    def test_one(self, _): self.assertEqual(task_func(), 6)
    def test_two(self): self.assertEqual(task_func(), 2)
"""
    program = "def now(): return 1\ndef task_func(): return now() + {}"
    assert check(sandbox, program.format(1), UnitTests(code=code)).passed
    verdict = check(sandbox, program.format(2), UnitTests(code=code))
    assert verdict.status == "failed" and "test_one" in verdict.detail
    assert not check(sandbox, program.format(1) + "\nraise SystemExit(0)", UnitTests(code=code)).passed


def test_run_returns_output_and_says_which_limit(sandbox):
    done = sandbox.run(["-", "import sys; print(sys.stdin.read()[::-1]); sys.exit(3)"], b"abc")
    assert (done.status, done.returncode, done.stdout) == ("exit", 3, b"cba\n")
    assert sandbox.run(["echo", "one"]).stdout == b"one\n"
    assert sandbox.run(["-", "while True: print('x' * 1000)"], limits=Limits(output_bytes=MIB)).status == "output"
    assert sandbox.run(["-", "import time; time.sleep(9)"], limits=Limits(wall_seconds=0.5)).status == "wall"
    assert sandbox.run(["-", "import os; os.kill(os.getpid(), 11)"]).returncode == -11
    children = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    done = sandbox.run(["-", children], limits=Limits(cpu_seconds=1, wall_seconds=60))
    assert done.status == "cpu" and done.cpu_seconds < 3  # of all together


def test_values_keep_their_types():
    for value in (
        None, True, 3, -0.5, "é\ud800", b"\x00", [1, (2, {3})], {(1, 2): [None]}, frozenset({1}), 1 + 2j, range(1, 9, 2),
        collections.deque([1]), collections.OrderedDict(a=1), decimal.Decimal("1.50"), fractions.Fraction(1, 3),
        datetime.date(2024, 2, 29), datetime.timedelta(1, 2, 3), int, 10**400,
    ):  # fmt: skip
        back = values.decode(values.encode(value, None), None)
        assert back == value and type(back) is type(value)
    assert list(values.decode(values.encode(map(str, [1]), None), None)) == ["1"]


def test_verdicts_do_not_depend_on_the_order_of_sets(sandbox):
    done = [sandbox.run(["-", "print({'one', 'two', 'three'})"]).stdout for _ in range(2)]
    assert done[0] == done[1]
