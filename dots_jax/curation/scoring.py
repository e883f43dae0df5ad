"""The stage `score` of a step with a model: the verdicts on a partition of documents, in blocks.

Without Beam the model is called here, block by block; with Beam the same blocks go through RunInference (job.py), so no text
goes through a shuffle, and only rows come back. A block is a function of the partition alone.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dots_jax.config import CurateConfig
from dots_jax.curation import models
from dots_jax.curation.exchange import DECISION
from dots_jax.curation.merged import merged, records_of
from dots_jax.curation.plan import Run, Stage
from dots_jax.curation.protocol import ModelStep, Outcome
from dots_jax.curation.record import Document, digest_of, document_of
from dots_jax.storage import atomic_write

BLOCK = 64  # documents


class Block(NamedTuple):
    """Documents of a unit, in order. names: (key, digest) of each."""

    unit: int
    number: int
    names: tuple[tuple[int, int], ...]
    ids: tuple[str, ...]
    texts: tuple[str, ...]


def blocks(run: Run, stage: Stage, unit: int) -> Iterator[Block]:
    """At least one, which may be empty: a unit without documents is done too."""
    names, ids, texts, number = [], [], [], 0
    for key, line in merged(run, records_of(run, stage.phase), unit, "docs"):
        document = document_of(line)
        names.append((key, digest_of(line)))
        ids.append(document.id)
        texts.append(document.text)
        if len(texts) == BLOCK:
            yield Block(unit, number, tuple(names), tuple(ids), tuple(texts))
            names, ids, texts, number = [], [], [], number + 1
    if texts or not number:
        yield Block(unit, number, tuple(names), tuple(ids), tuple(texts))


def judge(step: ModelStep, document: Document, config: CurateConfig) -> Outcome:
    """One document alone, with its model."""
    classes = models.about(step, config).classes
    (found_NC,) = models.load(step, config)([document.text])
    rows = [(0, 0, *row) for row in step.verdicts(found_NC, classes, config)]
    return step.apply(document, np.array(rows, DECISION), classes, config)


def verdicts(run: Run, stage: Stage, block: Block, probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """What the step makes of the model's answer, as rows of DECISION."""
    step = step_of(run, stage)
    classes = models.about(step, run.config).classes
    rows = []
    for name, found_NC in zip(block.names, probabilities):
        rows += [(*name, *row) for row in step.verdicts(found_NC, classes, run.config)]
    return np.array(rows, DECISION)


def write_verdicts(run: Run, stage: Stage, unit: int, rows: Sequence[np.ndarray]) -> None:
    """rows: of the blocks of the unit, in order."""
    stem = run.stem(stage.name, unit)
    stem.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(stem.with_name(f"{stem.name}-verdicts.npy"), "wb") as file:
        np.save(file, np.concatenate([np.empty(0, DECISION), *rows]))
    labels, counts = np.unique(
        np.concatenate([np.empty(0, np.uint64), *(block["other"] for block in rows)]), return_counts=True
    )
    run.finish(stage.name, unit, {"labels": dict(zip(map(int, labels), map(int, counts)))})


def read_verdicts(run: Run, stage: Stage, unit: int, step: ModelStep) -> np.ndarray:
    """Of a partition of documents, once all units are done."""
    stem = run.stem(stage.name, unit)
    rows = np.load(stem.with_name(f"{stem.name}-verdicts.npy"))
    if step.settle is None:
        return rows
    classes = models.about(step, run.config).classes
    counts_PC = np.zeros((stage.units, len(classes)), np.int64)
    for part in range(stage.units):
        for label, count in run.done(stage.name, part)["labels"].items():
            counts_PC[part, int(label)] = count
    return step.settle(rows, counts_PC, unit, classes, run.config)


def step_of(run: Run, stage: Stage) -> ModelStep:
    step = run.phases()[stage.phase].closing
    assert isinstance(step, ModelStep)
    return step


def score(run: Run, stage: Stage, unit: int, tick: Callable) -> None:
    """The unit, in this process."""
    model, rows = models.load(step_of(run, stage), run.config), []
    for block in blocks(run, stage, unit):
        rows.append(verdicts(run, stage, block, model(block.texts)))
        tick(len(block.texts), 0)
    write_verdicts(run, stage, unit, rows)


class Inference(NamedTuple):
    """The same units as parts of a pipeline: see beam.infer."""

    run: Run
    stage: Stage

    def read(self, unit: int) -> Iterator[Block]:
        return blocks(self.run, self.stage, unit)

    def condense(self, block: Block, probabilities: Sequence[np.ndarray]) -> tuple[int, tuple[int, bytes]]:
        """(unit, (number of the block, rows)): all that leaves the worker."""
        return block.unit, (block.number, verdicts(self.run, self.stage, block, probabilities).tobytes())

    def finish(self, unit: int, found: Sequence[tuple[int, bytes]]) -> None:
        write_verdicts(self.run, self.stage, unit, [np.frombuffer(rows, DECISION) for _, rows in sorted(found)])
