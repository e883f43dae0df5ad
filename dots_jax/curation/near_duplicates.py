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
    """One verdict for every row but the first of its bucket: one for each band in which a document meets an earlier one."""
    if len(rows) == 0:
        return np.empty(0, DECISION)
    first = _first(rows)
    winner = rows["key"][np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))]
    lost = ~first
    found = np.empty(int(lost.sum()), DECISION)
    found["key"], found["digest"], found["position"] = rows["key"][lost], rows["digest"][lost], -1
    found["other"], found["score"] = winner[lost], 1.0
    return found


def condense(rows: np.ndarray, config: CurateConfig) -> np.ndarray:
    """What later crawls need: the first row of each bucket."""
    return rows[_first(rows)]


def _first(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([[True], rows["band"][1:] != rows["band"][:-1]]) if len(rows) else np.zeros(0, bool)


def apply(document: Document, decisions: np.ndarray, id_of: Callable[[int], str], config: CurateConfig) -> Outcome:
    """Names the earlier document that most bands share, and the similarity that this number speaks for."""
    if len(decisions) == 0:
        return Outcome([document], [])
    others, counts = np.unique(decisions["other"], return_counts=True)
    best = int(np.argmax(counts))  # the smallest key of several
    shared, settings = int(counts[best]), config.minhash
    score = round(float(estimate(shared, settings.bands, settings.rows)), 3)
    if score < settings.min_jaccard:
        return Outcome([document], [])
    detail = f"{shared} of {settings.bands} bands"
    other = id_of(int(others[best]))
    return Outcome([], [removal(document, "minhash", "near duplicate", score=score, other=other, detail=detail)])
