"""Multi-head attention with QK norm and rotary positions (report, section 2). Shape suffixes as in `model/layers.py`."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from dots_jax.kernels.select import Kernels
from dots_jax.model.layers import RMSNorm, matmul, whole
from dots_jax.model.parameters import weight
from dots_jax.parallel.collectives import axis_sizes
from dots_jax.parallel.context import context_order
from dots_jax.parallel.mesh import CONTEXT


def attention_over_context(q_BTNH, k_BTNH, v_BTNH, segments_BT, attention: Callable) -> jax.Array:
    """`attention` for sequences that lie in pieces along the context axis, in `context_order`.

    Keys and values are gathered once: 2 * T * N * H * (devices - 1) elements a layer, a fraction 1 / T of the arithmetic.
    Each device takes its two chunks of queries to the keys up to their ends and no further; the sum is the same on all.
    """
    pieces, T = jax.lax.axis_size(CONTEXT), q_BTNH.shape[1]
    chunk = T // 2
    place = [context_order(pieces).index(i) for i in range(2 * pieces)]

    def gather(a_BT):
        flat_BT = jax.lax.all_gather(a_BT.reshape(*a_BT.shape[:2], -1), CONTEXT, axis=1, tiled=True)
        flat_BT = jnp.concatenate([flat_BT[:, p * chunk : (p + 1) * chunk] for p in place], axis=1)
        return flat_BT.reshape(a_BT.shape[0], -1, *a_BT.shape[2:])

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
        declare = functools.partial(weight, rngs, std=init_std, part="attention", compute_dtype=dtype)
        self.wq_DNH = declare((hidden_size, num_heads, head_dim), ("embed", "heads", "head_dim"))
        self.wk_DNH = declare((hidden_size, num_heads, head_dim), ("embed", "heads", "head_dim"))
        self.wv_DNH = declare((hidden_size, num_heads, head_dim), ("embed", "heads", "head_dim"))
        self.wo_NHD = declare((num_heads, head_dim, hidden_size), ("heads", "head_dim", "embed"))
        self.q_norm = RMSNorm(head_dim, epsilon=norm_epsilon)
        self.k_norm = RMSNorm(head_dim, epsilon=norm_epsilon)
        self.head_dim, self.kernels = head_dim, kernels

    def __call__(self, x_BTD: jax.Array, rope: tuple[jax.Array, jax.Array], segments_BT: jax.Array) -> jax.Array:
        q_BTNH, k_BTNH, v_BTNH = self.inwards(x_BTD, rope)
        if axis_sizes().get(CONTEXT, 1) > 1:
            y_BTNH = attention_over_context(q_BTNH, k_BTNH, v_BTNH, segments_BT, self.kernels.attention)
        else:
            y_BTNH = self.kernels.attention(q_BTNH, k_BTNH, v_BTNH, segments_BT, segments_BT, 0)
        return self.outwards(y_BTNH)

    def inwards(self, x_BTD: jax.Array, rope: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        """q, k and v of each token, [B, T, N, H], q and k normalised and rotated."""
        weights = (whole(w) for w in (self.wq_DNH, self.wk_DNH, self.wv_DNH))
        # All heads side by side: as [B, T, N, H] a matmul's result would be laid out anew.
        projected = [matmul(x_BTD, w_DNH.reshape(w_DNH.shape[0], -1)) for w_DNH in weights]
        q_BTNH, k_BTNH, v_BTNH = (a.reshape(*a.shape[:2], -1, self.head_dim) for a in checkpoint_name(projected, "qkv"))
        q_BTNH, k_BTNH = (
            self.kernels.norm_rope(a, whole(norm.scale), rope, epsilon=norm.epsilon)
            for a, norm in ((q_BTNH, self.q_norm), (k_BTNH, self.k_norm))
        )
        return q_BTNH, k_BTNH, v_BTNH

    def outwards(self, y_BTNH: jax.Array) -> jax.Array:
        """What the heads found, back in the residual stream: [B, T, D]."""
        w_NHD = whole(self.wo_NHD)
        y_BTD = matmul(y_BTNH.reshape(*y_BTNH.shape[:2], -1), w_NHD.reshape(-1, w_NHD.shape[2]))
        return checkpoint_name(y_BTD, "attn_out")
