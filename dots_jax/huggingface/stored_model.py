"""Writes the item `model` of a checkpoint, one array or part of an array at a time, without jax and its memory.

Orbax keeps each array as zarr chunks in an OCDBT database, written by each process into a database of its own
(`ocdbt.process_<id>`) and merged, by reference, into one. A conversion writes each of its units as such a database, from
orbax's own specs, and lets orbax merge them and write the metadata: to a reader it is a checkpoint like any other.
Chunks are not compressed: weights hardly are compressible, and so every byte count is known beforehand.
"""

import functools
import json
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath
from orbax.checkpoint import type_handlers

from dots_jax.checkpoint.commit import COMMIT_FILE
from dots_jax.checkpoint.metadata import CheckpointMetadata
from dots_jax.huggingface.units import Layout, Unit

_MODEL_HANDLER, _RECORD_HANDLER = ocp.StandardCheckpointHandler, ocp.JsonCheckpointHandler


class UnitWriter:
    """Writes the pieces of one unit. Nothing of it counts before all is written; `begin` deletes what a killed one left."""

    def __init__(self, model: epath.Path, unit: Unit):
        self._model, self._unit, self._layout = model, unit, unit.layout

    def begin(self) -> None:
        left = self._model / f"ocdbt.process_{self._unit.name}"
        if left.exists():
            left.rmtree()
        context = type_handlers.get_ts_context(use_ocdbt=True)
        spec = type_handlers.get_json_tspec_write(
            _info(self._model, self._layout.name, context), use_ocdbt=True, global_shape=self._layout.shape,
            local_shape=self._layout.chunk, dtype=self._layout.dtype, process_index=self._unit.name,
        )  # fmt: skip
        self._store = ts.open(ts.Spec(spec), create=True, open=True, context=context).result()

    def batch(self) -> "Batch":
        return Batch(self._store)


class Batch:
    """Parts of an array that are committed together: the database makes a new version at every commit."""

    def __init__(self, store: ts.TensorStore):
        self._transaction = ts.Transaction()
        self._store = store.with_transaction(self._transaction)

    def write(self, index: tuple[int, ...], axis: int, start: int, array: np.ndarray) -> None:
        """A part of the slice at `index` that begins at `start` along its axis `axis`. The array may be used again then."""
        store = self._store[index] if index else self._store
        where = tuple(slice(0, size) for size in array.shape)
        where = where[:axis] + (slice(start, start + array.shape[axis]),) + where[axis + 1 :]
        store[where].write(array).result()

    def commit(self) -> ts.Future:
        """Begins to put it on the disk."""
        return self._transaction.commit_async()


def _info(model: epath.Path, name: str, context: ts.Context) -> type_handlers.ParamInfo:
    return type_handlers.ParamInfo(
        name=name, parent_dir=model, use_compression=False, use_zarr3=False, ts_context=context
    )


class _Written(type_handlers.ArrayHandler):
    """For orbax: an array whose chunks are there already."""

    async def serialize(self, values, infos, args=None):
        return []


def finish_model(model: epath.Path, layouts: list[Layout]) -> None:
    """Merges the units and writes the metadata of the item. Raises ValueError if a chunk is missing."""
    tree: dict = {}
    for layout in layouts:
        *folders, leaf = layout.name.split(".")
        node = functools.reduce(lambda node, name: node.setdefault(name, {}), folders, tree)
        node[leaf] = jax.ShapeDtypeStruct(layout.shape, layout.dtype)
    registry = type_handlers.create_type_handler_registry((jax.ShapeDtypeStruct, _Written()))
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    handler.save(model, args=ocp.args.PyTreeSave(tree))
    handler.finalize(model)
    handler.close()
    _check_chunks(model, layouts)


def _check_chunks(model: epath.Path, layouts: list[Layout]) -> None:
    """Every chunk must be in the merged database, with its length."""
    context = type_handlers.get_ts_context(use_ocdbt=True)
    spec = type_handlers.get_json_tspec_read(_info(model, "", context), use_ocdbt=True)["kvstore"]
    keys = ts.KvStore.open(ts.KvStore.Spec({**spec, "path": ""}), context=context).result().list().result()
    found: dict[str, int] = {}
    for key in keys:
        name, _, chunk = key.decode().rpartition("/")
        if not chunk.startswith("."):
            found[name] = found.get(name, 0) + 1
    for layout in layouts:
        if found.get(layout.name) != layout.num_chunks():
            raise ValueError(f"{layout.name} has {found.get(layout.name, 0)} of its {layout.num_chunks()} chunks")


def finish_checkpoint(step: epath.Path, metadata: CheckpointMetadata) -> None:
    """The record and orbax's own files next to a finished item `model`: then the folder is a checkpoint."""
    (step / "record").mkdir(parents=True, exist_ok=True)
    handler = _RECORD_HANDLER()
    handler.save(step / "record", args=ocp.args.JsonSave(metadata.to_json()))
    handler.close()
    now = time.time_ns()
    qualified = lambda cls: f"{cls.__module__}.{cls.__qualname__}"
    (step / "_CHECKPOINT_METADATA").write_text(json.dumps({
        "item_handlers": {"model": qualified(_MODEL_HANDLER), "record": qualified(_RECORD_HANDLER)},
        "metrics": {}, "performance_metrics": {}, "init_timestamp_nsecs": now, "commit_timestamp_nsecs": now,
        "custom_metadata": {},
    }))  # fmt: skip
    # In a bucket, where nothing can be renamed, this file is what makes a folder a checkpoint: last.
    for path in (step / "model", step / "record", step):
        (path / COMMIT_FILE).write_text(f"Checkpoint commit was successful to {path}")
