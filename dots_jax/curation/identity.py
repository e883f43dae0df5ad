"""Exact duplicates: MD5 of the normalised text, as the report defines it; the document of the smallest key stays.

Normalised: NFD, lower case, punctuation (categories P*) deleted, white space squeezed, stripped. Symbols (S*) stay, by our
reading. A text that is empty after that is removed as `empty`, since such texts are not duplicates of each other.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from dots_jax.config import CurateConfig
from dots_jax.curation.exchange import DECISION
from dots_jax.curation.protocol import Outcome
from dots_jax.curation.record import Document, removal

# MD5 in two, the number of the crawl, of which the first is 0, and the document.
ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("crawl", "<u4"), ("key", "<u8"), ("digest", "<u8")])
_EMPTY = hashlib.md5(b"").digest()
_PUNCTUATION = dict.fromkeys(  # no plane above the second has any
    code for code in range(0x20000) if unicodedata.category(chr(code)).startswith("P")
)
# A class of characters of the first plane alone is a bitmap: three times as fast as `translate`.
_COMMON = re.compile(f"[{''.join(re.escape(chr(code)) for code in _PUNCTUATION if code < 0x10000)}]+")
_RARE = re.compile("[\U00010000-\U0010ffff]")


def normalise(text: str) -> str:
    text = (text if text.isascii() else unicodedata.normalize("NFD", text)).lower()
    if _RARE.search(text):
        text = text.translate(_PUNCTUATION)
    return " ".join(_COMMON.sub("", text).split())


def fingerprint(text: str) -> str:
    """MD5 of the normalised text in UTF-8, 32 hexadecimal digits."""
    return _digest(text).hex()


def _digest(text: str) -> bytes:
    return hashlib.md5(normalise(text).encode("utf-8", "surrogatepass")).digest()


def rows(documents: Sequence[Document], keys: np.ndarray, digests: np.ndarray, config: CurateConfig) -> np.ndarray:
    found = np.zeros(len(documents), ROW)
    sums = b"".join(_digest(document.text) for document in documents)
    found["high"], found["low"] = np.frombuffer(sums, ">u8").reshape(-1, 2).T
    found["key"], found["digest"] = keys, digests
    return found


def decide(rows: np.ndarray, config: CurateConfig) -> np.ndarray:
    """One verdict for every row but the first of each text; for a text without characters, one for every row."""
    if len(rows) == 0:
        return np.empty(0, DECISION)
    first = _first(rows)
    winner = rows["key"][np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))]
    high, low = (int.from_bytes(part, "big") for part in (_EMPTY[:8], _EMPTY[8:]))
    empty = (rows["high"] == high) & (rows["low"] == low)
    lost = ~first | empty
    found = np.empty(int(lost.sum()), DECISION)
    found["key"], found["digest"], found["position"] = rows["key"][lost], rows["digest"][lost], -1
    found["other"], found["score"] = winner[lost], np.where(empty[lost], 0.0, 1.0)
    return found


def condense(rows: np.ndarray, config: CurateConfig) -> np.ndarray:
    """What later crawls need: the first row of each text."""
    return rows[_first(rows)]


def _first(rows: np.ndarray) -> np.ndarray:
    if len(rows) == 0:
        return np.zeros(0, bool)
    other = (rows["high"][1:] != rows["high"][:-1]) | (rows["low"][1:] != rows["low"][:-1])
    return np.concatenate([[True], other])


def apply(document: Document, decisions: np.ndarray, id_of: Callable[[int], str], config: CurateConfig) -> Outcome:
    if len(decisions) == 0:
        return Outcome([document], [])
    if decisions["score"][0] == 0:
        return Outcome([], [removal(document, "identity", "empty")])
    other = id_of(int(decisions["other"][0]))
    return Outcome([], [removal(document, "identity", "duplicate", score=1.0, other=other)])
