"""Repetition of n-grams, as Gopher defines it, with numpy over word numbers: exact but for 64-bit hash collisions."""

from collections.abc import Sequence

import numpy as np

from dots_jax.curation.hashing import mix

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def repetition(
    ids: np.ndarray, lengths: np.ndarray, top: Sequence[int], duplicate: Sequence[int]
) -> dict[tuple[str, int], int]:
    """Characters in repeated n-grams: {("top", n): ..., ("duplicate", n): ...}.

    ids: int of every word, equal for equal words. lengths: its characters. top: occurrences of the most frequent n-gram times
    its length with spaces; the first one of several. duplicate: n-grams that stood before, from left to right, where a
    counted one is not counted again in part.
    """
    ends = np.concatenate([[0], np.cumsum(lengths)])
    found, grams, reached, repeats = {}, mix(ids.astype(np.uint64) + _FACTOR), 1, True
    for n in range(2, max((*top, *duplicate, 0)) + 1):
        found |= {(kind, n): 0 for kind, wanted in (("top", top), ("duplicate", duplicate)) if n in wanted}
        if not repeats and n not in top:  # if no n-gram repeats, no longer one does
            continue
        for offset in range(reached, min(n, len(ids))):
            grams = mix(grams[:-1] * _FACTOR + ids[offset:].astype(np.uint64))
        if len(ids) < n:
            continue
        reached, sizes = n, ends[n:] - ends[:-n]
        order = np.argsort(grams)
        ordered = grams[order]
        same = ordered[1:] == ordered[:-1]
        repeats = bool(same.any())
        if n in top:
            found["top", n] = _top(order, same, sizes, n) if repeats else int(sizes[0]) + n - 1
        if n in duplicate and repeats:
            found["duplicate", n] = _duplicate(order, same, grams, sizes, n)
    return found


def _top(order: np.ndarray, same: np.ndarray, sizes: np.ndarray, n: int) -> int:
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    counts = np.diff(np.append(starts, len(order)))
    most = counts.max()
    first = int(np.minimum.reduceat(order, starts)[counts == most].min())
    return (int(sizes[first]) + n - 1) * int(most)


def _duplicate(order: np.ndarray, same: np.ndarray, grams: np.ndarray, sizes: np.ndarray, n: int) -> int:
    repeated = np.zeros(len(grams), bool)
    repeated[order[1:][same]] = True
    repeated[order[:-1][same]] = True
    places = np.flatnonzero(repeated)
    seen, total, free = set(), 0, 0
    for place, gram, size in zip(places.tolist(), grams[places].tolist(), sizes[places].tolist()):
        if place < free:
            continue
        if gram in seen:
            total += size
            free = place + n
        else:
            seen.add(gram)
    return total
