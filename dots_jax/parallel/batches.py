"""Host rows -> one global array over the mesh."""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding

BATCH_KEYS = ("tokens", "targets", "positions", "segments", "weights")


def put_batch(
    read_rows: Callable[[Sequence[int]], dict[str, np.ndarray]],
    first: int,
    size: int,
    seq_len: int,
    sharding: NamedSharding,
    keys: Sequence[str] = BATCH_KEYS,
) -> dict[str, jax.Array]:
    """Rows first .. first + size as global arrays [size, seq_len].

    Each process reads the rows of its own devices and no others. Which rows those are follows from the mesh alone, so hosts
    need no communication, and any number of them reads the same global batch.
    """
    # Devices along the context axis share rows, and so do the keys: each range is read once.
    read = functools.cache(lambda start, stop: read_rows(range(first + start, first + stop)))

    def shard(key: str, index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # only of devices of other processes
        start, stop, _ = index[0].indices(size)
        return read(start, stop)[key][:, index[1]]

    shape = (size, seq_len)
    return {key: jax.make_array_from_callback(shape, sharding, functools.partial(shard, key)) for key in keys}
