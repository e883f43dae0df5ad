"""What the step `semantic` does to one document; its stages are in embedding.py."""

from collections.abc import Callable

import numpy as np

from dots_jax.config import CurateConfig
from dots_jax.curation.protocol import EmbeddingStep, Outcome
from dots_jax.curation.record import Document, removal


def apply(document: Document, decisions: np.ndarray, id_of: Callable[[int], str], config: CurateConfig) -> Outcome:
    """Names the earliest document that it meets."""
    if len(decisions) == 0:
        return Outcome([document], [])
    row = decisions[np.lexsort((-decisions["score"], decisions["other"]))[0]]
    other, score = id_of(int(row["other"])), float(row["score"])
    return Outcome([], [removal(document, "semantic", "semantic duplicate", score=score, other=other)])


STEP = EmbeddingStep(
    "semantic", "documents that say the same, by embeddings", lambda config: config.semantic, apply
)  # fmt: skip
