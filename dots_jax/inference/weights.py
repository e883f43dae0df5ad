"""How a model is sharded for serving, and its weights in the form that decoding reads.

Training shards every matrix along its input and gathers it when it is used. Serving needs all weights for a few tokens, so
weights stay on their devices and tokens move: heads, feed-forward columns, vocabulary and experts are sharded over the mesh
axis `expert`, rows of the batch over `data` and `fsdp`.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dots_jax.checkpoint.open import Opened
from dots_jax.config import ComputeConfig, MeshConfig, ModelConfig, UserError
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.mesh import make_mesh
from dots_jax.parallel.sharding import replicated

# The rule table for serving: the logical axis of a parameter -> the mesh axis that splits it. That of training is
# parallel.sharding.RULES.
SERVING_RULES: dict[str, str | None] = {
    "embed": None,
    "expert": "expert",
    "expert_embed": None,
    "vocab": "expert",
    "ffn": "expert",
    "expert_ffn": None,
    "heads": "expert",
    "head_dim": None,
    "router": None,
    "norm": None,
}
ROWS = ("data", "fsdp")  # the mesh axes over which rows of a batch are sharded


class Weights(NamedTuple):
    """All arrays of a model, for a program whose layers are unrolled.

    outer: embed, dense_block, final_norm, head. layers: the rest of each mixture-of-experts block, without its experts.
    experts: those of all layers, as they are stored: [L, E, ...]. biases: [E] of each layer.

    The layers are arrays of their own because a slice of a stack would be copied at every token; the experts stay in their
    stack because a token reads only a few of them, by index.
    """

    outer: dict
    layers: tuple[dict, ...]
    experts: dict
    biases: tuple[jax.Array, ...]


def serving_mesh(config: ModelConfig, num_devices: int | None = None) -> Mesh:
    """As many devices along `expert` as divide the experts, the rest along `data`."""
    devices = jax.devices()[:num_devices]
    expert = math.gcd(len(devices), config.num_experts)
    return make_mesh(MeshConfig(data=len(devices) // expert, fsdp=1, expert=expert), devices)


def serving_spec(logical: tuple[str, ...], shape: tuple[int, ...], axis_sizes: Mapping[str, int]) -> PartitionSpec:
    """The PartitionSpec of a parameter, as `parameter_spec` is for training. An axis that its mesh axis does not divide is
    not split."""
    names = (None,) * (len(shape) - len(logical)) + tuple(logical)
    axes = [SERVING_RULES[name] if name else None for name in names]
    return PartitionSpec(*(a if a and size % axis_sizes[a] == 0 else None for a, size in zip(axes, shape)))


def rows_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(ROWS))


def cache_sharding(mesh: Mesh, config: ModelConfig) -> NamedSharding:
    """Of keys and values [B, N, S, H]: rows and heads are sharded as in the computation."""
    heads = "expert" if config.num_heads % mesh.shape["expert"] == 0 else None
    return NamedSharding(mesh, PartitionSpec(ROWS, heads))


def define(config: ModelConfig, dtype: str) -> ModelDef:
    """The model for one device: XLA partitions it by the shardings of its arrays."""
    return ModelDef(config, ComputeConfig(dtype=dtype, remat="none"), None)


def shard_weights(definition: ModelDef, params: dict, router_bias: jax.Array, mesh: Mesh) -> Weights:
    """Parameters in the layout of training as `Weights` on the mesh, each in the dtype that its layer computes with.

    Empties `params`: each array is freed when its successor is made, so that at most one stack exists twice.
    """
    shardings, _ = definition.shardings(mesh, serving_spec)
    outer, layers, experts = {}, [{} for _ in range(definition.config.num_moe_layers)], {}

    declarations = jax.tree_util.tree_leaves_with_path(definition.declarations())
    for (path, declared), sharding in zip(declarations, jax.tree.leaves(shardings), strict=True):
        names = [key.key for key in path]
        array, dtype = _pop(params, names), declared.compute_dtype
        if "experts" in declared.stack:
            experts[names[-1]] = jax.device_put(array.astype(dtype), sharding)
        elif declared.stacked:
            one = NamedSharding(mesh, PartitionSpec(*sharding.spec[1:]))
            for layer, tree in enumerate(layers):
                _set(tree, names[1:], jax.device_put(array[layer].astype(dtype), one))
        else:
            _set(outer, names, jax.device_put(array.astype(dtype), sharding))
    biases = tuple(jax.device_put(jnp.asarray(bias, jnp.float32), replicated(mesh)) for bias in router_bias)
    return Weights(outer, tuple(layers), experts, biases)


def _pop(tree: dict, names: list[str]):
    for name in names[:-1]:
        tree = tree[name]
    return tree.pop(names[-1])


def _set(tree: dict, names: list[str], leaf) -> None:
    for name in names[:-1]:
        tree = tree.setdefault(name, {})
    tree[names[-1]] = leaf


def check_tokens(what: str, tokens: list[int], config: ModelConfig, room: int) -> list[int]:
    """The tokens, if the model can take them and has room for `room` more."""
    if not tokens:
        raise UserError(f"{what} is empty: it needs at least one token.")
    if bad := [t for t in tokens if not 0 <= t < config.vocab_size]:
        raise UserError(f"{what} has the token {bad[0]}, but the model's ids go from 0 to {config.vocab_size - 1}.")
    if len(tokens) + room > config.max_seq_len:
        raise UserError(
            f"{what} has {len(tokens):,} tokens, but the model's context is {config.max_seq_len:,}"
            f"{', and what follows must fit too' if room else ''}: shorten it."
        )
    return tokens


def load_weights(opened: Opened, definition: ModelDef, mesh: Mesh) -> Weights:
    """The weights of a checkpoint, straight into their shards.

    They are read in the dtype in which they are stored, which their checksums need, and then cast.
    """
    params, router_bias = opened.restore(
        definition.abstract(), definition.shardings(mesh, serving_spec), stored_dtypes=True
    )
    return shard_weights(definition, params, router_bias, mesh)
