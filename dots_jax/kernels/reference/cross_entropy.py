"""The output head's loss over chunks of rows, so that few logits exist at a time. Shape suffixes as in `model/layers.py`."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dots_jax.parallel.collectives import axis_sizes, pvary
from dots_jax.parallel.mesh import AXES


def _logits(x_RD: jax.Array, w_DV: jax.Array) -> jax.Array:
    return jnp.matmul(x_RD, w_DV, preferred_element_type=jnp.float32)


def _nll(logits_RV: jax.Array, targets_R: jax.Array) -> jax.Array:
    chosen_R = jnp.take_along_axis(logits_RV, targets_R[:, None], axis=-1)[:, 0]
    return jax.nn.logsumexp(logits_RV, axis=-1) - chosen_R


def _chunks(chunk: int, *arrays: jax.Array):
    """[R, ...] -> [R / chunk, chunk, ...] for each; R must be a multiple of chunk."""
    return tuple(a.reshape(-1, chunk, *a.shape[1:]) for a in arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def cross_entropy(
    x_RD: jax.Array, w: jax.Array, targets_R: jax.Array, weights_R: jax.Array, chunk: int, unshard: Callable
) -> jax.Array:
    """sum_r weights_r * -log softmax(x_r @ w_DV)[target_r], a float32 scalar in nats; w_DV = unshard(w).

    At most `chunk` rows of float32 logits exist at a time. The gradients are formed in the forward pass, where the
    logits exist: three matmuls in all instead of four, for the price of holding dx until the backward pass. dw goes
    through the transpose of `unshard` at once: a device holds its shard of dw, not 2.3 GiB, during the backward pass of the layers.
    `weights_R` are data: their gradient is zero.
    """
    w_DV = unshard(w)

    def one(total, rows):
        x, targets, weights = rows
        return total + jnp.sum(weights * _nll(_logits(x, w_DV), targets)), None

    zero = jnp.sum(weights_R) * 0  # a scalar that varies over the mesh like the rows do
    return jax.lax.scan(one, zero, _chunks(chunk, x_RD, targets_R, weights_R))[0]


def _cross_entropy_forward(x_RD, w, targets_R, weights_R, chunk, unshard):
    w_DV, transpose = jax.vjp(unshard, w)

    def one(carry, rows):
        total, dw_DV = carry
        x, targets, weights = rows
        logits = _logits(x, w_DV)
        total += jnp.sum(weights * _nll(logits, targets))
        one_hot = targets[:, None] == jnp.arange(logits.shape[-1])
        dlogits = ((jax.nn.softmax(logits, axis=-1) - one_hot) * weights[:, None]).astype(x.dtype)
        dw_DV += jnp.matmul(x.T, dlogits, preferred_element_type=jnp.float32)
        return (total, dw_DV), dlogits @ w_DV.T

    zero = jnp.sum(weights_R) * 0
    chunks = _chunks(chunk, x_RD, targets_R, weights_R)
    if len(chunks[0]) == 1:  # nothing to sum, so dw need never exist in float32
        (total, dw_DV), dx = one((zero, 0.0), [rows[0] for rows in chunks])
    else:
        (total, dw_DV), dx = jax.lax.scan(one, (zero, jnp.zeros(w_DV.shape, jnp.float32) + zero), chunks)
    (dw,) = transpose(dw_DV.astype(w_DV.dtype))
    # Otherwise the compiler would delay it until after the backward pass of the layers.
    dx, _ = jax.lax.optimization_barrier((dx, dw))
    return total, (dx.reshape(x_RD.shape), dw, targets_R)


def _cross_entropy_backward(chunk, unshard, residuals, dtotal):
    dx_RD, dw, targets_R = residuals
    # The same number on every device; pmax says so to JAX, for which dw was summed over them already.
    scale = jax.lax.pmax(pvary(dtotal), AXES) if axis_sizes() else dtotal
    dweights_R = jnp.zeros(targets_R.shape) + dtotal * 0
    return (dx_RD * dtotal).astype(dx_RD.dtype), (dw * scale).astype(dw.dtype), None, dweights_R


cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def token_nll(x_RD: jax.Array, w_DV: jax.Array, targets_R: jax.Array, chunk: int) -> jax.Array:
    """-log softmax(x_r @ w)[target_r] for each row, float32 [R] in nats, at most `chunk` rows of logits at a time."""
    rows = _chunks(chunk, x_RD, targets_R)
    return jax.lax.map(lambda row: _nll(_logits(row[0], w_DV), row[1]), rows).reshape(-1)
