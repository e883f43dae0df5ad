"""Prompts in, tokens out, a batch at a time. Shape suffixes as in `model/layers.py`."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dots_jax.config import ModelConfig
from dots_jax.inference.decoder import Cache, Decoder
from dots_jax.inference.prefix import Prefix, chunk_size, padded_batch_size, padded_prompts, slots_for
from dots_jax.inference.sampling import GREEDY, Sampling, sample
from dots_jax.inference.weights import Weights, rows_sharding

# Tokens of a row between two looks at the results: a call costs about a millisecond, a stop string is seen this much late.
TOKENS_PER_CALL, TOKENS_PER_STREAMED_CALL = 16, 4


class DecodeState(NamedTuple):
    """What changes from token to token, next to the cache."""

    token_B: jax.Array  # int32, the last token of each row
    done_B: jax.Array  # bool, rows that have ended
    count: int | jax.Array  # tokens that were fed to the model after the prompts


class DecodeLimits(NamedTuple):
    """What stays the same for a batch."""

    lengths_B: jax.Array  # int32, tokens of each prompt
    rows_B: jax.Array  # int32, each row's number in the complete input, for `sampling`
    budget_B: jax.Array  # int32, new tokens that a row may have
    stop_ids: jax.Array  # int32, ids that end a row
    prefilled: int | jax.Array  # slots of the cache that the prompts take


class Generator:
    """Generates with one model; compiled once for each shape of batch and size of cache."""

    def __init__(self, config: ModelConfig, dtype: str, mesh: Mesh, weights: Weights, sampling: Sampling = GREEDY):
        self.config, self.mesh, self.weights, self.sampling = config, mesh, weights, sampling
        self.decoder = Decoder(config, dtype, mesh)

    def generate(
        self, prompts: Sequence[Sequence[int]], row_numbers: Sequence[int], max_new_tokens: int, stop_ids: Sequence[int],
        tokens_per_call: int = TOKENS_PER_CALL, *, prefix: Prefix | None = None, batch: int = 0, slots: int = 0,
    ) -> Iterator[list[list[int]]]:  # fmt: skip
        """Yields new tokens as they come: for each prompt those since the last time.

        A row ends after a stop id, which is given out as its last token; after max_new_tokens; or where the context ends.
        row_numbers: of the prompts in the complete input, for `sampling`. The caller may send True at any time for a row that
        need not go on: `generator.send([bool, ...])`.

        prefix: what every prompt begins with, which is not fed again; each prompt is longer. batch, slots: at least this many
        rows and slots of the cache, so that calls of unequal sizes share what is compiled.
        """
        batch = padded_batch_size(max(batch, len(prompts)), self.mesh)
        begin = len(prefix.tokens) if prefix else 0
        rests = [prompt[begin:] for prompt in prompts]
        size = chunk_size(batch, max(map(len, rests)))
        tokens, lengths = padded_prompts(rests, batch, size)
        lengths += begin
        budget = np.minimum(max_new_tokens, self.config.max_seq_len - lengths)
        budget[len(prompts) :] = 0
        rows = np.zeros(batch, np.int32)
        rows[: len(prompts)] = row_numbers
        lengths, budget, rows = (jax.device_put(a, rows_sharding(self.mesh)) for a in (lengths, budget, rows))
        stop_ids = jnp.asarray(sorted(stop_ids) or [-1], jnp.int32)
        limits = DecodeLimits(lengths, rows, budget, stop_ids, prefilled=begin + tokens.shape[1])

        cache, x_BD = self.prefill(tokens, lengths, size, prefix, slots)
        state = DecodeState(*self._first(self.weights, x_BD, limits), count=0)
        news, ended = [[int(t)] for t in jax.device_get(state.token_B)[: len(prompts)]], np.zeros(batch, bool)
        news = [new if n else [] for new, n in zip(news, jax.device_get(budget))]
        while True:
            wanted = yield news
            if wanted is not None:
                ended[: len(prompts)] |= np.asarray(wanted, bool)
            done_B = jnp.logical_or(state.done_B, jax.device_put(ended, rows_sharding(self.mesh)))
            left = int(jnp.max(jnp.where(done_B, 0, budget - state.count - 1)))
            if left <= 0:
                return
            calls = min(left, tokens_per_call)
            needed = limits.prefilled + state.count + calls
            if needed > cache.slots:
                cache = self.decoder.grow(cache, slots_for(needed))
            out_BC, valid_BC, token_B, done_B, cache = self._steps(
                self.weights, cache, state._replace(done_B=done_B), limits, calls, tokens_per_call
            )
            state = DecodeState(token_B, done_B, state.count + calls)
            out, valid = jax.device_get((out_BC, valid_BC))
            news = [[int(t) for t in o[v]] for o, v in zip(out, valid)][: len(prompts)]

    def prefill(
        self, tokens_BT: np.ndarray, lengths_B: jax.Array, size: int, prefix: Prefix | None = None, slots: int = 0
    ) -> tuple[Cache, jax.Array]:
        """The prompts' cache, filled in chunks of `size`, and the hidden state of each one's last token [B, D].

        tokens_BT: behind the prefix. lengths_B: with it.
        """
        batch, begin = tokens_BT.shape[0], len(prefix.tokens) if prefix else 0
        slots = max(slots, slots_for(begin + size))
        cache = prefix.repeat(batch, slots) if prefix else self.decoder.empty_cache(batch, slots)
        x_BD = jnp.zeros((batch, self.config.hidden_size), self.decoder.dtype)
        x_BD = jax.device_put(x_BD, rows_sharding(self.mesh))
        for start in range(0, tokens_BT.shape[1], size):
            if begin + start + size > cache.slots:
                cache = self.decoder.grow(cache, slots_for(begin + start + size))
            chunk = jax.device_put(tokens_BT[:, start : start + size], rows_sharding(self.mesh))
            x_BD, cache = self._prefill_chunk(self.weights, cache, x_BD, chunk, begin + start, lengths_B)
        return cache, x_BD

    # --- what is compiled ---------------------------------------------------------------------------------------------

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=(2, 3))
    def _prefill_chunk(self, weights, cache, x_BD, tokens_BT, start, lengths_B):
        x_BTD, cache = self.decoder.prefill(weights, cache, tokens_BT, start, lengths_B)
        last_B = lengths_B - 1 - start
        here_B = (last_B >= 0) & (last_B < tokens_BT.shape[1])
        last_BD = jnp.take_along_axis(x_BTD, jnp.clip(last_B, 0, tokens_BT.shape[1] - 1)[:, None, None], axis=1)[:, 0]
        return jnp.where(here_B[:, None], last_BD, x_BD), cache

    @functools.partial(jax.jit, static_argnums=0)
    def _first(self, weights, x_BD, limits: DecodeLimits):
        logits_BV = self.decoder.logits(weights, x_BD[:, None])[:, 0]
        token_B = sample(logits_BV, self.sampling, limits.rows_B, 0)
        done_B = jnp.isin(token_B, limits.stop_ids) | (limits.budget_B <= 1)
        return self._copies(token_B), self._copies(done_B)

    @functools.partial(jax.jit, static_argnums=(0, 6), donate_argnums=2)
    def _steps(self, weights, cache, state: DecodeState, limits: DecodeLimits, calls, size):
        """At most `calls` tokens more for each row: [B, size] of them and which are real, the last ones, who is done."""

        def body(carry):
            i, cache, token_B, done_B, out_BC, valid_BC = carry
            logits_BV, cache = self.decoder.step(
                weights, cache, token_B, limits.lengths_B, limits.prefilled, state.count + i, jnp.logical_not(done_B)
            )
            new_B = sample(logits_BV, self.sampling, limits.rows_B, state.count + i + 1)
            new_B = jnp.where(done_B, token_B, new_B)
            out_BC = lax.dynamic_update_slice(out_BC, new_B[:, None], (0, i))
            valid_BC = lax.dynamic_update_slice(valid_BC, jnp.logical_not(done_B)[:, None], (0, i))
            done_B = done_B | jnp.isin(new_B, limits.stop_ids) | (state.count + i + 2 >= limits.budget_B)
            return i + 1, cache, new_B, done_B, out_BC, valid_BC

        nothing = jnp.zeros((state.token_B.shape[0], size), jnp.int32)
        carry = (jnp.int32(0), cache, state.token_B, state.done_B, nothing, nothing.astype(bool))
        going = lambda carry: (carry[0] < calls) & jnp.any(jnp.logical_not(carry[3]))
        _, cache, token_B, done_B, out_BC, valid_BC = lax.while_loop(going, body, carry)
        return *map(self._copies, (out_BC, valid_BC, token_B, done_B)), cache

    def _copies(self, a):
        """On every device, so that every process can read it."""
        return lax.with_sharding_constraint(a, NamedSharding(self.mesh, PartitionSpec()))
