"""Whether a program passes tests: a verdict that the program has no part in.

Tests and program run in two processes, each in a sandbox of its own. The program's process knows no test, no expected value
and no nonce: it receives arguments and returns values, which arrive as plain data, so that an object which claims to equal
everything equals nothing. The process of the tests writes a random nonce after the last assertion, through a descriptor that
the other one does not have. `passed` needs that nonce and exit status 0.

Tests of `unittest` that replace parts of the program (BigCodeBench) share its process: `UnitTests` says so.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import socket

from dots_jax.sandbox.fences import guest
from dots_jax.sandbox.guest import values
from dots_jax.sandbox.limits import DEFAULT, Limits, Outcome
from dots_jax.sandbox.run import Sandbox, supervise


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScriptTests:
    """Assertions in Python, as HumanEval's, MBPP's and McEval's."""

    code: str  # asserts, or with call_check a function check(candidate)
    setup: str = ""  # trusted definitions that the tests use: HumanEval's prompt
    entry_point: str | None = None  # the function that the program must define
    call_check: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """The same values as a canonical solution for every input, as EvalPlus's."""

    canonical: str
    entry_point: str
    inputs: list
    atol: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitTests:
    """A `TestCases` of unittest, which runs in the program's own module and process: it can be deceived by a program that
    looks for the nonce in its memory. Everything outside the process is as safe as with other tests."""

    code: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`status`: passed, failed, timeout, or the limit that was reached: memory, processes, output."""

    status: str
    detail: str = ""
    cpu_seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def check(
    sandbox: Sandbox, program: str, tests: ScriptTests | Comparison | UnitTests, limits: Limits = DEFAULT
) -> Verdict:
    """Runs the tests against the program. Anything the program does leads to a verdict, never to an exception."""
    nonce = secrets.token_hex(32)
    about = dataclasses.asdict(tests) | {"nonce": nonce}
    if isinstance(tests, Comparison):
        about |= {"kind": "comparison", "inputs": values.encode(tests.inputs, None)}
    elif isinstance(tests, ScriptTests):
        about["kind"] = "script"
    else:
        about |= {"kind": "unittest", "program": program}
    outcome, written = _run_both(sandbox, program, about, limits)
    if outcome.status != "exit":
        return Verdict(
            "timeout" if outcome.timed_out else outcome.status, f"limit: {outcome.status}", outcome.cpu_seconds
        )
    if written == nonce and outcome.returncode == 0:
        return Verdict("passed", cpu_seconds=outcome.cpu_seconds)
    text = written.replace(nonce, "") or f"the tests ended with status {outcome.returncode}"
    return Verdict("failed", text.removeprefix("failed: "), outcome.cpu_seconds)


def _run_both(sandbox: Sandbox, program: str, about: dict, limits: Limits) -> tuple[Outcome, str]:
    """How the process of the tests ended, and what it wrote as its verdict."""
    with contextlib.ExitStack() as stack:
        reader, writer = os.pipe()
        stack.callback(os.close, reader)
        ours, others, alone = None, [], about["kind"] == "unittest"
        if not alone:
            ours, theirs = socket.socketpair()
            words = ["-", guest("values") + guest("worker"), str(theirs.fileno())]
            text = program.encode("utf-8", "surrogatepass")
            others = [stack.enter_context(sandbox.start(words, text, limits, [theirs.fileno()]))]
            theirs.close()
        number = -1 if ours is None else ours.fileno()
        words = ["-", guest("values") + guest("tests"), str(writer), str(number)]
        passed = [writer] + ([] if alone else [number])
        tests = stack.enter_context(sandbox.start(words, json.dumps(about).encode(), limits, passed))
        os.close(writer)
        if ours is not None:
            ours.close()
        outcome = supervise(tests, others, limits)
        return outcome, _read(reader)


def _read(descriptor: int) -> str:
    os.set_blocking(descriptor, False)
    try:
        return os.read(descriptor, 1 << 14).decode(errors="replace")
    except BlockingIOError:
        return ""
