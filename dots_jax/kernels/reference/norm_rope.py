"""RMS norm, rotary positions, and both of them on q and k (report, section 2). Shape suffixes as in `model/layers.py`."""

import jax
import jax.numpy as jnp


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
