"""Learning-rate shapes as plain functions of progress (report, section 3). Host arithmetic in double precision."""

import math


def warmup(peak: float, step: int, warmup_steps: int) -> float:
    """Linear from peak / warmup_steps at the first step to peak at the last step of the warm-up."""
    return peak * (step + 1) / warmup_steps


def decay(shape: str, start: float, end: float, progress: float) -> float:
    """The learning rate after `progress` (0..1) of a stage: `constant`, `linear` or `cosine` from start to end."""
    if shape == "constant":
        return start
    if shape == "linear":
        return start + (end - start) * progress
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
