"""Rotary positions, and the norm of q and k that comes before them (report, section 2). Shape suffixes as in `layers.py`."""

import jax
import jax.numpy as jnp


def rope_table(positions_BT: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """cos and sin of each position's rotation, float32 [B, T, 1, H]; both halves of the head turn by the same angles."""
    frequency_H = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle = positions_BT[:, :, None, None].astype(jnp.float32) * jnp.tile(frequency_H, 2)
    return jnp.cos(angle), jnp.sin(angle)


def apply_rope(x_BTNH: jax.Array, rope: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the pairs (x[i], x[i + H/2]) in float32: the halves layout of the released weights."""
    cos, sin = rope
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    turned_BTNH = jnp.concatenate([-second, first], axis=-1)
    return (x_BTNH.astype(jnp.float32) * cos + turned_BTNH * sin).astype(x_BTNH.dtype)


def rms_norm(x: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
    """x / rms(x) * scale over the last axis, computed in float32 and returned in the dtype of x."""
    y = x.astype(jnp.float32)
    y *= jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + epsilon)
    return (y * scale).astype(x.dtype)


def norm_rope(x_BTNH: jax.Array, scale_H: jax.Array, rope: tuple[jax.Array, jax.Array], *, epsilon: float) -> jax.Array:
    """Each head of q or k normalised by the same scale, and rotated. scale_H and rope are float32."""
    return apply_rope(rms_norm(x_BTNH, scale_H, epsilon), rope)
