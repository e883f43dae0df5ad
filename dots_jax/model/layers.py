"""The small parts every block is made of: parameters with logical axes, RMSNorm, SwiGLU.

Legend for shape suffixes, here and in the whole package: B batch, T tokens of a sequence, S the same tokens as keys,
D hidden size, N heads, H head size, F feed-forward width, E experts, K experts chosen per token, V vocabulary,
L mixture-of-experts layers, R rows (copies of tokens sorted by expert).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name


class RouterBias(nnx.Variable):
    """The correction bias of a router: state, but no gradient parameter."""


def weight(rngs: nnx.Rngs, shape: tuple[int, ...], logical: tuple[str, ...], std: float) -> nnx.Param:
    """A float32 matrix drawn from normal(0, std). `logical` names each axis; `parallel.mesh` says where names land."""
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32), logical=logical)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis, computed in float32 and returned in the dtype of x."""

    def __init__(self, size: int, *, epsilon: float, logical: str):
        self.scale = nnx.Param(jnp.ones((size,), jnp.float32), logical=(logical,))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y *= jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        return (y * self.scale[...]).astype(x.dtype)


class FeedForward(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)). Gate and up are one matrix, so that one wide matmul serves both."""

    def __init__(self, hidden_size: int, ffn_size: int, *, init_std: float, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.w_gate_up_DF = weight(rngs, (hidden_size, 2 * ffn_size), ("embed", "ffn"), init_std)
        self.w_down_FD = weight(rngs, (ffn_size, hidden_size), ("ffn", "embed"), init_std)
        self.dtype = dtype

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        h_BTF = checkpoint_name(x_BTD @ self.w_gate_up_DF[...].astype(self.dtype), "hidden")
        gate_BTF, up_BTF = jnp.split(h_BTF, 2, axis=-1)
        return (jax.nn.silu(gate_BTF) * up_BTF) @ self.w_down_FD[...].astype(self.dtype)
