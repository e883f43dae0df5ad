"""Causal attention inside segments, in plain JAX: the reference that every backend can run. Shape suffixes: `model/layers.py`."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name


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
