"""How a model changed from milestone to milestone: its loss, its experts' specialisation, and its parameters.

The report publishes a checkpoint at every trillion tokens for this. A milestone is opened, measured and let go before
the next one; parameters are compared piece by piece, so that two checkpoints of 142B fit a small machine.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dots_jax.analysis.expert_load import DomainScore, score_domains, specialisation
from dots_jax.analysis.opened import OpenCheckpoint
from dots_jax.config import UserError
from dots_jax.model.parameters import PARTS

PIECE_BYTES = 256 * 2**20  # of an array that is compared, at a time


class Milestone(NamedTuple):
    """step and tokens: how far the run was. scores: of each domain. specialisation: [L]."""

    step: int
    tokens: int
    scores: dict[str, DomainScore]
    specialisation: np.ndarray


def measure(
    opened: OpenCheckpoint, domains: Mapping[str, Sequence[int]], steps: Sequence[int] | None = None, seq_len: int = 256
) -> list[Milestone]:
    """Each of the steps (default: the run's milestones, or all that it kept) measured on the same text."""
    found = []
    for step in _steps(opened, steps):
        scores = score_domains(opened.at(step).restore(), domains, seq_len)
        found.append(Milestone(step, opened.tokens[step], scores, specialisation(scores)))
    return found


def drift(opened: OpenCheckpoint, steps: Sequence[int] | None = None, layers=None) -> dict[str, list[float]]:
    """How far each part of the model moved between neighbouring steps: |after - before| / |before|, over all its numbers.

    layers: compare only these, as in `OpenCheckpoint.load`; the embedding and the head are then left out.

    Raises:
      UserError: there are fewer than two steps.
    """
    steps = _steps(opened, steps)
    if len(steps) < 2:
        raise UserError(f"Drift is between two checkpoints, and there is one: that of step {steps[0]}.")
    moved: dict[str, list[float]] = {}
    for before, after in zip(steps, steps[1:]):
        sums, pair = {part: [0.0, 0.0] for part in PARTS}, [opened.at(step) for step in (before, after)]
        for name, piece in _pieces(opened, layers):
            a, b = (one.load(name, dtype="float32", **piece)[name] for one in pair)
            part = sums[opened.declarations[name].part]
            part[0] += float(np.sum(np.square(b - a), dtype=np.float64))
            part[1] += float(np.sum(np.square(a), dtype=np.float64))
        for part, (difference, size) in sums.items():
            if size:
                moved.setdefault(part, []).append((difference / size) ** 0.5)
    return moved


def _steps(opened: OpenCheckpoint, steps: Sequence[int] | None) -> list[int]:
    return sorted(steps) if steps is not None else opened.milestones or opened.steps


def _pieces(opened: OpenCheckpoint, layers) -> Iterator[tuple[str, dict]]:
    """Every parameter in pieces of at most PIECE_BYTES: (name, which layers and experts of it). The router bias is none."""
    chosen = range(opened.model.num_layers)[layers] if isinstance(layers, slice) else layers
    chosen = [chosen] if isinstance(chosen, int) else chosen
    for name, array in opened.arrays.items():
        declared = opened.declarations[name]
        if name == "router_bias":
            continue
        if not declared.stacked:
            if chosen is None or declared.first_layer in chosen:
                yield name, {}
            continue
        for layer in chosen if chosen is not None else range(opened.model.num_layers):
            if layer < declared.first_layer:
                continue
            bytes_of_layer = array.nbytes // array.shape[0]
            if "experts" not in declared.stack or bytes_of_layer <= PIECE_BYTES:
                yield name, {"layers": layer}
                continue
            size = max(1, PIECE_BYTES * opened.model.num_experts // bytes_of_layer)
            for first in range(0, opened.model.num_experts, size):
                yield name, {"layers": layer, "experts": slice(first, first + size)}
