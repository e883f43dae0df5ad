"""The log-probability of every token of a text. Shape suffixes as in `model/layers.py`."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from dots_jax.config import ModelConfig
from dots_jax.inference.decoder import Decoder
from dots_jax.inference.generation import chunk_size, padded_batch_size, padded_prompts, slots_for
from dots_jax.inference.weights import Weights, rows_sharding

LOGIT_TOKENS = 1024  # whose logits exist at the same time


class Scorer:
    """Scores texts through the cache, a chunk at a time, so that a long one needs no more memory than its keys and values."""

    def __init__(self, config: ModelConfig, dtype: str, mesh: Mesh, weights: Weights):
        self.mesh, self.weights, self.decoder = mesh, weights, Decoder(config, dtype, mesh)

    def logprobs(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """For each row one number a token after the first, in nats."""
        batch, longest = padded_batch_size(len(rows), self.mesh), max(map(len, rows))
        size = chunk_size(batch, longest)
        tokens, lengths = padded_prompts(rows, batch, size)
        targets = np.roll(tokens, -1, axis=1)
        place = functools.partial(jax.device_put, device=rows_sharding(self.mesh))
        lengths = place(lengths)
        cache, found = self.decoder.empty_cache(batch, slots_for(size)), []
        for start in range(0, tokens.shape[1], size):
            here = slice(start, start + size)
            if start + size > cache.slots:
                cache = self.decoder.grow(cache, slots_for(start + size))
            nll_BT, cache = self._chunk(
                self.weights, cache, place(tokens[:, here]), place(targets[:, here]), start, lengths
            )
            found.append(jax.device_get(nll_BT))
        nll = np.concatenate(found, axis=1)
        return [[-float(x) for x in line[: len(row) - 1]] for row, line in zip(rows, nll)]

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
    def _chunk(self, weights, cache, tokens_BT, targets_BT, start, lengths_B):
        x_BTD, cache = self.decoder.prefill(weights, cache, tokens_BT, start, lengths_B)
        return self.decoder.token_nll(weights, x_BTD, targets_BT, LOGIT_TOKENS), cache
