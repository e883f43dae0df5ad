"""Areas under the ROC curve with intervals.

Scores of different folds come from different heads, so only pairs within a fold are compared: the area is the number of pairs of a
fold in the right order over all such pairs. Rows of one group (site and near-duplicates) are not independent: the interval is a
bootstrap over groups. Shape suffixes: N rows, R replicates.
"""

from typing import NamedTuple

import numpy as np

REPLICATES, BLOCK = 500, 50  # of the bootstrap; at a time in memory


class Area(NamedTuple):
    """low, high: the interval of 95 %. None: not both classes are there."""

    auc: float | None
    low: float | None
    high: float | None
    rows: int
    groups: int

    @property
    def at_chance(self) -> bool:
        """Whether the interval holds 0.5, or everything is below it."""
        return self.low is None or self.low <= 0.5

    def __str__(self) -> str:
        return "none" if self.auc is None else f"{self.auc:.3f} ({self.low:.3f} to {self.high:.3f})"


def right_pairs(score_N: np.ndarray, positive_N: np.ndarray, weight_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(weight of the pairs in the right order, of all pairs), [R] each. Equal scores count as half."""
    order = np.argsort(score_N, kind="stable")
    starts = np.flatnonzero(np.diff(score_N[order], prepend=np.nan) != 0)
    if len(starts) == 0:
        return np.zeros(len(weight_RN)), np.zeros(len(weight_RN))
    weight_RN, positive_N = weight_RN[:, order], positive_N[order]
    up_RS = np.add.reduceat(weight_RN * positive_N, starts, axis=1)
    down_RS = np.add.reduceat(weight_RN * ~positive_N, starts, axis=1)
    below_RS = np.cumsum(down_RS, axis=1) - down_RS
    return (up_RS * (below_RS + down_RS / 2)).sum(axis=1), up_RS.sum(axis=1) * down_RS.sum(axis=1)


def macro(score_NC: np.ndarray, target_N: np.ndarray, fold_N: np.ndarray, weight_RN: np.ndarray) -> np.ndarray:
    """[R]: the mean over classes of the area of each against all others, nan where no class has both sides. Two classes have one
    area, that of the second."""
    classes = range(score_NC.shape[1]) if score_NC.shape[1] > 2 else (1,)
    areas = []
    for label in classes:
        right, pairs = np.zeros(len(weight_RN)), np.zeros(len(weight_RN))
        for fold in np.unique(fold_N):
            here = fold_N == fold
            of_fold = right_pairs(score_NC[here, label], target_N[here] == label, weight_RN[:, here])
            right, pairs = right + of_fold[0], pairs + of_fold[1]
        areas.append(np.divide(right, pairs, out=np.full(len(right), np.nan), where=pairs > 0))
    known = ~np.isnan(areas)
    return np.divide(
        np.nansum(areas, axis=0), known.sum(axis=0), out=np.full(len(areas[0]), np.nan), where=known.any(axis=0)
    )


def area(
    score_NC: np.ndarray, target_N: np.ndarray, fold_N: np.ndarray, group_N: np.ndarray, seed: int,
    chosen_N: np.ndarray | None = None,
) -> Area:  # fmt: skip
    """Of the chosen rows, or of all. score_NC: of heads that were trained without the row's fold; target_N: the class."""
    if chosen_N is not None:
        score_NC, target_N, fold_N, group_N = (array[chosen_N] for array in (score_NC, target_N, fold_N, group_N))
    names, member_N = np.unique(group_N, return_inverse=True)
    if len(names) == 0:
        return Area(None, None, None, 0, 0)
    (found,) = macro(score_NC, target_N, fold_N, np.ones((1, len(target_N))))
    if np.isnan(found):
        return Area(None, None, None, len(target_N), len(names))
    drawn = np.random.default_rng((seed, len(names))).multinomial(
        len(names), np.full(len(names), 1 / len(names)), REPLICATES
    )
    blocks = [drawn[first : first + BLOCK, member_N].astype(float) for first in range(0, REPLICATES, BLOCK)]
    replicates_R = np.concatenate([macro(score_NC, target_N, fold_N, block) for block in blocks])
    low, high = np.nanpercentile(replicates_R, (2.5, 97.5))
    return Area(float(found), float(low), float(high), len(target_N), len(names))
