"""Attention and the chunked output head: plain references that run on every backend.

Shape suffixes as in `layers.py`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dots_jax.model.grouped_matmul import grouped_matmul
from dots_jax.model.rope import norm_rope
from dots_jax.parallel.mesh import AXES, axis_sizes, vary


class Kernels(NamedTuple):
    """What a platform has its own kernels for. Each has the signature and the meaning of its plain reference.

    ragged: it has a collective in which only the rows that are there travel.
    """

    norm_rope: Callable
    attention: Callable
    grouped_matmul: Callable
    ragged: bool = False


def kernels_for(platform: str) -> Kernels:
    """The kernels of `cpu`, `gpu` or `tpu`."""
    if platform == "tpu":
        from dots_jax.model import tpu_attention, tpu_grouped_matmul, tpu_rope

        return Kernels(tpu_rope.norm_rope, tpu_attention.attention, tpu_grouped_matmul.grouped_matmul, ragged=True)
    if platform in ("gpu", "cuda"):
        from dots_jax.model import gpu_kernels

        return Kernels(norm_rope, gpu_kernels.attention, gpu_kernels.grouped_matmul)
    return Kernels(norm_rope, attention, grouped_matmul)


def attention(
    q_BTNH: jax.Array, k_BSNH: jax.Array, v_BSNH: jax.Array, segments_BT: jax.Array, segments_BS: jax.Array, start: int
) -> jax.Array:
    """Causal attention inside each segment, softmax in float32; returns [B, T, N, H] in the dtype of q.

    Query t stands at place start + t of the keys' row; start + T = S. A token sees the tokens of its own segment at or
    before its place; padding (segment 0) sees padding.
    Queries go in a few blocks, each against the keys up to its end, which leaves out most of the triangle that the
    causal mask would throw away: half the time on a CPU. Costs about B * N * T * S float32 scores of memory.
    """
    T = q_BTNH.shape[1]
    block = -(-T // max(1, min(4, T // 64)))
    q_BNTH, k_BNSH, v_BNSH = (x.swapaxes(1, 2) for x in (q_BTNH, k_BSNH, v_BSNH))
    y_BNTH = [
        _attend(
            q_BNTH[:, :, first:last], k_BNSH[:, :, : start + last], v_BNSH[:, :, : start + last],
            segments_BT[:, first:last], segments_BS[:, : start + last], start + first,
        )
        for first in range(0, T, block)
        for last in [min(first + block, T)]
    ]  # fmt: skip
    return jnp.concatenate(y_BNTH, axis=2).swapaxes(1, 2)


def _attend(q_BNTH, k_BNSH, v_BNSH, segments_BT, segments_BS, start):
    """The queries from `start` on against all the keys up to the last of them."""
    T, S = q_BNTH.shape[2], k_BNSH.shape[2]
    scores_BNTS = jnp.einsum("BNTH,BNSH->BNTS", q_BNTH, k_BNSH, preferred_element_type=jnp.float32)
    same_BTS = segments_BT[:, :, None] == segments_BS[:, None, :]
    causal_TS = start + jnp.arange(T)[:, None] >= jnp.arange(S)
    scores_BNTS = jnp.where((same_BTS & causal_TS)[:, None], scores_BNTS * q_BNTH.shape[3] ** -0.5, -1e30)
    # The softmax's division comes last, on [T, H] instead of [T, S]. A constant taken off the scores has no gradient.
    largest = jax.lax.stop_gradient(jnp.max(scores_BNTS, axis=-1, keepdims=True))
    weights_BNTS = jnp.exp(scores_BNTS - largest)
    total = jnp.sum(weights_BNTS, axis=-1, keepdims=True)
    y_BNTH = jnp.einsum(
        "BNTS,BNSH->BNTH", weights_BNTS.astype(v_BNSH.dtype), v_BNSH, preferred_element_type=jnp.float32
    )
    # What the division's backward pass needs: named after it, the quotient alone would save no matmul.
    y_BNTH, total = checkpoint_name((y_BNTH, total), "attention")
    return (y_BNTH / total).astype(q_BNTH.dtype)


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
    x_RD: jax.Array, w: jax.Array, targets_R: jax.Array, weights_R: jax.Array, chunk: int, whole: Callable
) -> jax.Array:
    """sum_r weights_r * -log softmax(x_r @ w_DV)[target_r], a float32 scalar in nats; w_DV = whole(w).

    At most `chunk` rows of float32 logits exist at a time. The gradients are formed in the forward pass, where the
    logits are at hand: three matmuls in all instead of four, for the price of holding dx until the backward pass. dw goes
    through the transpose of `whole` at once: a device holds its shard of it, not 2.3 GiB, while the layers go backward.
    `weights_R` are data: their gradient is zero.
    """
    w_DV = whole(w)

    def one(total, rows):
        x, targets, weights = rows
        return total + jnp.sum(weights * _nll(_logits(x, w_DV), targets)), None

    zero = jnp.sum(weights_R) * 0  # a scalar that varies over the mesh like the rows do
    return jax.lax.scan(one, zero, _chunks(chunk, x_RD, targets_R, weights_R))[0]


def _cross_entropy_forward(x_RD, w, targets_R, weights_R, chunk, whole):
    w_DV, transpose = jax.vjp(whole, w)

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
    # Or the compiler would put it off until the layers have gone backward.
    dx, _ = jax.lax.optimization_barrier((dx, dw))
    return total, (dx.reshape(x_RD.shape), dw, targets_R)


def _cross_entropy_backward(chunk, whole, residuals, dtotal):
    dx_RD, dw, targets_R = residuals
    # The same number on every device; pmax says so to JAX, for which dw was summed over them already.
    scale = jax.lax.pmax(vary(dtotal), AXES) if axis_sizes() else dtotal
    dweights_R = jnp.zeros(targets_R.shape) + dtotal * 0
    return (dx_RD * dtotal).astype(dx_RD.dtype), (dw * scale).astype(dw.dtype), None, dweights_R


cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def token_nll(x_RD: jax.Array, w_DV: jax.Array, targets_R: jax.Array, chunk: int) -> jax.Array:
    """-log softmax(x_r @ w)[target_r] for each row, float32 [R] in nats, at most `chunk` rows of logits at a time."""
    rows = _chunks(chunk, x_RD, targets_R)
    return jax.lax.map(lambda row: _nll(_logits(row[0], w_DV), row[1]), rows).reshape(-1)
