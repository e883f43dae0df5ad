"""Arrays of a checkpoint onto devices, and the checksums that show that they are the ones that were saved.

A checksum is taken on the device, so a bit that flipped on the disk is found on any mesh.
"""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from dots_jax.checkpoint.metadata import CheckpointMetadata, DamagedCheckpoint
from dots_jax.human import first_line


def restore_model(
    path: epath.Path, metadata: CheckpointMetadata, shapes: tuple, shardings: tuple, dtypes: dict[str, np.dtype]
) -> tuple[dict, jax.Array]:
    """`checkpoint.open.Opened.restore`. dtypes: of arrays by name, where they differ from those of `shapes`."""

    def abstract(place, leaf, sharding):
        dtype = dtypes.get("/".join(str(key.key) for key in place), leaf.dtype)
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding)

    item = jax.tree_util.tree_map_with_path(abstract, _as_item(shapes), _as_item(shardings))
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            model = checkpointer.restore(path / "model", item)
        verify({"model": model}, metadata)
    except Exception as error:  # whatever the reader trips over, the checkpoint cannot be used
        if "RESOURCE_EXHAUSTED" in str(error):
            raise
        raise DamagedCheckpoint(path, first_line(error)) from error
    return model["params"], model["router_bias"]


def _as_item(pair: tuple) -> dict:
    return dict(zip(("params", "router_bias"), pair, strict=True))


def named_checksums(items: dict) -> dict[str, int]:
    """Array -> checksum of all arrays of {item name: tree}."""
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(items)]
    return dict(zip(names, map(int, jax.device_get(_checksums(items)))))


@jax.jit
def _checksums(tree) -> list[jax.Array]:
    """The sum of each leaf's bit patterns modulo 2**32: of integers, so the order of the sum does not matter."""
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}

    def one(leaf):
        return jnp.sum(jax.lax.bitcast_convert_type(leaf, unsigned[leaf.dtype.itemsize]).astype(jnp.uint32))

    return [one(leaf) for leaf in jax.tree.leaves(tree)]


def verify(items: dict, metadata: CheckpointMetadata) -> None:
    """Raises ValueError if an array of {item name: tree} is not the one that was saved."""

    def as_saved(path, leaf):
        name = jax.tree_util.keystr(path)
        dtype = jnp.dtype(metadata.dtypes.get(name, leaf.dtype))  # only converted checkpoints are not float32
        if dtype.itemsize > leaf.dtype.itemsize:
            raise ValueError(f"the array {name} is {dtype} and cannot be checked as {leaf.dtype}: cast it afterwards")
        return leaf.astype(dtype)  # bfloat16 that was widened to float32 comes back bit for bit

    for name, checksum in named_checksums(jax.tree_util.tree_map_with_path(as_saved, items)).items():
        if metadata.checksums.get(name) != checksum:
            raise ValueError(f"the array {name} is not the one that was saved")
