"""Folds for measuring a head on sites and texts that it was not trained on.

Rows of one site, and rows whose texts are near-duplicates by the pipeline's own MinHash, belong to one group, directly or
through others; a group lies in one fold. Otherwise a head is measured on templates that it has seen.
"""

from collections.abc import Sequence

import numpy as np

from dots_jax.config import MinHashConfig, UserError
from dots_jax.curation.families import components, links
from dots_jax.curation.hashing import mix
from dots_jax.curation.minhash import band_keys_of
from dots_jax.curation_models.labels import Row, count


def groups_of(rows: Sequence[Row]) -> np.ndarray:
    """int64 [N]: the first row of each row's group."""
    first, same_site = {}, []
    for number, row in enumerate(rows):
        same_site.append((number, first.setdefault(row.site, number)))
    priority_N = np.arange(len(rows))
    alike = links(*band_keys_of([row.text for row in rows], MinHashConfig()), priority_N)
    return components(np.concatenate([np.array(same_site, np.int64).reshape(-1, 2), alike.reshape(-1, 2)]), priority_N)


def assign(rows: Sequence[Row], groups_N: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """int64 [N]: the fold of each row. Groups come from the largest on, equal ones by a hash of (seed, first row), and go where
    the labels that they bring are rarest.

    Raises UserError for fewer groups than folds, and for a label that lies in one group alone: it cannot be both trained and
    measured.
    """
    names = np.unique(groups_N)
    if len(names) < folds:
        raise UserError(
            f"The labels have {len(names)} groups of sites and near-duplicates, too few for --folds={folds}: label pages of "
            "more sites, or lower it."
        )
    totals = count(rows)
    members = {int(name): np.flatnonzero(groups_N == name) for name in names}
    counts = {name: count([rows[number] for number in found]) for name, found in members.items()}
    for label in sorted(totals):
        if sum(label in found for found in counts.values()) < 2:
            raise UserError(
                f"All rows of the label {label!r} are of one site or near-duplicates: label it on another site too."
            )
    hashes = mix(names.astype(np.uint64) + mix(np.array([seed], np.uint64)))
    order = sorted(zip(hashes.tolist(), names.tolist()), key=lambda each: (-counts[each[1]].total(), each))
    held = [dict.fromkeys(totals, 0) for _ in range(folds)]
    rows_of, fold_N = [0] * folds, np.empty(len(rows), np.int64)
    for _, name in order:
        brings = counts[name]
        costs = [sum(of_fold[label] * brings[label] / totals[label] for label in brings) for of_fold in held]
        chosen = min(range(folds), key=lambda fold, costs=costs: (costs[fold], rows_of[fold], fold))
        fold_N[members[name]] = chosen
        rows_of[chosen] += brings.total()
        for label, number in brings.items():
            held[chosen][label] += number
    return fold_N
