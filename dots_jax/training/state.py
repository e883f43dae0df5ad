"""The state of a run as a plain tree of arrays: abstract, sharded, initialised."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.sharding import replicated


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("nonfinite_streak", "nonfinite_total", "spike_total", "loss_average"), meta_fields=(),
)  # fmt: skip
@dataclasses.dataclass(frozen=True)
class StepHealth:
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
    guard: StepHealth


def to_items(state: TrainState) -> dict[str, dict]:
    """The state as the two items of a checkpoint: `model`, which every reader wants, and `training`."""
    return {
        "model": {"params": state.params, "router_bias": state.router_bias},
        "training": {"step": state.step, "opt_state": state.opt_state, "guard": state.guard},
    }


def from_items(items: dict[str, dict]) -> TrainState:
    """The inverse of `to_items`."""
    return TrainState(**items["model"], **items["training"])


def init_state(model_def: ModelDef, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step. Jit it with `state_shardings` as out_shardings: straight into the shards."""
    params, router_bias = model_def.init(seed)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=params,
        router_bias=router_bias,
        opt_state=optimizer.init(params),
        guard=StepHealth(zero, zero, zero, jnp.array(jnp.inf, jnp.float32)),
    )


def abstract_state(model_def: ModelDef, optimizer: optax.GradientTransformation) -> TrainState:
    """Shapes, dtypes and shardings of the state, without memory."""
    shapes = jax.eval_shape(lambda: init_state(model_def, optimizer, 0))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(model_def, optimizer),
    )


def state_shardings(model_def: ModelDef, optimizer: optax.GradientTransformation) -> TrainState:
    """The moments of a parameter lie where the parameter lies, or in the memory of those devices' hosts; scalars and router
    biases are on every device."""
    everywhere = replicated(model_def.mesh)
    kind = "pinned_host" if model_def.offload_optimizer else None
    params, bias = model_def.shardings()
    shapes, _ = model_def.abstract()
    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _leaf, sharding: sharding.with_memory_kind(kind) if kind else sharding,
        jax.eval_shape(optimizer.init, shapes),
        params,
        transform_non_params=lambda _leaf: everywhere,
    )
    return TrainState(everywhere, params, bias, opt_state, StepHealth(*[everywhere] * 4))


def on_host(leaf) -> bool:
    """Whether an array, or a shape with a sharding, lies in a host's memory."""
    return leaf.sharding.memory_kind == "pinned_host"


def bytes_per_device(tree) -> int:
    """Bytes of one device's shards of an abstract tree with shardings; what lies in a host's memory does not count."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if not on_host(leaf)]
    return sum(leaf.dtype.itemsize * _size(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)


def _size(shape: tuple[int, ...]) -> int:
    return functools.reduce(lambda a, b: a * b, shape, 1)
