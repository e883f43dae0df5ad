"""`dots rft verify`: a verdict on each sample, by the answer of its question or by its tests.

Mathematics is judged by `MathVerifier` and programs by the sandbox, both in processes that are killed at their limit: a sample that
hangs costs its own time and changes no other's verdict.
"""

import ast
import collections
import concurrent.futures
import contextlib
import os
import time
import warnings
from collections.abc import Sequence

from dots_jax.cli.options import RftVerifyOptions
from dots_jax.evaluation.scoring.answer_text import this_item
from dots_jax.evaluation.scoring.code import fenced
from dots_jax.evaluation.scoring.math_verifier import VERDICTS, MathVerifier
from dots_jax.posttraining.appended import open_appended
from dots_jax.posttraining.files import check_flags, file_sha256, progress
from dots_jax.posttraining.questions import read_questions
from dots_jax.posttraining.samples import Sample, read_samples
from dots_jax.sandbox.check import check
from dots_jax.sandbox.limits import Limits
from dots_jax.sandbox.run import Sandbox, open_sandbox

BATCH = 256  # samples that are on the disk together
NO_TRIAL = ("memory", "processes", "output")  # limits of the sandbox: the program is wrong


class Judge:
    """Judges samples of both kinds; a context manager. Opens what the samples need, so that a machine without it says so first.

    seconds: CPU time of one comparison in mathematics. code_seconds: of one program with its tests.
    """

    def __init__(self, samples: Sequence[Sample], seconds: float, code_seconds: float, unsafe_code: bool):
        self._limits, self._stack = Limits(cpu_seconds=code_seconds), contextlib.ExitStack()
        kinds = {sample.question.tests is not None for sample in samples}
        workers = os.cpu_count() or 1
        self._sandbox: Sandbox | None = open_sandbox(unsafe_code) if True in kinds else None
        self._verifier = self._stack.enter_context(MathVerifier(seconds, workers)) if False in kinds else None
        self._pool = self._stack.enter_context(concurrent.futures.ThreadPoolExecutor(workers))

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def judge(self, samples: Sequence[Sample]) -> list[dict]:
        """The rows of these samples with `verdict`, `extracted` and for programs `detail`."""
        return list(self._pool.map(self._one, samples))

    def _one(self, sample: Sample) -> dict:
        if sample.question.tests is None:
            found = self._verifier.verify_one(sample.text, sample.question.answer)
            return sample.fields | {"verdict": found.verdict, "extracted": found.answer}
        return sample.fields | self._program(sample)

    def _program(self, sample: Sample) -> dict:
        program = find_program(sample.text, sample.question.tests.entry_point)
        if program is None:
            return {"verdict": "no_answer", "extracted": None}
        try:
            found = check(self._sandbox, program, sample.question.tests, self._limits)
        except Exception as error:  # noqa: BLE001  the machine's fault, and no other sample's verdict
            return {"verdict": "error", "extracted": program, "detail": f"{type(error).__name__}: {error}"[:200]}
        verdict = {"passed": "correct", "timeout": "timeout"}.get(found.status, "wrong")
        return {"verdict": verdict, "extracted": program} | ({"detail": found.detail[:200]} if found.detail else {})


def find_program(text: str, entry_point: str | None = None) -> str | None:
    """The last fenced block, of those that define the name if any does; else the text, if it is Python. None without either."""
    text = this_item(text)
    program = fenced(text, entry_point)
    if not program.strip():
        return None
    if "```" in text:
        return program
    try:
        with warnings.catch_warnings(action="ignore"):
            return program if ast.parse(program).body else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def verify(options: RftVerifyOptions) -> None:
    """Writes options.output, or what an earlier call has not judged yet: the samples, each with its verdict."""
    check_flags(options, "questions", "samples", "output")
    began = time.monotonic()
    questions = read_questions(options.questions)
    samples = read_samples(options.samples, questions, uneven=options.uneven)
    record = {
        "command": "rft verify", "questions_sha256": file_sha256(options.questions),
        "samples_sha256": file_sha256(options.samples), "seconds": options.seconds, "code_seconds": options.code_seconds,
        "uneven": options.uneven,
    }  # fmt: skip
    with open_appended(options.output, record, BATCH) as file:
        if file.complete:
            print(f"{options.output} is complete already: {len(samples):,} samples")
            return
        with (
            Judge(samples, options.seconds, options.code_seconds, options.unsafe_code) as judge,
            progress("verify", len(samples), file.rows) as bar,
        ):
            for begin in range(file.rows, len(samples), BATCH):
                batch = samples[begin : begin + BATCH]
                file.add(judge.judge(batch))
                bar.update(len(batch))
        file.finish()
    judged = read_samples(options.output, questions, verified=True, uneven=options.uneven)
    print(summary(judged, time.monotonic() - began))


def summary(samples: Sequence[Sample], seconds: float) -> str:
    """One line: the verdicts, pass@1, and questions that some sample answers."""
    verdicts = collections.Counter(sample.verdict for sample in samples)
    right = {sample.question.id for sample in samples if sample.verdict == "correct"}
    questions = len({sample.question.id for sample in samples})
    counts = ", ".join(f"{verdicts[name]:,} {name}" for name in VERDICTS)
    return (
        f"{len(samples):,} samples: {counts}; pass@1 {pass_at_1(samples):.4f}; {len(right):,} of {questions:,} questions "
        f"answered at least once; {seconds:.1f} s"
    )


def pass_at_1(samples: Sequence[Sample]) -> float:
    """The mean over questions of the share of right samples."""
    right, total = collections.Counter(), collections.Counter()
    for sample in samples:
        total[sample.question.id] += 1
        right[sample.question.id] += sample.verdict == "correct"
    return sum(right[name] / total[name] for name in total) / len(total)
