"""Multi-head attention with QK norm and rotary positions (report, section 2). Shape suffixes as in `layers.py`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from dots_jax.model.kernels import Kernels
from dots_jax.model.layers import RMSNorm, weight, whole
from dots_jax.parallel.mesh import CONTEXT, axis_sizes


def rope_table(positions_BT: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """cos and sin of each position's rotation, float32 [B, T, 1, H]; both halves of the head turn by the same angles."""
    frequency_H = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle = positions_BT[:, :, None, None].astype(jnp.float32) * jnp.tile(frequency_H, 2)
    return jnp.cos(angle), jnp.sin(angle)


def apply_rope(x_BTNH: jax.Array, rope: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the pairs (x[i], x[i + H/2]) in float32: the halves layout of the released weights.

    The other half of each pair comes by a matmul with a signed permutation, exact in any dtype: halves of 64 lanes would
    leave the other 64 of a TPU's registers empty, and be written out in float32.
    """
    cos, sin = rope
    half = x_BTNH.shape[-1] // 2
    turn_HH = jnp.eye(2 * half, k=half, dtype=x_BTNH.dtype) - jnp.eye(2 * half, k=-half, dtype=x_BTNH.dtype)
    turned_BTNH = jnp.einsum("BTNH,HG->BTNG", x_BTNH, turn_HH, precision=jax.lax.Precision.HIGHEST)
    return (x_BTNH.astype(jnp.float32) * cos + turned_BTNH.astype(jnp.float32) * sin).astype(x_BTNH.dtype)


def context_order(pieces: int) -> list[int]:
    """In which order the 2 * pieces chunks of a sequence lie along the context axis: device i has chunks i and
    2 * pieces - 1 - i, an early one and a late one, so that the causal mask leaves every device as much to do."""
    return [chunk for i in range(pieces) for chunk in (i, 2 * pieces - 1 - i)]


def attention_over_context(q_BTNH, k_BTNH, v_BTNH, segments_BT, attention: Callable) -> jax.Array:
    """`attention` for sequences that lie in pieces along the context axis, in `context_order`.

    Keys and values are gathered once: 2 * T * N * H * (devices - 1) elements a layer, a fraction 1 / T of the arithmetic.
    Each device takes its two chunks of queries to the keys up to their ends and no further; the sum is the same on all.
    """
    pieces, T = jax.lax.axis_size(CONTEXT), q_BTNH.shape[1]
    chunk = T // 2
    place = [context_order(pieces).index(i) for i in range(2 * pieces)]

    def gather(a_BT):
        a_BT = jax.lax.all_gather(a_BT, CONTEXT, axis=1, tiled=True)
        return jnp.concatenate([a_BT[:, p * chunk : (p + 1) * chunk] for p in place], axis=1)

    def on_device(i: int):
        def two_chunks(q_BTNH, segments_BT, k_BSNH, v_BSNH, segments_BS):
            y = []
            for half, begin in ((0, i * chunk), (chunk, (2 * pieces - 1 - i) * chunk)):
                end, own = begin + chunk, slice(half, half + chunk)
                keys = (a[:, :end] for a in (k_BSNH, v_BSNH))
                y.append(attention(q_BTNH[:, own], *keys, segments_BT[:, own], segments_BS[:, :end], begin))
            return jnp.concatenate(y, axis=1)

        return two_chunks

    return jax.lax.switch(
        jax.lax.axis_index(CONTEXT), [on_device(i) for i in range(pieces)],
        q_BTNH, segments_BT, gather(k_BTNH), gather(v_BTNH), gather(segments_BT),
    )  # fmt: skip


class Attention(nnx.Module):
    """Plain multi-head attention. q and k are normalised over the head dimension, with weights that all heads share,
    after the projection and before RoPE."""

    def __init__(
        self, hidden_size: int, num_heads: int, head_dim: int, *,
        norm_epsilon: float, init_std: float, dtype: jnp.dtype, kernels: Kernels, rngs: nnx.Rngs,
    ):  # fmt: skip
        inwards, outwards = (hidden_size, num_heads, head_dim), (num_heads, head_dim, hidden_size)
        self.wq_DNH = weight(rngs, inwards, ("embed", "heads", "head_dim"), init_std)
        self.wk_DNH = weight(rngs, inwards, ("embed", "heads", "head_dim"), init_std)
        self.wv_DNH = weight(rngs, inwards, ("embed", "heads", "head_dim"), init_std)
        self.wo_NHD = weight(rngs, outwards, ("heads", "head_dim", "embed"), init_std)
        self.q_norm = RMSNorm(head_dim, epsilon=norm_epsilon)
        self.k_norm = RMSNorm(head_dim, epsilon=norm_epsilon)
        self.dtype, self.kernels = dtype, kernels

    def __call__(self, x_BTD: jax.Array, rope: tuple[jax.Array, jax.Array], segments_BT: jax.Array) -> jax.Array:
        q_BTNH, k_BTNH, v_BTNH = self.inwards(x_BTD, rope)
        if axis_sizes().get(CONTEXT, 1) > 1:
            y_BTNH = attention_over_context(q_BTNH, k_BTNH, v_BTNH, segments_BT, self.kernels.attention)
        else:
            y_BTNH = self.kernels.attention(q_BTNH, k_BTNH, v_BTNH, segments_BT, segments_BT, 0)
        return self.outwards(y_BTNH)

    def inwards(self, x_BTD: jax.Array, rope: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        """q, k and v of each token, [B, T, N, H], normalised and rotated."""
        q_BTNH = jnp.einsum("BTD,DNH->BTNH", x_BTD, whole(self.wq_DNH, self.dtype))
        k_BTNH = jnp.einsum("BTD,DNH->BTNH", x_BTD, whole(self.wk_DNH, self.dtype))
        v_BTNH = jnp.einsum("BTD,DNH->BTNH", x_BTD, whole(self.wv_DNH, self.dtype))
        q_BTNH, k_BTNH, v_BTNH = checkpoint_name((q_BTNH, k_BTNH, v_BTNH), "qkv")
        return apply_rope(self.q_norm(q_BTNH), rope), apply_rope(self.k_norm(k_BTNH), rope), v_BTNH

    def outwards(self, y_BTNH: jax.Array) -> jax.Array:
        """What the heads found, back in the residual stream: [B, T, D]."""
        return checkpoint_name(jnp.einsum("BTNH,NHD->BTD", y_BTNH, whole(self.wo_NHD, self.dtype)), "attended")
