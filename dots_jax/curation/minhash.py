"""MinHash signatures and bands for locality-sensitive hashing: numpy alone, the same for one corpus and between sources.

1. The text is normalised as for identity; words are what white space parts, and pieces with Han characters are cut by jieba.
2. A shingle is n words in a row, joined by spaces; fewer words make one shingle of all. It is hashed to 32 bits.
3. Value i of the signature is the minimum of a_i x (mod 2^32) over all shingles x, with a random odd a_i: since x is a hash,
   two texts have the same value with a probability of their Jaccard similarity J.
4. A band is `rows` values, hashed with its number to 64 bits. Two texts meet with a probability of 1 - (1 - J^rows)^bands.
"""

import functools
from collections.abc import Sequence

import numpy as np
import rjieba

from dots_jax.config import MinHashConfig
from dots_jax.curation.hashing import mix
from dots_jax.curation.identity import normalise
from dots_jax.curation.words import HAN

_BASE = 0x9E3779B97F4A7C15 | 1
_INVERSE = pow(_BASE, -1, 1 << 64)
_BLOCK = 1 << 17  # products at a time, 512 KiB: fewer cost calls, more leave the processor's second cache
_KEPT_POWERS = 1 << 16


def tokens(text: str) -> str:
    """The normalised text with one space between words."""
    text = normalise(text).encode("utf-8", "replace").decode()  # jieba takes no lone surrogates
    if not HAN.search(text):
        return text
    pieces = (rjieba.cut(piece) if HAN.search(piece) else (piece,) for piece in text.split(" "))
    return " ".join(word for piece in pieces for word in piece if word.strip())


def shingles(text: str, ngram: int = 5) -> np.ndarray:
    """uint32 hash of every shingle, with repeats; empty for a text without a word."""
    return shingles_of(tokens(text), ngram)


def shingles_of(joined: str, ngram: int = 5) -> np.ndarray:
    """The same of normalised words with one space between them."""
    return (_hashes(joined, min(ngram, joined.count(" ") + 1)) >> np.uint64(32)).astype(np.uint32)


def ngram_hashes(text: str, n: int) -> np.ndarray:
    """uint64 hash of every n words in a row, with repeats; empty for a text of fewer words."""
    return _hashes(tokens(text), n)


def _hashes(joined: str, n: int) -> np.ndarray:
    """Of words with one space between them."""
    if not joined or joined.count(" ") + 1 < n:
        return np.empty(0, np.uint64)
    codes = np.frombuffer(joined.encode("utf-32-le"), "<u4")
    spaces = np.flatnonzero(codes == 32)
    starts = np.concatenate([[0], spaces + 1])[: len(spaces) + 2 - n]
    ends = np.append(spaces, len(codes))[n - 1 :]
    powers, inverses = _powers(len(codes))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mix(codes + np.uint64(1)) * powers)])
    return mix((sums[ends] - sums[starts]) * inverses[starts])


def _powers(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Powers of an odd number and of its inverse modulo 2^64: with them a difference of sums is a hash of that part."""
    if length <= _KEPT_POWERS:
        return tuple(array[:length] for array in _kept_powers())
    return _compute_powers(length)


@functools.cache
def _kept_powers() -> tuple[np.ndarray, np.ndarray]:
    return _compute_powers(_KEPT_POWERS)


def _compute_powers(length: int) -> tuple[np.ndarray, np.ndarray]:
    bases = np.full(length, _BASE, np.uint64), np.full(length, _INVERSE, np.uint64)
    for base in bases:
        base[0] = 1
    return tuple(np.multiply.accumulate(base) for base in bases)


@functools.cache
def multipliers(seed: int, count: int) -> np.ndarray:
    """The odd uint32 numbers of the hash functions: a function of (seed, index)."""
    index = np.arange(count, dtype=np.uint64) + np.uint64(mix(np.array([seed], np.uint64))[0])
    return (mix(index) >> np.uint64(32)).astype(np.uint32) | np.uint32(1)


def signature(shingles_N: np.ndarray, count: int, seed: int = 1) -> np.ndarray:
    """uint32 [count]: minima over the shingles, of which there must be one. Source: Broder 1997."""
    a_V = multipliers(seed, count)
    found_V = np.full(count, np.iinfo(np.uint32).max, np.uint32)
    height = max(_BLOCK // count, 1)
    buffer = np.empty((height, count), np.uint32)
    for first in range(0, len(shingles_N), height):
        x_N1 = shingles_N[first : first + height, None]
        products = np.multiply(x_N1, a_V, out=buffer[: len(x_N1)])
        np.minimum(found_V, products.min(axis=0), out=found_V)
    return found_V


def band_keys(signatures_DV: np.ndarray, bands: int) -> np.ndarray:
    """uint64 [D, bands] from uint32 [D, values]: each band with its number, in 64 bits."""
    documents, values = signatures_DV.shape
    rows = values // bands
    place = mix(np.arange(values, dtype=np.uint64) + np.uint64(_BASE)).reshape(bands, rows)
    mixed = mix(signatures_DV.reshape(documents, bands, rows).astype(np.uint64) ^ place)
    return mix(mixed.sum(axis=2, dtype=np.uint64))


def band_keys_of(texts: Sequence[str], config: MinHashConfig) -> tuple[np.ndarray, np.ndarray]:
    """(uint64 [D, bands], bool [D]): the bands of every text, and whether it has any. A text without a word has none, so that
    such texts are not duplicates of each other. Memory: signatures of one text, 8 bytes a band and text."""
    keys = np.zeros((len(texts), config.bands), np.uint64)
    has = np.zeros(len(texts), bool)
    for number, text in enumerate(texts):
        found = shingles(text, config.ngram)
        if len(found):
            has[number] = True
            one = signature(found, config.bands * config.rows, config.seed)
            keys[number] = band_keys(one[None], config.bands)[0]
    return keys, has


def hit_probability(jaccard: float, bands: int = 128, rows: int = 16) -> float:
    """That two texts of this similarity meet in at least one band."""
    return 1 - (1 - jaccard**rows) ** bands


def estimate(bands_shared, bands: int = 128, rows: int = 16):
    """The Jaccard similarity of two texts that meet in this many bands. Standard deviation .03 at 0.8, .01 at 0.9."""
    return (np.asarray(bands_shared) / bands) ** (1 / rows)


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """The exact similarity of two texts from their shingles."""
    a, b = np.unique(first), np.unique(second)
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both) if len(a) + len(b) else 0.0
