"""Multi-head attention with QK norm and rotary positions (report, section 2). Shape suffixes as in `layers.py`."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from dots_jax.model import kernels
from dots_jax.model.layers import RMSNorm, weight


def rope_table(positions_BT: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """cos and sin of each position's rotation, float32 [B, T, 1, H/2]."""
    frequency_H = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle = positions_BT[:, :, None, None].astype(jnp.float32) * frequency_H
    return jnp.cos(angle), jnp.sin(angle)


def apply_rope(x_BTNH: jax.Array, rope: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the pairs (x[i], x[i + H/2]) in float32: the halves layout of the released weights."""
    cos, sin = rope
    x1, x2 = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).astype(x_BTNH.dtype)


class Attention(nnx.Module):
    """Plain multi-head attention. q and k are normalised over the head dimension, with weights that all heads share,
    after the projection and before RoPE."""

    def __init__(
        self, hidden_size: int, num_heads: int, head_dim: int, *,
        norm_epsilon: float, init_std: float, dtype: jnp.dtype, rngs: nnx.Rngs,
    ):  # fmt: skip
        inwards, outwards = (hidden_size, num_heads, head_dim), (num_heads, head_dim, hidden_size)
        self.wq_DNH = weight(rngs, inwards, ("embed", "heads", "head_dim"), init_std)
        self.wk_DNH = weight(rngs, inwards, ("embed", "heads", "head_dim"), init_std)
        self.wv_DNH = weight(rngs, inwards, ("embed", "heads", "head_dim"), init_std)
        self.wo_NHD = weight(rngs, outwards, ("heads", "head_dim", "embed"), init_std)
        self.q_norm = RMSNorm(head_dim, epsilon=norm_epsilon, logical="head_dim")
        self.k_norm = RMSNorm(head_dim, epsilon=norm_epsilon, logical="head_dim")
        self.dtype = dtype

    def __call__(self, x_BTD: jax.Array, rope: tuple[jax.Array, jax.Array], segments_BT: jax.Array) -> jax.Array:
        return self.outwards(kernels.attention(*self.inwards(x_BTD, rope), segments_BT))

    def inwards(self, x_BTD: jax.Array, rope: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        """q, k and v of each token, [B, T, N, H], normalised and rotated."""
        q_BTNH = jnp.einsum("BTD,DNH->BTNH", x_BTD, self.wq_DNH[...].astype(self.dtype))
        k_BTNH = jnp.einsum("BTD,DNH->BTNH", x_BTD, self.wk_DNH[...].astype(self.dtype))
        v_BTNH = jnp.einsum("BTD,DNH->BTNH", x_BTD, self.wv_DNH[...].astype(self.dtype))
        q_BTNH, k_BTNH, v_BTNH = checkpoint_name((q_BTNH, k_BTNH, v_BTNH), "qkv")
        return apply_rope(self.q_norm(q_BTNH), rope), apply_rope(self.k_norm(k_BTNH), rope), v_BTNH

    def outwards(self, y_BTNH: jax.Array) -> jax.Array:
        """What the heads found, back in the residual stream: [B, T, D]."""
        return checkpoint_name(jnp.einsum("BTNH,NHD->BTD", y_BTNH, self.wo_NHD[...].astype(self.dtype)), "attended")
