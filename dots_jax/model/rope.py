"""The angles of rotary positions (report, section 2). Shape suffixes as in `model/layers.py`."""

import jax
import jax.numpy as jnp


def rope_table(positions_BT: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """cos and sin of each position's rotation, float32 [B, T, 1, H]; both halves of the head turn by the same angles."""
    frequency_H = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle = positions_BT[:, :, None, None].astype(jnp.float32) * jnp.tile(frequency_H, 2)
    return jnp.cos(angle), jnp.sin(angle)
