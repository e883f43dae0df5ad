"""The protocol of a step: a pure function of records and config, with a row of the ledger for everything that it removes.

A local step looks at each record alone; a global step compares documents of the complete corpus through rows of fixed size
(exchange.py). A step of a model stands between them: it looks at one document, and its scores are a stage of their own, so that
Beam's RunInference can make them. Each answers with an `Outcome`, and books.py compares both of its sides with what came in.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dots_jax.config import CurateConfig
from dots_jax.curation.record import Document, Record, Removal

Verdict = Record | Removal  # of one record: what it becomes, or why it goes


class Outcome(NamedTuple):
    kept: list[Record]
    removed: list[Removal]


Apply = Callable[[Sequence[Record]], Outcome]


class LocalStep(NamedTuple):
    """open(config): a context manager that gives the function; models, lists and processes live inside it, once a unit."""

    name: str
    does: str
    open: Callable[[CurateConfig], contextlib.AbstractContextManager[Apply]]


class GlobalStep(NamedTuple):
    """rows(documents, keys, digests, config): structured rows whose first field, a uniform uint64, brings together what is
        compared. keys order documents; (key, digest) names one, also where two have the same id.
    decide(rows, config): from all rows of one range of that field, sorted, the verdicts as exchange.DECISION.
    condense(rows, config): the rows that a later crawl must know of, in the same dtype and order; see state.py.
    apply(document, decisions, id_of, config): carries out the verdicts on one document; id_of: from a key to the id.
    """

    name: str
    does: str
    dtype: np.dtype
    rows: Callable[[Sequence[Document], np.ndarray, np.ndarray, CurateConfig], np.ndarray]
    decide: Callable[[np.ndarray, CurateConfig], np.ndarray]
    condense: Callable[[np.ndarray, CurateConfig], np.ndarray]
    apply: Callable[[Document, np.ndarray, Callable[[int], str], CurateConfig], Outcome]


class ModelStep(NamedTuple):
    """A step that asks a model of the room curation_models, which is loaded only where the config names its folder.

    kind: of the model, `document` or `line`.
    section(config): its settings, of which `model` is the folder.
    check(classes, config): raises UserError for settings that do not fit the model's labels.
    verdicts(probabilities [N, C], classes, config): of one document, whose lines are N with kind `line`, and else 1: rows of
        (position, other, score) as in exchange.DECISION, which travel instead of the texts.
    apply(document, decisions, classes, config): carries them out.
    settle(rows, counts_PC, part, classes, config): for a step that compares classes: the rows of partition `part` once all are
        there; counts_PC: rows of each partition whose `other` is each class. Partitions are ranges of the keys, in order.
    """

    name: str
    does: str
    kind: str
    section: Callable[[CurateConfig], Any]
    check: Callable[[Sequence[str], CurateConfig], None]
    verdicts: Callable[[np.ndarray, Sequence[str], CurateConfig], list[tuple[int, int, float]]]
    apply: Callable[[Document, np.ndarray, Sequence[str], CurateConfig], Outcome]
    settle: Callable[[np.ndarray, np.ndarray, int, Sequence[str], CurateConfig], np.ndarray] | None = None


class EmbeddingStep(NamedTuple):
    """A step that compares the embeddings of all documents; embedding.py has its stages.

    section(config): its settings, of which `model` is the folder of the embedder.
    apply(document, decisions, id_of, config): as of a GlobalStep.
    """

    name: str
    does: str
    section: Callable[[CurateConfig], Any]
    apply: Callable[[Document, np.ndarray, Callable[[int], str], CurateConfig], Outcome]


WithModel = ModelStep | EmbeddingStep
Step = LocalStep | GlobalStep | WithModel


def each(open_function: Callable[[CurateConfig], contextlib.AbstractContextManager[Callable[[Record], Verdict]]]):
    """A local step's `open` from a function of one record."""

    @contextlib.contextmanager
    def opened(config: CurateConfig) -> Iterator[Apply]:
        with open_function(config) as function:

            def apply(records: Sequence[Record]) -> Outcome:
                outcome = Outcome([], [])
                for record in records:
                    verdict = function(record)
                    outcome[isinstance(verdict, Removal)].append(verdict)
                return outcome

            yield apply

    return opened
