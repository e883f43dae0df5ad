"""Prompts in, tokens out: a batch of rows, in which a row that ends gives its place to the next prompt.

Shape suffixes as in `model/layers.py`; G counts the prompts that are fed together.
"""

import collections
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dots_jax.config import ModelConfig
from dots_jax.inference.decoder import Cache, Decoder
from dots_jax.inference.prefix import Prefix, chunk_size, padded_batch_size, padded_prompts, slots_for
from dots_jax.inference.sampling import GREEDY, Sampling, logprob, sample
from dots_jax.inference.weights import Weights, rows_sharding

# Tokens of a row between two looks at the results: a call costs about a millisecond, and a row that ends waits this long for
# the next prompt, half of it on average.
TOKENS_PER_CALL, TOKENS_PER_STREAMED_CALL = 16, 4
# Prompts that are fed together, as a share of the batch: their cache exists next to that of the batch.
PROMPTS_SHARE = 4


class Request(NamedTuple):
    """One row to generate: a prompt, and what its draws depend on (`sampling`).

    Requests of the same prompt that follow one another share its prefill. A row ends after a stop id, which is given out as
    its last token; after max_new_tokens; or where the context ends.
    """

    tokens: Sequence[int]
    row: int  # the prompt's number in the complete input
    max_new_tokens: int
    sample: int = 0  # of the prompt


class Rows(NamedTuple):
    """What a step reads and changes, next to the cache: one entry a row of the batch."""

    token_B: jax.Array  # int32, the row's last token, which was not fed
    position_B: jax.Array  # int32, where it belongs: tokens of the row in the cache
    index_B: jax.Array  # int32, new tokens of the row
    budget_B: jax.Array  # int32, new tokens that it may have
    row_B: jax.Array  # int32, as in Request
    sample_B: jax.Array  # int32, as in Request
    done_B: jax.Array  # bool


class Prefilled(NamedTuple):
    """Prompts that were fed together. waiting: their requests without a place in the batch: (prompt of G, number)."""

    cache: Cache
    x_GD: jax.Array
    waiting: collections.deque[tuple[int, int]]


OnTokens = Callable[[int, list[int], list[float]], bool]


