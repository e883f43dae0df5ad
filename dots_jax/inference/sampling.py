"""The next token from logits: greedy, or drawn. Every draw is a function of (seed, row, sample, index of the token) alone,
so a row's text depends neither on the other rows of its batch nor on how the work was cut into batches. B rows, V ids."""

import dataclasses

import jax
import jax.numpy as jnp

from dots_jax.config import UserError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """temperature: 0 takes the likeliest token. top_k: draws among this many likeliest (0: all). top_p: draws among the
    likeliest whose probabilities, after temperature and top_k, first reach this sum. seed: of all draws."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"--temperature must be 0 (greedy) or above, but is {self.temperature}.")
        if self.top_k < 0:
            raise UserError(f"--top_k must be 0 (all) or above, but is {self.top_k}.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top_p must be above 0 and at most 1, but is {self.top_p}.")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"--seed must be in [0, 2**31), but is {self.seed}.")


GREEDY = Sampling()


def sample(
    logits_BV: jax.Array, sampling: Sampling, rows_B: jax.Array, samples_B: jax.Array, index_B: jax.Array
) -> jax.Array:  # fmt: skip
    """The next token of each row, int32 [B].

    rows_B: each row's prompt, as its number in the complete input. samples_B: which of the prompt's samples the row is.
    index_B: of the token among the new ones of its row.
    """
    if sampling.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    logits_BV = logits_BV.astype(jnp.float32) / sampling.temperature
    ids_BV = None
    if sampling.top_k or sampling.top_p < 1:
        # In falling order; the first is always kept.
        vocab = logits_BV.shape[1]
        logits_BV, ids_BV = jax.lax.top_k(logits_BV, min(sampling.top_k or vocab, vocab))
        probabilities = jax.nn.softmax(logits_BV, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        kept = (before < sampling.top_p) | (jnp.arange(logits_BV.shape[1]) == 0)
        logits_BV = jnp.where(kept, logits_BV, -jnp.inf)
    draw = jax.vmap(lambda logits, *place: jax.random.categorical(_key(sampling.seed, *place), logits))
    choice_B = draw(logits_BV, rows_B, samples_B, index_B)
    if ids_BV is not None:
        choice_B = jnp.take_along_axis(ids_BV, choice_B[:, None], axis=1)[:, 0]
    return choice_B.astype(jnp.int32)


def logprob(logits_BV: jax.Array, token_B: jax.Array) -> jax.Array:
    """The model's log-probability of each row's token, in nats, float32 [B]: as `score` has it, before temperature, top_k
    and top_p."""
    chosen_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=1)[:, 0]
    return chosen_B.astype(jnp.float32) - jax.nn.logsumexp(logits_BV.astype(jnp.float32), axis=-1)


def _key(seed: int, row: jax.Array, sample: jax.Array, index: jax.Array) -> jax.Array:
    key = jax.random.key(seed)
    for number in (row, sample, index):
        key = jax.random.fold_in(key, number)
    return key
