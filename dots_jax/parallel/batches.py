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
) -> dict[str, jax.Array]:
    """Rows first .. first + size as global arrays [size, seq_len].

    Each process reads the rows of its own devices and no others: which rows those are follows from the mesh alone, so
    hosts need not talk, and any number of them reads the same global batch.
    """
    shape = (size, seq_len)
    pieces: dict[str, list[jax.Array]] = {}
    read = functools.cache(lambda start, stop: read_rows(range(first + start, first + stop)))  # devices may share rows
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        start, stop, _ = index[0].indices(size)
        for name, rows in read(start, stop).items():
            pieces.setdefault(name, []).append(jax.device_put(rows[:, index[1]], device))
    return {name: jax.make_array_from_single_device_arrays(shape, sharding, arrays) for name, arrays in pieces.items()}
