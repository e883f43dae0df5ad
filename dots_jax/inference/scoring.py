"""The log-probability of every token of a text. Shape suffixes as in `model/layers.py`."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh

from dots_jax.config import ModelConfig
from dots_jax.inference.decoder import Decoder
from dots_jax.inference.prefix import Prefix, chunk_size, padded_batch_size, padded_prompts, slots_for
from dots_jax.inference.weights import Weights, rows_sharding
from dots_jax.parallel.sharding import replicated

LOGIT_TOKENS = 1024  # whose logits exist at the same time


class Scorer:
    """Scores texts through the cache, a chunk at a time, so that a long one needs no more memory than its keys and values."""

    def __init__(self, config: ModelConfig, dtype: str, mesh: Mesh, weights: Weights):
        self.mesh, self.weights, self.decoder = mesh, weights, Decoder(config, dtype, mesh)

    def logprobs(
        self, rows: Sequence[Sequence[int]], *, prefix: Prefix | None = None, batch: int = 0, slots: int = 0
    ) -> list[list[float]]:
        """For each row one number a token after the first, in nats.

        prefix: what every row begins with, which is not fed again; the numbers are then those of the tokens behind it but
        the first. batch, slots: at least this many rows and slots of the cache.
        """
        return [row for row, _ in self.scores(rows, prefix=prefix, batch=batch, slots=slots, greedy=False)]

    def scores(
        self, rows: Sequence[Sequence[int]], *, prefix: Prefix | None = None, batch: int = 0, slots: int = 0, greedy: bool = True
    ) -> list[tuple[list[float], list[bool]]]:  # fmt: skip
        """`logprobs`, and with `greedy` for each of these tokens whether it is the likeliest one."""
        begin = len(prefix.tokens) if prefix else 0
        rows = [row[begin:] for row in rows]
        batch, longest = padded_batch_size(max(batch, len(rows)), self.mesh), max(map(len, rows))
        size = chunk_size(batch, longest)
        tokens, lengths = padded_prompts(rows, batch, size)
        lengths += begin
        targets = np.roll(tokens, -1, axis=1)
        place = functools.partial(jax.device_put, device=rows_sharding(self.mesh))
        lengths = place(lengths)
        slots = max(slots, slots_for(begin + size))
        cache, found = prefix.repeat(batch, slots) if prefix else self.decoder.empty_cache(batch, slots), []
        for start in range(0, tokens.shape[1], size):
            here = slice(start, start + size)
            if begin + start + size > cache.slots:
                cache = self.decoder.resize(cache, slots_for(begin + start + size))
            results, cache = self._chunk(
                self.weights, cache, place(tokens[:, here]), place(targets[:, here]), begin + start, lengths, greedy
            )
            found.append(jax.device_get(results))
        nll, first = (np.concatenate(parts, axis=1) for parts in zip(*found))
        return [
            ([-float(x) for x in line[: len(row) - 1]], list(map(bool, same[: len(row) - 1])) if greedy else [])
            for row, line, same in zip(rows, nll, first)
        ]

    @functools.partial(jax.jit, static_argnums=(0, 7), donate_argnums=2)
    def _chunk(self, weights, cache, tokens_BT, targets_BT, start, lengths_B, greedy):
        x_BTD, cache = self.decoder.prefill(weights, cache, tokens_BT, start, lengths_B)
        nll_BT = self.decoder.token_nll(weights, x_BTD, targets_BT, LOGIT_TOKENS)
        first_BT = self.decoder.is_likeliest(weights, x_BTD, targets_BT, LOGIT_TOKENS) if greedy else nll_BT > 0
        # On every device, so that every process can read it.
        return lax.with_sharding_constraint((nll_BT, first_BT), replicated(self.mesh)), cache
