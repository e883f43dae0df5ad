"""Experts work in rounds of a fixed number of rows until every copy of a token has had its turn: none is dropped.

A round has room for somewhat more rows than the balanced load, so that nearly always one is enough. At full skew there are
many: that is slow, and the result is the same.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp


def rows_per_round(balanced: float, capacity_factor: float, most: int) -> int:
    """`capacity_factor` times the balanced load, rounded up to full tiles, and never more than can arrive (`most`)."""
    tile = 512 if balanced >= 4096 else 8
    return min(math.ceil(capacity_factor * balanced / tile) * tile, most)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def sum_over_rounds(round_fn: Callable, num_rounds: jax.Array, diff_args: tuple, routing) -> jax.Array:
    """The sum over i < num_rounds of round_fn(i, diff_args, routing); round 0 always runs.

    diff_args: what is differentiated, tokens, gates and weights. routing: integer arrays. num_rounds may be traced.
    Only round 0 saves what its backward pass needs. The others, which a balanced load never runs, are computed again.
    """
    return _sum_forward(round_fn, num_rounds, diff_args, routing)[0]


def _sum_forward(round_fn, num_rounds, diff_args, routing):
    y_ND, pullback = jax.vjp(lambda diff_args: round_fn(0, diff_args, routing), diff_args)

    def one_more(carry):
        i, y_ND = carry
        return i + 1, y_ND + round_fn(i, diff_args, routing)

    _, y_ND = jax.lax.while_loop(lambda carry: carry[0] < num_rounds, one_more, (jnp.int32(1), y_ND))
    return y_ND, (pullback, num_rounds, diff_args, routing)


def _sum_backward(round_fn, residuals, dy_ND):
    pullback, num_rounds, diff_args, routing = residuals

    def one_more(carry):
        i, total = carry
        (grads,) = jax.vjp(lambda diff_args: round_fn(i, diff_args, routing), diff_args)[1](dy_ND)
        return i + 1, jax.tree.map(jnp.add, total, grads)

    (first,) = pullback(dy_ND)
    _, total = jax.lax.while_loop(lambda carry: carry[0] < num_rounds, one_more, (jnp.int32(1), first))
    return None, total, None


sum_over_rounds.defvjp(_sum_forward, _sum_backward)