class Generator:
    """Generates with one model; compiled once for each shape of batch and size of cache."""

    def __init__(
        self, config: ModelConfig, dtype: str, mesh: Mesh, weights: Weights | None, sampling: Sampling = GREEDY
    ):
        self.config, self.mesh, self.weights, self.sampling = config, mesh, weights, sampling
        self.decoder = Decoder(config, dtype, mesh)

    def generate(
        self, requests: Sequence[Request], stop_ids: Sequence[int], on_tokens: OnTokens, *, batch_size: int,
        tokens_per_call: int = TOKENS_PER_CALL, prefix: Prefix | None = None, slots: int = 0,
    ) -> Iterator[int]:  # fmt: skip
        """Yields the number of each request whose row has ended, in the order in which they end.

        on_tokens(number, tokens, logprobs) gets the new tokens of a request as they come, with the model's log-probability of
        each in nats. It returns whether the row should go on.
        batch_size: rows at the same time. prefix: what every prompt begins with, which is not fed again; each prompt is
        longer. slots: of the cache at least, so that calls of unequal sizes share what is compiled.
        """
        if not requests:
            return
        batch = padded_batch_size(batch_size, self.mesh)
        stops = jnp.asarray(sorted(stop_ids) or [-1], jnp.int32)
        prompts = _Prompts(self, requests, padded_batch_size(max(1, batch // PROMPTS_SHARE), self.mesh), prefix, slots)
        running: list[int | None] = [None] * batch
        cache, rows = self.decoder.empty_cache(batch, max(slots, prompts.slots)), self._no_rows(batch)
        used, most = np.zeros((2, batch), np.int64)  # slots of each row, now and at the end of its budget

        def report(b: int, tokens: list[int], logprobs: list[float], done: bool) -> bool:
            used[b] += len(tokens)
            return not on_tokens(running[b], tokens, logprobs) or done

        while True:
            while (free := [b for b, number in enumerate(running) if number is None]) and (found := prompts.next()):
                placed = {b: found.waiting.popleft() for b in free[: len(found.waiting)]}
                source, new = self._placement(batch, placed, requests)
                cache, rows, *first = self._place(
                    self.weights, cache, rows, found.cache, found.x_GD, source, new, stops
                )
                tokens, logprobs, done = jax.device_get(first)
                for b, (_, number) in placed.items():
                    running[b], used[b] = number, len(requests[number].tokens)
                    most[b] = used[b] + self._budget(requests[number])
                    if report(b, [int(tokens[b])], [float(logprobs[b])], bool(done[b])):
                        yield number
                        running[b] = None
            live = [b for b, number in enumerate(running) if number is not None]
            if not live:
                return
            needed = int(np.max(np.minimum(used[live] + tokens_per_call, most[live])))
            # Every step reads all slots, so a long row that ended gives them back; not at every change, as a copy costs a step.
            wanted = max(slots, prompts.slots, slots_for(needed))
            if needed > cache.slots or 2 * wanted <= cache.slots:
                cache = self.decoder.resize(cache, wanted)
            ended = jax.device_put(np.array([number is None for number in running]), rows_sharding(self.mesh))
            cache, rows, *news = self._steps(self.weights, cache, rows._replace(done_B=ended), stops, tokens_per_call)
            tokens, logprobs, valid, done = jax.device_get(news)
            for b in live:
                here = valid[b]
                if report(b, tokens[b][here].tolist(), logprobs[b][here].tolist(), bool(done[b])):
                    yield running[b]
                    running[b] = None

    def prefill(
        self, tokens_BT: np.ndarray, lengths_B: np.ndarray, size: int, slots: int, prefix: Prefix | None = None
    ) -> tuple[Cache, jax.Array]:
        """The prompts' cache, filled in chunks of `size`, and the hidden state of each one's last token [B, D].

        tokens_BT: behind the prefix. lengths_B: with it. slots: room for all of them.
        """
        batch, begin = tokens_BT.shape[0], len(prefix.tokens) if prefix else 0
        cache = prefix.repeat(batch, slots) if prefix else self.decoder.empty_cache(batch, slots)
        x_BD = jnp.zeros((batch, self.config.hidden_size), self.decoder.dtype)
        x_BD, lengths_B = (jax.device_put(a, rows_sharding(self.mesh)) for a in (x_BD, lengths_B))
        for start in range(0, tokens_BT.shape[1], size):
            chunk = jax.device_put(tokens_BT[:, start : start + size], rows_sharding(self.mesh))
            x_BD, cache = self._prefill_chunk(self.weights, cache, x_BD, chunk, begin + start, lengths_B)
        return cache, x_BD

    def _no_rows(self, batch: int) -> Rows:
        nothing = np.zeros(batch, np.int32)
        rows = Rows(*[nothing] * 6, done_B=np.ones(batch, bool))
        return jax.device_put(rows, rows_sharding(self.mesh))

    def _placement(self, batch: int, placed: dict[int, tuple[int, int]], requests) -> tuple[jax.Array, Rows]:
        """For each row of the batch, which prompt it gets (-1: it stays), and the fields of its request."""
        source = np.full(batch, -1, np.int32)
        new = Rows(*(np.zeros(batch, np.int32) for _ in range(6)), done_B=np.ones(batch, bool))
        for b, (prompt, number) in placed.items():
            request = requests[number]
            source[b], new.position_B[b], new.row_B[b] = prompt, len(request.tokens), request.row
            new.sample_B[b], new.index_B[b] = request.sample, 1
            new.budget_B[b] = self._budget(request)
        return jax.device_put((source, new), rows_sharding(self.mesh))

    def _budget(self, request: Request) -> int:
        """New tokens that it may have: one at least, since the first takes no room in the cache."""
        return max(1, min(request.max_new_tokens, self.config.max_seq_len - len(request.tokens)))

    # --- what is compiled ---------------------------------------------------------------------------------------------

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=(2, 3))
    def _prefill_chunk(self, weights, cache, x_BD, tokens_BT, start, lengths_B):
        x_BTD, cache = self.decoder.prefill(weights, cache, tokens_BT, start, lengths_B)
        last_B = lengths_B - 1 - start
        here_B = (last_B >= 0) & (last_B < tokens_BT.shape[1])
        last_BD = jnp.take_along_axis(x_BTD, jnp.clip(last_B, 0, tokens_BT.shape[1] - 1)[:, None, None], axis=1)[:, 0]
        return jnp.where(here_B[:, None], last_BD, x_BD), cache

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
    def _place(self, weights, cache, rows: Rows, prompts: Cache, x_GD, source_B, new: Rows, stop_ids):
        """Gives rows to prompts: the cache and the rows then, and of each row its first token, its logprob, whether it ends."""
        x_BD = lax.with_sharding_constraint(x_GD[jnp.maximum(source_B, 0)], rows_sharding(self.mesh))
        logits_BV = self.decoder.logits(weights, x_BD[:, None])[:, 0]
        token_B = sample(logits_BV, self.sampling, new.row_B, new.sample_B, jnp.zeros_like(new.index_B))
        done_B = jnp.isin(token_B, stop_ids) | (new.budget_B <= 1)
        placed = new._replace(token_B=token_B, done_B=done_B)
        rows = jax.tree.map(lambda a_B, b_B: jnp.where(source_B >= 0, a_B, b_B), placed, rows)
        shown = (rows.token_B, logprob(logits_BV, token_B), rows.done_B)
        return self.decoder.place(cache, prompts, source_B), self._by_rows(rows), *map(self._copies, shown)

    @functools.partial(jax.jit, static_argnums=(0, 5), donate_argnums=2)
    def _steps(self, weights, cache, rows: Rows, stop_ids, calls):
        """At most `calls` tokens more for each row: the cache and the rows then, [B, calls] of tokens, of logprobs and of which
        are real, and who is done."""

        def body(carry):
            i, cache, rows, out_BC, logprob_BC, valid_BC = carry
            live_B = jnp.logical_not(rows.done_B)
            logits_BV, cache = self.decoder.step(weights, cache, rows.token_B, rows.position_B, live_B)
            new_B = sample(logits_BV, self.sampling, rows.row_B, rows.sample_B, rows.index_B)
            put = lambda to_BC, a_B: lax.dynamic_update_slice(to_BC, a_B[:, None], (0, i))
            news = put(out_BC, new_B), put(logprob_BC, logprob(logits_BV, new_B)), put(valid_BC, live_B)
            index_B = rows.index_B + live_B
            rows = rows._replace(
                token_B=jnp.where(live_B, new_B, rows.token_B), position_B=rows.position_B + live_B, index_B=index_B,
                done_B=rows.done_B | jnp.isin(new_B, stop_ids) | (index_B >= rows.budget_B),
            )  # fmt: skip
            return i + 1, cache, self._by_rows(rows), *news

        nothing = jnp.zeros((rows.token_B.shape[0], calls), jnp.int32)
        carry = (jnp.int32(0), cache, rows, nothing, nothing.astype(jnp.float32), nothing.astype(bool))
        going = lambda carry: (carry[0] < calls) & jnp.any(jnp.logical_not(carry[2].done_B))
        _, cache, rows, *news = lax.while_loop(going, body, carry)
        return cache, rows, *map(self._copies, (*news, rows.done_B))

    def _by_rows(self, rows: Rows) -> Rows:
        return jax.tree.map(lambda a: lax.with_sharding_constraint(a, rows_sharding(self.mesh)), rows)

    def _copies(self, a):
        """On every device, so that every process can read it."""
        return lax.with_sharding_constraint(a, NamedSharding(self.mesh, PartitionSpec()))


class _Prompts:
    """The prompts of requests, fed a few at a time when their rows can run.

    slots: of the cache of each group, one size for all, so that few programs are compiled.
    """

    def __init__(
        self, generator: Generator, requests: Sequence[Request], group: int, prefix: Prefix | None, slots: int
    ):
        self._generator, self._requests, self._group, self._prefix = generator, requests, group, prefix
        self._begin = len(prefix.tokens) if prefix else 0
        self._next, self._found = 0, None
        longest = max(len(request.tokens) for request in requests) - self._begin
        size = chunk_size(group, longest)
        self.slots = max(slots, slots_for(self._begin + -(-longest // size) * size), prefix.slots if prefix else 0)

    def next(self) -> Prefilled | None:
        """Prompts with requests that wait for a row; None when all have had one."""
        if self._found is None or not self._found.waiting:
            self._found = self._feed() if self._next < len(self._requests) else None
        return self._found

    def _feed(self) -> Prefilled:
        prompts, waiting, before = [], collections.deque(), None
        while self._next < len(self._requests):
            tokens = self._requests[self._next].tokens
            if before is None or tokens != before:
                if len(prompts) == self._group:
                    break
                prompts.append(tokens[self._begin :])
                before = tokens
            waiting.append((len(prompts) - 1, self._next))
            self._next += 1
        size = chunk_size(self._group, max(map(len, prompts)))
        tokens_GT, lengths_G = padded_prompts(prompts, self._group, size)
        cache, x_GD = self._generator.prefill(tokens_GT, lengths_G + self._begin, size, self.slots, self._prefix)
        return Prefilled(cache, x_GD, waiting)
