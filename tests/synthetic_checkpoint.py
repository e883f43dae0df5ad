"""Checkpoints for tests without a run: a small model's, and one with the shapes of all 142B parameters and the data of
almost none. Chunks that were never written read as zeros, and take no room."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from jax.sharding import AbstractMesh, NamedSharding

from dots_jax.checkpoint.metadata import CheckpointMetadata
from dots_jax.checkpoint.store import Checkpoints, save_args
from dots_jax.config import CheckpointConfig, ComputeConfig, ModelConfig, dots_llm1
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.mesh import AXES
from dots_jax.parallel.sharding import parameter_spec
from dots_jax.training.state import StepHealth, TrainState, to_items

LAYER, EXPERTS = 7, (0, 1, 2, 3)  # of the large checkpoint, what has data. Layer 7 is place 6 of the stack


def small_state(config: ModelConfig, seed: int) -> TrainState:
    """Random numbers in the shapes of a model; no compilation."""
    rng = np.random.default_rng(seed)
    shapes = ModelDef(config, ComputeConfig(dtype="float32", remat="none"), None, 0.05).abstract()
    draw = lambda s: jnp.asarray(0.1 * rng.standard_normal(s.shape), s.dtype)
    params, bias = jax.tree.map(draw, shapes)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, bias, {"mu": jnp.zeros(3)}, StepHealth(zero, zero, zero, jnp.zeros(())))


def write_small(workdir, config: ModelConfig, *steps: int) -> dict[int, TrainState]:
    """Checkpoints of random parameters, one seed a step."""
    checkpoints = Checkpoints(str(workdir), CheckpointConfig(keep_last=len(steps)), lambda step: False)
    states = {step: small_state(config, step) for step in steps}
    stack_axes = ModelDef(config, ComputeConfig(), None, 1.0).stack_axes()
    for step, state in states.items():
        metadata = CheckpointMetadata(step=step, tokens=1000 * step, model=config, gin="TrainConfig.seed = 0\n")
        checkpoints.save(step, to_items(state), metadata, stack_axes)
    checkpoints.wait()
    checkpoints.close()
    return states


def write_large(workdir, fsdp: int = 16, expert: int = 8) -> dict[str, np.ndarray]:
    """dots.llm1 as a pod of fsdp x expert chips writes it; returns the arrays that hold data, by name."""
    config = dots_llm1()
    mesh = AbstractMesh((1, fsdp, expert, 1), AXES)
    model = workdir / "checkpoints" / "1" / "model"
    (model.parent / "record").mkdir(parents=True)
    model.mkdir()
    metadata = CheckpointMetadata(step=1, tokens=10**12, model=config, gin="# a pod's run\n")
    (model.parent / "record" / "metadata").write_text(json.dumps(metadata.to_json()))

    tree, written = {}, {}
    for path, leaf, stack_axes in _abstract_model(config, mesh):
        names = [key.key for key in path]
        tree[str(tuple(names))] = {
            "key_metadata": [{"key": name, "key_type": 2} for name in names],
            "value_metadata": {"value_type": "jax.Array", "skip_deserialize": False, "write_shape": list(leaf.shape)},
        }
        store = _create(model, ".".join(names), leaf, save_args(leaf, stack_axes).shard_axes)
        written.update(_fill(store, "/".join(names).removeprefix("params/")))
    metadata = {"tree_metadata": tree, "use_ocdbt": True, "use_zarr3": False, "custom_metadata": None}
    (model / "_METADATA").write_text(json.dumps(metadata))
    return written


def _abstract_model(config: ModelConfig, mesh: AbstractMesh):
    definition = ModelDef(config, ComputeConfig(), None, 1.0)
    params, bias = definition.abstract()
    declarations = jax.tree.leaves(definition.declarations())
    leaves = jax.tree_util.tree_leaves_with_path({"params": params})
    for (path, leaf), declared in zip(leaves, declarations, strict=True):
        sharding = NamedSharding(mesh, parameter_spec(declared.logical, leaf.shape, mesh.shape))
        yield path, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), len(declared.stack)
    complete = NamedSharding(mesh, jax.sharding.PartitionSpec())
    yield (
        (jax.tree_util.DictKey("router_bias"),),
        jax.ShapeDtypeStruct(bias.shape, bias.dtype, sharding=complete),
        0,
    )


def _create(model, name: str, leaf, shard_axes: tuple[int, ...]) -> ts.TensorStore:
    shard = leaf.sharding.shard_shape(leaf.shape)
    chunks = [1 if axis in shard_axes else size for axis, size in enumerate(shard)]
    return ts.open(
        {
            "driver": "zarr",
            "kvstore": {
                "driver": "ocdbt", "base": f"file://{model}/", "path": f"{name}/", "config": {"max_inline_value_bytes": 1024},
            },
            "metadata": {
                "shape": list(leaf.shape), "chunks": chunks, "dtype": "<f4",
                "compressor": {"id": "zstd", "level": 1}, "fill_value": None,
            },
        },
        create=True, open=True,
    ).result()  # fmt: skip


def _fill(store: ts.TensorStore, name: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(len(name))
    if name.endswith("router/w_DE"):
        data = rng.random(store.shape[1:], np.float32)
        store[LAYER - 1].write(data).result()
        return {name: data}
    if "/experts/" in name:
        data = rng.random((len(EXPERTS), *store.shape[2:]), np.float32)
        for values, expert in zip(data, EXPERTS):
            store[LAYER - 1, expert].write(values).result()
        return {name: data}
    return {}
