"""The state of a run and of its model as plain trees of arrays: abstract, sharded, initialised.

The model is an NNX module; training wants pure functions of arrays. `Definition` is where the two meet: outside the
model's own scan, this is the only file that splits and merges NNX.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from dots_jax.config import ComputeConfig, ModelConfig
from dots_jax.model.layers import RouterBias
from dots_jax.model.transformer import Transformer
from dots_jax.parallel.mesh import parameter_spec, replicated


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("nonfinite_streak", "nonfinite_total", "spike_total", "loss_average"), meta_fields=(),
)  # fmt: skip
@dataclasses.dataclass(frozen=True)
class Guard:
    """Counters of steps that went wrong (int32), and the running average of the loss (float32, infinite at first)."""

    nonfinite_streak: jax.Array
    nonfinite_total: jax.Array
    spike_total: jax.Array
    loss_average: jax.Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("step", "params", "router_bias", "opt_state", "guard"), meta_fields=(),
)  # fmt: skip
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a step changes. step: steps taken, int32. params: nested dict, float32. router_bias: [L, E] float32,
    no gradient parameter and not in opt_state."""

    step: jax.Array
    params: dict
    router_bias: jax.Array
    opt_state: optax.OptState
    guard: Guard


class Definition:
    """A model without its arrays: binds arrays to the module, knows their shapes and where they land."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, mesh: Mesh | None, init_std: float):
        self.config, self.mesh, self.init_std = config, mesh, init_std
        self.moments_on_host = compute.moments_on_host
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
        is_variable = lambda leaf: isinstance(leaf, nnx.Variable)  # noqa: E731
        specs = jax.tree.map(
            lambda v: v.replace(NamedSharding(mesh, spec_of(v.get_metadata("logical"), v.shape, mesh.shape))),
            self._params,
            is_leaf=is_variable,
        )
        return nnx.to_pure_dict(specs), replicated(mesh)


def init_state(definition: Definition, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step. Jit it with `state_shardings` as out_shardings: straight into the shards."""
    params, router_bias = definition.init(seed)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=params,
        router_bias=router_bias,
        opt_state=optimizer.init(params),
        guard=Guard(zero, zero, zero, jnp.array(jnp.inf, jnp.float32)),
    )


def abstract_state(definition: Definition, optimizer: optax.GradientTransformation) -> TrainState:
    """Shapes, dtypes and shardings of the state, without memory."""
    shapes = jax.eval_shape(lambda: init_state(definition, optimizer, 0))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(definition, optimizer),
    )


def state_shardings(definition: Definition, optimizer: optax.GradientTransformation) -> TrainState:
    """The moments of a parameter lie where the parameter lies, or in the memory of those devices' hosts; scalars and router
    biases are on every device."""
    everywhere = replicated(definition.mesh)
    kind = "pinned_host" if definition.moments_on_host else None
    params, bias = definition.shardings()
    shapes, _ = definition.abstract()
    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _leaf, sharding: sharding.with_memory_kind(kind) if kind else sharding,
        jax.eval_shape(optimizer.init, shapes),
        params,
        transform_non_params=lambda _leaf: everywhere,
    )
    return TrainState(everywhere, params, bias, opt_state, Guard(*[everywhere] * 4))


def on_host(leaf) -> bool:
    """Whether an array, or a shape with a sharding, lies in a host's memory."""
    return leaf.sharding.memory_kind == "pinned_host"


def bytes_per_device(tree) -> int:
    """Bytes of one device's shards of an abstract tree with shardings; what lies in a host's memory does not count."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if not on_host(leaf)]
    return sum(leaf.dtype.itemsize * _size(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)


def _platform(mesh: Mesh) -> str:
    """Of the mesh's devices; a mesh without devices, for shapes alone, counts as a CPU's."""
    return mesh.devices.flat[0].platform if isinstance(mesh, Mesh) else "cpu"


def _size(shape: tuple[int, ...]) -> int:
    return functools.reduce(lambda a, b: a * b, shape, 1)
