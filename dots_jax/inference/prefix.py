"""Tokens that many prompts begin with: fed once, and their cache copied. And the sizes in which prompts are fed."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from dots_jax.inference.decoder import Cache, Decoder
from dots_jax.inference.weights import Weights, rows_sharding

# Tokens of all rows that a prefill call takes: enough for each expert to have work, and few enough for its scores.
PREFILL_TOKENS = 2048
FIRST_SLOTS = 128  # of a cache; it grows by a third or a half when it is full, and each size is compiled once


def chunk_size(batch: int, longest: int) -> int:
    """Tokens of a row in one prefill call: a power of two, so that few sizes are ever compiled."""
    fits = max(16, 1 << ((PREFILL_TOKENS // batch).bit_length() - 1))
    return min(fits, max(16, 1 << (longest - 1).bit_length()))


def slots_for(needed: int) -> int:
    """The smallest size of cache with at least `needed` slots: 2**n or 3 * 2**n."""
    power = max(FIRST_SLOTS, 1 << (needed - 1).bit_length())
    return power * 3 // 4 if needed <= power * 3 // 4 and power > FIRST_SLOTS else power


def padded_batch_size(rows: int, mesh: Mesh) -> int:
    """The next batch size that the mesh can split; the rows added are padding."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    return -(-rows // parts) * parts


def padded_prompts(prompts: Sequence[Sequence[int]], batch: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [batch, chunks * size], zeros behind each prompt, and the lengths; rows without a prompt count one token."""
    longest = max(len(prompt) for prompt in prompts)
    tokens, lengths = np.zeros((batch, -(-longest // size) * size), np.int32), np.ones(batch, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)], lengths[row] = prompt, len(prompt)
    return tokens, lengths


class Prefix:
    """The tokens and the cache of one row that holds them.

    The rows of a batch that begin with these tokens start from `repeat`.
    """

    CHUNK = 256  # tokens fed in a call

    def __init__(self, decoder: Decoder, weights: Weights, mesh: Mesh, tokens: Sequence[int], slots: int = 0):
        """slots: at least this many, so that prefixes of unequal lengths share what is compiled."""
        self.tokens, self._decoder = tuple(tokens), decoder
        batch = padded_batch_size(1, mesh)
        padded, lengths = padded_prompts([tokens] * batch, batch, self.CHUNK)
        lengths = jax.device_put(lengths, rows_sharding(mesh))
        cache = decoder.empty_cache(batch, max(slots, slots_for(padded.shape[1])))
        for start in range(0, padded.shape[1], self.CHUNK):
            chunk = jax.device_put(padded[:, start : start + self.CHUNK], rows_sharding(mesh))
            cache = decoder.fill(weights, cache, chunk, start, lengths)
        self._cache: Cache = cache

    @property
    def slots(self) -> int:
        return self._cache.slots

    def repeat(self, batch: int, slots: int) -> Cache:
        return self._decoder.repeat(self._cache, batch, max(slots, self._cache.slots))


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with, at most all but the last one of the shortest."""
    first, last = min(prompts), max(prompts)
    shortest = min(map(len, prompts)) - 1
    return next((i for i in range(shortest) if first[i] != last[i]), shortest)
