"""Whether a solution's answer is the right one, in mathematics: for the rows of MATH and AIME, and for rejection sampling.

1. `math_text.find_answer` takes the answer from the solution.
2. `math_text.same_text` decides what needs no algebra.
3. For the rest math-verify compares expressions in worker processes. A pair that takes longer than its time is killed with its
   worker, by SIGKILL, and gets the verdict `timeout`; no other pair's verdict changes.
"""

import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import json
import os
import queue
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence

from dots_jax.config import UserError
from dots_jax.evaluation.scoring import math_text
from dots_jax.evaluation.scoring.answer_text import half_width
from dots_jax.evaluation.scoring.score import Score
from dots_jax.sandbox.processes import usage

VERDICTS = ("correct", "wrong", "no_answer", "timeout", "error")
PAIRS_A_WORKER = 500  # sympy's caches grow
START_SECONDS = 120
WALL_FACTOR = 10  # of the CPU time: on a machine that does other work


@dataclasses.dataclass(frozen=True)
class MathVerdict:
    """`verdict` is one of VERDICTS; `answer` is what the solution gives."""

    verdict: str
    answer: str | None


class MathVerifier:
    """Judges pairs of (solution, gold); gold is the right answer as text, or a solution that boxes it. A context manager.

    seconds: CPU time of one pair.
    """

    def __init__(self, seconds: float = 3.0, workers: int = 2):
        if importlib.util.find_spec("math_verify") is None:
            raise UserError("Judging mathematics needs math-verify: pip install 'dots_jax[evaluation]'.")
        self._seconds = seconds
        self._workers: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        for _ in range(workers):
            self._workers.put(None)  # started when a pair needs one
        self._pool = concurrent.futures.ThreadPoolExecutor(workers)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown()
        while not self._workers.empty():
            if (worker := self._workers.get()) is not None:
                worker.kill()

    def verify(self, pairs: Iterable[tuple[str, str]]) -> list[MathVerdict]:
        """In the order of the pairs."""
        return list(self._pool.map(lambda pair: self.verify_one(*pair), pairs))

    def verify_one(self, solution: str, gold: str) -> MathVerdict:
        answer = math_text.find_answer(solution)
        if answer is None:
            return MathVerdict("no_answer", None)
        return MathVerdict(self.compare(answer, gold), answer)

    def compare(self, answer: str, gold: str) -> str:
        """The verdict on an answer that stands alone."""
        gold = math_text.find_answer(gold) or half_width(gold)
        same = math_text.same_text(answer, gold)
        if same is not None:
            return "correct" if same else "wrong"
        return self._by_algebra(answer, gold)

    def _by_algebra(self, answer: str, gold: str) -> str:
        pair = [math_text.plain(answer), math_text.plain(gold)]
        if not all(pair) or not comparable(*pair):
            return "wrong"
        worker = self._workers.get()
        try:
            if worker is None or worker.pairs >= PAIRS_A_WORKER:
                if worker is not None:
                    worker.kill()
                worker = _Worker()
            verdict = worker.ask(pair, self._seconds)
        except Exception:  # noqa: BLE001  a worker that cannot start, or dies: the pair's verdict, and no other's
            verdict = "error"
        if verdict in ("timeout", "error") and worker is not None:
            worker.kill()
            worker = None
        self._workers.put(worker)
        return verdict


def comparable(answer: str, gold: str) -> bool:
    """Whether both are of one form: brackets are part of an interval or a pair, and a text is no expression."""
    brackets = lambda text: (text[:1], text[-1:]) if text[:1] in "([" and text[-1:] in ")]" and "," in text else None
    first, second = brackets(answer), brackets(gold)
    if first is not None and second is not None:
        return first == second  # [1, 2) is not (1, 2)
    if first is None and second is None:
        return True
    return "," not in (answer if first is None else gold)  # 1 <= x <= 2 may be [1, 2], but 1, 2 is no pair


class _Worker:
    def __init__(self):
        words = [sys.executable, "-m", "dots_jax.evaluation.scoring.math_worker"]
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
        self.pairs, self._answers = 0, b""
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            env=os.environ | {"PYTHONPATH": root + os.pathsep + os.environ.get("PYTHONPATH", "")},
        )  # fmt: skip
        if self._line(START_SECONDS, START_SECONDS) != b"ready":
            self.kill()
            raise RuntimeError("the process that compares expressions does not start")

    def ask(self, pair: Sequence[str], seconds: float) -> str:
        self.pairs += 1
        self.process.stdin.write(json.dumps(pair).encode() + b"\n")
        self.process.stdin.flush()
        line = self._line(seconds, WALL_FACTOR * seconds)
        if line is None:
            return "timeout"
        return {b"true": "correct", b"false": "wrong"}.get(line, "error")

    def _line(self, cpu_seconds: float, wall_seconds: float) -> bytes | None:
        """The next line, b"" if the process is gone, None if it takes too long."""
        began, spent = time.monotonic(), usage([self.process.pid]).cpu_seconds
        while b"\n" not in self._answers:
            ready, _, _ = select.select([self.process.stdout], [], [], 0.1)
            if ready:
                block = os.read(self.process.stdout.fileno(), 1 << 16)
                if not block:
                    return b""
                self._answers += block
            elif time.monotonic() - began > wall_seconds:
                return None
            elif usage([self.process.pid]).cpu_seconds - spent > cpu_seconds:
                return None
        line, _, self._answers = self._answers.partition(b"\n")
        return line

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                stream.close()


def score_math(prediction: str, gold: str, verifier: MathVerifier) -> Score:
    """A time-out or an error is no right answer; `details` names it."""
    found = verifier.verify_one(prediction, gold)
    return Score(found.answer, float(found.verdict == "correct"), {"verdict": found.verdict})
