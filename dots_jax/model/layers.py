"""The small parts every block is made of: parameters with logical axes, RMSNorm, SwiGLU.

Legend for shape suffixes, here and in the whole package: B batch, T tokens of a sequence, S the same tokens as keys,
D hidden size, N heads, H head size, F feed-forward width, E experts, K experts chosen per token, V vocabulary,
L mixture-of-experts layers, R rows (copies of tokens sorted by expert).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh

from dots_jax.kernels.reference.norm_rope import rms_norm
from dots_jax.model.parameters import declaration, is_variable, norm_scale, weight
from dots_jax.parallel.collectives import axis_sizes, gather_at_once, gather_parameter
from dots_jax.parallel.sharding import TOKENS, parameter_spec


def whole(param: nnx.Param, keep: str = "", *, at_once: bool = False) -> jax.Array:
    """The parameter in its compute dtype; inside shard_map gathered from all its shards, but for the mesh axis `keep`.

    Cast before the gather: half the bytes on the wire in bfloat16. Its gradient is scattered back in that dtype.
    at_once: in one collective over all mesh axes, not one for each.
    """
    return gathering(param, keep, at_once=at_once)(param[...])


def gathering(param: nnx.Param, keep: str = "", *, at_once: bool = False) -> Callable[[jax.Array], jax.Array]:
    """`whole` as a function of the parameter's array."""
    declared, sizes = declaration(param), axis_sizes()
    dtype = declared.compute_dtype
    if not sizes:
        return lambda w: w.astype(dtype)
    spec = parameter_spec(declared.logical, declared.shape, sizes)
    if at_once:
        return lambda w: gather_at_once(w.astype(dtype), spec)
    return lambda w: gather_parameter(w.astype(dtype), spec, keep)


@jax.custom_vjp
def matmul(x_BTD: jax.Array, w_DF: jax.Array) -> jax.Array:
    """x @ w, and nothing fused into it, forward or backward.

    The TPU compiler would draw norms, activations and sums into a product, where the vector unit cannot keep up: such a product
    ran at 22 to 50 % of the matrix unit's peak on a TPU7x, where one by itself takes 72 to 96 %.
    """
    return jax.lax.optimization_barrier(x_BTD @ w_DF)


def _matmul_forward(x_BTD, w_DF):
    return matmul(x_BTD, w_DF), (x_BTD, w_DF)


def _matmul_backward(saved, dy_BTF):
    # Each by itself: dw need not be there when dx is, and fills gaps in which something travels.
    x_BTD, w_DF, dy_BTF = (*saved, jax.lax.optimization_barrier(dy_BTF))
    dw_DF = jnp.einsum("BTD,BTF->DF", jax.lax.optimization_barrier(x_BTD), dy_BTF)
    return jax.lax.optimization_barrier(dy_BTF @ w_DF.T), jax.lax.optimization_barrier(dw_DF)


matmul.defvjp(_matmul_forward, _matmul_backward)


class RMSNorm(nnx.Module):
    """`rms_norm` with a scale of its own."""

    def __init__(self, size: int, *, epsilon: float):
        self.scale = norm_scale(size)
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        return rms_norm(x, whole(self.scale), self.epsilon)


class FeedForward(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)). Gate and up are one matrix, so that one wide matmul serves both."""

    def __init__(
        self, hidden_size: int, ffn_size: int, *, part: str, init_std: float, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        declare = functools.partial(weight, rngs, std=init_std, part=part, compute_dtype=dtype)
        self.w_gate_up_DF = declare((hidden_size, 2 * ffn_size), ("embed", "ffn"))
        self.w_down_FD = declare((ffn_size, hidden_size), ("ffn", "embed"))

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        h_BTF = checkpoint_name(matmul(x_BTD, whole(self.w_gate_up_DF)), "dense_ffn_hidden")
        gate_BTF, up_BTF = jnp.split(h_BTF, 2, axis=-1)
        return matmul(jax.nn.silu(gate_BTF) * up_BTF, whole(self.w_down_FD))


def over_mesh(
    module: nnx.Module, function: Callable, mesh: Mesh, arrays: tuple, out_specs, *, check_vma: bool
) -> jax.Array | tuple:
    """`function(module, *arrays)` on every device, with its shards of the parameters and its part of each [B, T, ...].

    check_vma: off only where library kernels run, whose results do not say over which axes they vary.
    """
    graph, params = nnx.split(module)

    def spec(variable):
        return variable.replace(parameter_spec(declaration(variable).logical, variable.shape, mesh.shape))

    specs = jax.tree.map(spec, params, is_leaf=is_variable)
    return jax.shard_map(
        lambda params, *arrays: function(nnx.merge(graph, params), *arrays),
        mesh=mesh, in_specs=(specs,) + (TOKENS,) * len(arrays), out_specs=out_specs, check_vma=check_vma,
    )(params, *arrays)  # fmt: skip
