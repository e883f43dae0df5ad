"""From the key of a document to its id: one sorted table a partition, mapped into memory."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dots_jax.curation.streams import partition_of
from dots_jax.storage import atomic_write


def write_ids(stem: Path, keys_and_ids: Iterable[tuple[int, str]]) -> None:
    """Writes `<stem>-ids.keys.npy`, `.ends.npy` and `.text.npy`; keys come in order."""
    keys, parts, ends, end = [], [], [], 0
    for key, id in keys_and_ids:
        text = json.dumps(id).encode()
        end += len(text)
        keys.append(key)
        parts.append(text)
        ends.append(end)
    arrays = {
        "keys": np.array(keys, np.uint64),
        "ends": np.array(ends, np.int64),
        "text": np.frombuffer(b"".join(parts), np.uint8),
    }
    for name, array in arrays.items():
        with atomic_write(_path(stem, name), "wb") as file:
            np.save(file, array)


def _path(stem: Path, name: str) -> Path:
    return stem.with_name(f"{stem.name}-ids.{name}.npy")


class IdTable:
    """stems: of each partition, in order. earlier: the same of each crawl before, where a key is looked up next."""

    def __init__(self, stems: Sequence[Path], partitions: int, earlier: Sequence[Sequence[Path]] = ()):
        self._crawls, self._partitions = [stems, *earlier], partitions
        self._open: dict[Path, tuple[np.ndarray, ...]] = {}

    def get(self, key: int) -> str:
        """Raises KeyError for a key that no document has."""
        part = partition_of(key, self._partitions)
        for stems in self._crawls:
            keys, ends, text = self._table(stems[part])
            place = int(np.searchsorted(keys, np.uint64(key)))
            if place < len(keys) and keys[place] == key:
                return json.loads(text[ends[place - 1] if place else 0 : ends[place]].tobytes())
        raise KeyError(key)

    def _table(self, stem: Path) -> tuple[np.ndarray, ...]:
        if stem not in self._open:
            names = ("keys", "ends", "text")
            self._open[stem] = tuple(np.load(_path(stem, name), mmap_mode="r") for name in names)
        return self._open[stem]
