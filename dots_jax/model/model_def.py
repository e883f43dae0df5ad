"""A model without its arrays.

The model is an NNX module; training needs pure functions of arrays. `ModelDef` connects the two: outside the model's own
scan and shard_map, this is the only file that splits and merges NNX.
"""

import functools
from collections.abc import Callable

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from dots_jax.config import ComputeConfig, ModelConfig
from dots_jax.model.parameters import Declaration, RouterBias, declaration, is_variable
from dots_jax.model.transformer import Transformer
from dots_jax.parallel.sharding import parameter_spec, replicated


class ModelDef:
    """A model without its arrays: binds arrays to the module, knows their shapes and where they land."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, mesh: Mesh | None, init_std: float = 1.0):
        """init_std: of `init`; unused where the arrays come from a checkpoint."""
        self.config, self.mesh, self.init_std = config, mesh, init_std
        self.offload_optimizer = compute.offload_optimizer
        # On one device there is nothing to exchange, and collectives of one would still copy.
        over = mesh if mesh is not None and mesh.size > 1 else None
        platform = jax.default_backend() if mesh is None else _platform(mesh)
        self._build = lambda key: Transformer(
            config, compute, init_std=init_std, mesh=over, platform=platform, rngs=nnx.Rngs(params=key)
        )
        abstract = nnx.eval_shape(lambda: self._build(jax.random.key(0)))
        self._graph, self._params, self._bias = nnx.split(abstract, nnx.Param, RouterBias)

    def init(self, seed: int) -> tuple[dict, jax.Array]:
        """params and router_bias; the same numbers on any mesh."""
        _, params, bias = nnx.split(self._build(jax.random.key(seed)), nnx.Param, RouterBias)
        return nnx.to_pure_dict(params), jax.tree.leaves(bias)[0]

    def bind(self, params: dict, router_bias: jax.Array) -> Transformer:
        """The module with these arrays."""
        params_state = jax.tree.map(lambda leaf: leaf, self._params)
        nnx.replace_by_pure_dict(params_state, params)
        bias_state = jax.tree.map(lambda _: router_bias, self._bias)
        return nnx.merge(self._graph, params_state, bias_state)

    def abstract(self) -> tuple[dict, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of params and router_bias, without memory."""
        return nnx.to_pure_dict(self._params), jax.tree.leaves(self._bias)[0]

    def shardings(self, mesh: Mesh | None = None, spec_of=parameter_spec) -> tuple[dict, NamedSharding]:
        """Where params and router_bias land on the mesh (default: its own); spec_of: by which rules."""
        mesh = mesh or self.mesh
        sharding = lambda v: NamedSharding(mesh, spec_of(declaration(v).logical, v.shape, mesh.shape))
        return self._of_each_parameter(sharding), replicated(mesh)

    def declarations(self) -> dict:
        """The `Declaration` of each parameter, as a tree like params."""
        return self._of_each_parameter(declaration)

    def weight_decays(self) -> dict:
        """Whether weight decay applies, as a tree like params."""
        return jax.tree.map(lambda declared: declared.decay, self.declarations())

    def compute_dtypes(self) -> dict:
        """The dtypes that the layers compute with, as a tree like params."""
        return jax.tree.map(lambda declared: declared.compute_dtype, self.declarations())

    def stack_axes(self) -> dict:
        """How many leading axes of each array are layers and experts, as a tree like the item `model` of a checkpoint."""
        return {"params": jax.tree.map(lambda declared: len(declared.stack), self.declarations()), "router_bias": 0}

    def _of_each_parameter(self, function: Callable[[nnx.Variable], object]) -> dict:
        values = jax.tree.map(lambda v: v.replace(function(v)), self._params, is_leaf=is_variable)
        return nnx.to_pure_dict(values)


@functools.lru_cache(maxsize=8)
def declared_parameters(config: ModelConfig) -> dict[str, Declaration]:
    """The `Declaration` of every array of a checkpoint's model by its name: `embed/w_VD`, ..., `router_bias`."""
    definition = ModelDef(config, ComputeConfig(), None, init_std=1.0)
    leaves = jax.tree_util.tree_leaves_with_path(definition.declarations())
    (bias,) = jax.tree.leaves(definition._bias, is_leaf=is_variable)
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves} | {"router_bias": declaration(bias)}


def _platform(mesh: Mesh) -> str:
    """Of the mesh's devices; a mesh without devices, for shapes alone, counts as a CPU's."""
    return mesh.devices.flat[0].platform if isinstance(mesh, Mesh) else "cpu"
