"""A module on every device of a mesh: where single-device code of the model becomes the program of each device."""

from collections.abc import Callable

import jax
from flax import nnx
from jax.sharding import Mesh

from dots_jax.model.parameters import declaration, is_variable
from dots_jax.parallel.sharding import TOKENS, parameter_spec


def shard_map_module(
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
