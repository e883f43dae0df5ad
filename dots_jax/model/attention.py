"""Multi-head attention with QK norm and rotary positions (report, section 2). Shape suffixes as in `model/layers.py`."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from dots_jax.kernels.select import Kernels
from dots_jax.model.layers import RMSNorm
from dots_jax.model.parameters import weight
from dots_jax.parallel.collectives import unshard
from dots_jax.parallel.context import attention_over_context


class Attention(nnx.Module):
    """Plain multi-head attention. q and k are normalised over the head dimension, with a scale that all heads share, after
    the projection and before RoPE."""

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
        q_BTNH, k_BTNH, v_BTNH = self.qkv(x_BTD, rope)
        y_BTNH = attention_over_context(q_BTNH, k_BTNH, v_BTNH, segments_BT, self.kernels.attention)
        return self.out_proj(y_BTNH)

    def qkv(self, x_BTD: jax.Array, rope: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        """q, k and v of each token, [B, T, N, H], q and k normalised and rotated."""
        weights = (unshard(w) for w in (self.wq_DNH, self.wk_DNH, self.wv_DNH))
        # The heads flattened into one axis: the result of a matmul to [B, T, N, H] would be copied into another layout.
        projected = [self.kernels.dense(x_BTD, w_DNH.reshape(w_DNH.shape[0], -1)) for w_DNH in weights]
        q_BTNH, k_BTNH, v_BTNH = (a.reshape(*a.shape[:2], -1, self.head_dim) for a in checkpoint_name(projected, "qkv"))
        q_BTNH, k_BTNH = (
            self.kernels.norm_rope(a, unshard(norm.scale), rope, epsilon=norm.epsilon)
            for a, norm in ((q_BTNH, self.q_norm), (k_BTNH, self.k_norm))
        )
        return q_BTNH, k_BTNH, v_BTNH

    def out_proj(self, y_BTNH: jax.Array) -> jax.Array:
        """The results of all heads, projected back into the residual stream: [B, T, D]."""
        w_NHD = unshard(self.wo_NHD)
        y_BTD = self.kernels.dense(y_BTNH.reshape(*y_BTNH.shape[:2], -1), w_NHD.reshape(-1, w_NHD.shape[2]))
        return checkpoint_name(y_BTD, "attn_out")
