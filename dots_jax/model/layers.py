"""The small layers of every block: RMSNorm and SwiGLU.

Legend for shape suffixes, here and in the rest of the package: B batch, T tokens of a sequence, S the same tokens as keys,
D hidden size, N heads, H head size, F feed-forward width, E experts, K experts chosen per token, V vocabulary,
L mixture-of-experts layers, R rows (copies of tokens sorted by expert).
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from dots_jax.kernels.reference.norm_rope import rms_norm
from dots_jax.kernels.select import Kernels
from dots_jax.model.parameters import norm_scale, weight
from dots_jax.parallel.collectives import unshard


class RMSNorm(nnx.Module):
    """`rms_norm` with a learned scale."""

    def __init__(self, size: int, *, epsilon: float):
        self.scale = norm_scale(size)
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        return rms_norm(x, unshard(self.scale), self.epsilon)


class FeedForward(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)). Gate and up are one matrix, so that one wide matmul serves both.

    part: of the model, to which the weights are declared.
    """

    def __init__(
        self, hidden_size: int, ffn_size: int, *, part: str, init_std: float, dtype: jnp.dtype, kernels: Kernels,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        declare = functools.partial(weight, rngs, std=init_std, part=part, compute_dtype=dtype)
        self.w_gate_up_DF = declare((hidden_size, 2 * ffn_size), ("embed", "ffn"))
        self.w_down_FD = declare((ffn_size, hidden_size), ("ffn", "embed"))
        self.kernels = kernels

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        h_BTF = checkpoint_name(self.kernels.dense(x_BTD, unshard(self.w_gate_up_DF)), "dense_ffn_hidden")
        gate_BTF, up_BTF = jnp.split(h_BTF, 2, axis=-1)
        return self.kernels.dense(jax.nn.silu(gate_BTF) * up_BTF, unshard(self.w_down_FD))
