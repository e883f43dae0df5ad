"""The step `classes`: no class is more of the corpus than its share. numpy alone.

Which documents of a class stay is decided by their keys, which are hashes of (seed, id): the smallest ones. Partitions are ranges
of the keys, so a document's place in its class follows from the counts of the partitions before and its place in its own.
"""

from collections.abc import Sequence

import numpy as np

from dots_jax.config import ClassesConfig, CurateConfig


def caps(counts_C: np.ndarray, shares_C: np.ndarray) -> np.ndarray:
    """int64 [C]: the documents of each class that stay, the most for which no class is above its share of all that stay.

    If the shares of the classes that are there add up to less than 1, no such number exists but 0: they are then shares of the
    documents that came.
    """
    came = int(counts_C.sum())
    total = came
    enough = shares_C[counts_C > 0].sum() >= 1
    while True:
        kept_C = np.minimum(counts_C, np.floor(shares_C * total + 1e-9).astype(np.int64))
        if not enough or kept_C.sum() == total:
            return kept_C
        total = int(kept_C.sum())


def shares_of(classes: Sequence[str], config: ClassesConfig) -> np.ndarray:
    named = dict(config.shares)
    return np.array([named.get(label, config.max_share) for label in classes])


def settle(
    rows: np.ndarray, counts_PC: np.ndarray, part: int, classes: Sequence[str], config: CurateConfig
) -> np.ndarray:
    """The rows with, as position, the document's place in its class where that is over the share, and else -1."""
    kept_C = caps(counts_PC.sum(axis=0), shares_of(classes, config.classes))
    before_C = counts_PC[:part].sum(axis=0)
    settled = rows.copy()
    for label in range(len(classes)):
        mine = np.flatnonzero(rows["other"] == label)
        place = before_C[label] + np.arange(len(mine))
        settled["position"][mine] = np.where(place < kept_C[label], -1, place)
    return settled
