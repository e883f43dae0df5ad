"""The arrays of one orbax item on the disk or in a bucket: their names and sizes, and any part of them.

Orbax writes each array as a zarr, cut into chunks, and all of them into one OCDBT key-value store. A part of an array
costs the chunks that it touches, so how much must be read depends on how the chunks were cut (checkpoint/store.py).
Nothing here needs jax: TensorStore and numpy do it all.
"""

import dataclasses
import functools
import itertools
import json
import math

import numpy as np
import tensorstore as ts
from etils import epath

from dots_jax.config import UserError
from dots_jax.human import first_line

# Decoded chunks that may be in memory at the same time, in addition to the result.
IN_FLIGHT_BYTES = 512 * 2**20
INDEX_CACHE_BYTES = 256 * 2**20
Index = int | list[int]  # of one axis: an int drops the axis, as in numpy


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """What is known of an array without reading it. chunk: the shape in which it is read."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def chunk_bytes(self) -> int:
        return math.prod(self.chunk) * self.dtype.itemsize


class StoredArrays:
    """The arrays below one folder that orbax wrote, by path: {'params/embed/w_VD': StoredArray, ...}."""

    def __init__(self, folder: epath.Path, chunk_cache_bytes: int = 0):
        """Reads the list of names and each array's zarr metadata, a few KB in total.

        chunk_cache_bytes: memory for decoded chunks, for a reader that comes back to a chunk for another part of it.

        Raises:
          UserError: the folder holds no arrays of orbax, or they cannot be read.
        """
        self.folder = folder
        self._base = f"{folder}/" if "://" in str(folder) else f"file://{folder}/"
        # The store's index always stays in memory; chunks only on demand, so that memory stays what the caller asked for.
        self._context = ts.Context({
            "cache_pool": {"total_bytes_limit": INDEX_CACHE_BYTES},
            "cache_pool#chunks": {"total_bytes_limit": chunk_cache_bytes},
        })  # fmt: skip
        try:
            metadata = json.loads((folder / "_METADATA").read_text())
            self._ocdbt, driver = metadata.get("use_ocdbt", True), "zarr3" if metadata.get("use_zarr3") else "zarr"
            names = [[str(key["key"]) for key in leaf["key_metadata"]] for leaf in metadata["tree_metadata"].values()]
            opened = {"/".join(keys): self._open(driver, ".".join(keys)) for keys in names}
            self.stores: dict[str, ts.TensorStore] = {path: future.result() for path, future in opened.items()}
        except Exception as error:
            raise UserError(f"The arrays in {folder} cannot be read: {first_line(error)}") from error
        self.arrays = {path: self._describe(path, store) for path, store in self.stores.items()}

    def _open(self, driver: str, name: str) -> ts.Future:
        if self._ocdbt:
            kvstore = {"driver": "ocdbt", "base": self._base, "path": f"{name}/"}
        else:
            kvstore = f"{self._base}{name}/"
        spec = {"driver": driver, "kvstore": kvstore, "cache_pool": "cache_pool#chunks"}
        return ts.open(spec, context=self._context, read=True, open=True)

    @staticmethod
    def _describe(path: str, store: ts.TensorStore) -> StoredArray:
        chunk = store.chunk_layout.read_chunk.shape
        return StoredArray(path, tuple(store.shape), store.dtype.numpy_dtype, tuple(chunk or store.shape))

    def read(self, path: str, index: tuple[Index, ...], dtype: np.dtype) -> np.ndarray:
        """array[index] of one array, cast. index: for each of the leading axes, a place or a list of places.

        Goes chunk by chunk, each once, and holds at most IN_FLIGHT_BYTES of them in addition to the result.
        """
        array, store = self.arrays[path], self.stores[path]
        places = [*index, *(list(range(size)) for size in array.shape[len(index) :])]
        kept = [len(place) for place in places if not isinstance(place, int)]
        out = np.empty(kept, dtype)
        at_once = max(1, IN_FLIGHT_BYTES // max(1, array.chunk_bytes))
        cells = itertools.product(*(_by_chunk(place, size) for place, size in zip(places, array.chunk)))
        for batch in _batches(cells, at_once):
            futures = [(_target(cell), store.oindex[tuple(source for source, _ in cell)].read()) for cell in batch]
            for target, future in futures:
                try:
                    out[target] = future.result()
                except Exception as error:
                    raise UserError(f"The array {path} in {self.folder} cannot be read: {first_line(error)}") from error
        return out

    @functools.cached_property
    def stored_bytes(self) -> dict[str, int]:
        """Compressed bytes of each array. Reads the store's index, not the arrays."""
        if not self._ocdbt:
            return {path: _folder_bytes(self.folder / path.replace("/", ".")) for path in self.arrays}
        base = ts.KvStore.open(self._base).result()
        by_name = {path.replace("/", "."): path for path in self.arrays}
        sizes = dict.fromkeys(self.arrays, 0)
        nodes = [ts.ocdbt.dump(base).result()["versions"][-1]["root"]["location"]]
        while nodes:
            node = ts.ocdbt.dump(base, nodes.pop()).result()
            if node["height"]:
                nodes += [entry["location"] for entry in node["entries"]]
                continue
            for entry in node["entries"]:
                name = by_name.get(bytes(entry["key"]).decode().rsplit("/", 1)[0])
                if name is not None:
                    sizes[name] += _value_bytes(entry)
        return sizes


def bytes_read() -> int:
    """Bytes that TensorStore has read in this process so far, from disks and buckets."""
    metrics = ts.experimental_collect_matching_metrics("/tensorstore/kvstore/")
    # Not of the layers above, which would count the same bytes again.
    sources = [m for m in metrics if m["name"].endswith("/bytes_read") and "/ocdbt/" not in m["name"]]
    return sum(int(value.get("value", 0)) for metric in sources for value in metric["values"])


def _by_chunk(place: Index, chunk: int):
    """Cuts the places along one axis where chunks end: (what to read there, where it goes in the result)."""
    if isinstance(place, int):
        yield place, None
        return
    start = 0
    for _, group in itertools.groupby(place, key=lambda i: i // chunk):
        group = list(group)
        stop = start + len(group)
        contiguous = group == list(range(group[0], group[-1] + 1))
        yield slice(group[0], group[-1] + 1) if contiguous else group, slice(start, stop)
        start = stop


def _target(cell) -> tuple[slice, ...]:
    return tuple(target for _, target in cell if target is not None)


def _batches(items, size: int):
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def _value_bytes(entry: dict) -> int:
    if "inline_value" in entry:
        return len(entry["inline_value"])
    return int(str(entry["indirect_value"]).rsplit(":", 1)[1])


def _folder_bytes(folder: epath.Path) -> int:
    return sum(file.stat().length for file in folder.iterdir() if not file.is_dir())
