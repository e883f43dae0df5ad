"""The step `minhash`: a document goes if it meets an earlier one in a band.

Earlier is a crawl before, and within a crawl the smaller key, which is a hash of the id: so the answer is the same for every
order of the input, and what an earlier crawl kept stays. A document that goes still removes those that meet it. The report
keeps one of each collision; chains are not followed (families.py).
"""

from collections.abc import Callable, Sequence

import numpy as np

from dots_jax.config import CurateConfig
from dots_jax.curation.exchange import DECISION
from dots_jax.curation.minhash import band_keys_of, estimate
from dots_jax.curation.protocol import Outcome
from dots_jax.curation.record import Document, removal

# A document in one band. crawl: number of the crawl, in which 0 is the first.
ROW = np.dtype([("band", "<u8"), ("crawl", "<u4"), ("key", "<u8"), ("digest", "<u8")])


def rows(documents: Sequence[Document], keys: np.ndarray, digests: np.ndarray, config: CurateConfig) -> np.ndarray:
    """`bands` rows of every document with a word."""
    bands_DB, has = band_keys_of([document.text for document in documents], config.minhash)
    found = np.zeros((int(has.sum()), config.minhash.bands), ROW)
    found["band"] = bands_DB[has]
    found["key"], found["digest"] = keys[has, None], digests[has, None]
    return found.reshape(-1)


def decide(rows: np.ndarray, config: CurateConfig) -> np.ndarray:
    """One verdict for every row but the first of its bucket: one for each band in which a document meets an earlier one. Its
    score is the crawl of that one."""
    if len(rows) == 0:
        return np.empty(0, DECISION)
    first = _first(rows)
    winner = np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))
    lost = ~first
    found = np.empty(int(lost.sum()), DECISION)
    found["key"], found["digest"], found["position"] = rows["key"][lost], rows["digest"][lost], -1
    found["other"], found["score"] = rows["key"][winner][lost], rows["crawl"][winner][lost]
    return found


def condense(rows: np.ndarray, config: CurateConfig) -> np.ndarray:
    """What later crawls need: the first row of each bucket."""
    return rows[_first(rows)]


def _first(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([[True], rows["band"][1:] != rows["band"][:-1]]) if len(rows) else np.zeros(0, bool)


def apply(document: Document, decisions: np.ndarray, id_of: Callable[[int], str], config: CurateConfig) -> Outcome:
    """Names the earliest document that it meets, and the similarity that the number of shared bands speaks for.

    With `min_jaccard` it looks for one that is similar enough.
    """
    settings = config.minhash
    met, counts = np.unique(decisions[["score", "other"]], return_counts=True)  # in the order of crawls and keys
    scores = np.round(estimate(counts, settings.bands, settings.rows), 3)
    enough = np.flatnonzero(scores >= settings.min_jaccard)
    if len(enough) == 0:
        return Outcome([document], [])
    earliest = int(enough[0])
    other, score = id_of(int(met["other"][earliest])), float(scores[earliest])
    detail = f"{counts[earliest]} of {settings.bands} bands"
    return Outcome([], [removal(document, "minhash", "near duplicate", score=score, other=other, detail=detail)])
