"""Small values between the processes of one run: from process 0 to all, and from each to all. All processes call together."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from dots_jax.config import UserError


def from_first(make: Callable[[], Any]) -> Any:
    """What `make` returns in process 0, as JSON; the others do not call it.

    Raises UserError in every process where process 0 raised one: none waits for the others.
    """
    if jax.process_count() == 1:
        return make()
    sent = {}
    if jax.process_index() == 0:
        try:
            sent = {"value": make()}
        except UserError as error:
            sent = {"error": str(error)}
    found = json.loads(_broadcast(json.dumps(sent).encode()))
    if "error" in found:
        raise UserError(found["error"])
    return found["value"]


def from_all(value: Any) -> list[Any]:
    """The JSON values of all processes, in their order."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.int64(data.size)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: data.size] = data
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes)]


def _broadcast(data: bytes) -> bytes:
    size = int(multihost_utils.broadcast_one_to_all(np.int64(len(data))))
    padded = np.zeros(size, np.uint8)
    padded[: min(size, len(data))] = np.frombuffer(data, np.uint8)[:size]
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8).tobytes()
