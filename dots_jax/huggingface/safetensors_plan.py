"""Which tensor is where in an export: the files, headers and index that transformers' `save_pretrained` writes, byte for byte.

Tensors are dealt to files in the order of transformers' module names; inside a file safetensors puts float32 first, then
sorts by name. All offsets are known before the first byte is read.
"""

import itertools
import json
import math
import re
from typing import NamedTuple

import numpy as np

from dots_jax.config import ModelConfig, UserError
from dots_jax.huggingface.names import ROUTER_BIAS, TABLE, Weight, hf_shape, slices

_CODES = {"bfloat16": "BF16", "float32": "F32"}


def shard_bytes(text: str) -> int:
    """`5GB` as bytes, in thousands, as transformers reads it."""
    match = re.fullmatch(r"(\d+)(KB|MB|GB|TB)", text.upper())
    if not match or not int(match[1]):
        raise UserError(f"--max_shard_size must be a number with KB, MB or GB, as in 5GB, but is {text!r}.")
    return int(match[1]) * 1000 ** ("KB", "MB", "GB", "TB").index(match[2]) * 1000


class Export(NamedTuple):
    """One tensor of an export. number: which of the weight's tensors it is. dtype: as it is written."""

    name: str
    weight: Weight
    index: tuple[int, ...]
    number: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def exports(config: ModelConfig, dtype: np.dtype) -> list[Export]:
    """All tensors, in transformers' order. Router biases are float32 always."""
    made = []
    for weight in (*TABLE, ROUTER_BIAS):
        kind = np.dtype(np.float32) if weight is ROUTER_BIAS else np.dtype(dtype)
        for index, names in slices(weight, config):
            made += [Export(name, weight, index, k, hf_shape(weight, config), kind) for k, name in enumerate(names)]
    return sorted(made, key=lambda tensor: _module_order(tensor.name))


def _module_order(name: str) -> tuple:
    """transformers keeps all experts of a layer as one tensor, and sorts by name, numbers as numbers."""
    parts = name.split(".")
    if "experts" in parts:
        at = parts.index("experts") + 1
        parts = [*parts[:at], parts[at + 1], parts[at]]
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def _kept_as_one(tensor: Export) -> tuple:
    """The experts of a layer are three tensors there: down, gate and up."""
    return (tensor.weight.native, tensor.index[0], tensor.number) if len(tensor.index) > 1 else (tensor.name,)


def split(tensors: list[Export], max_bytes: int) -> dict[str, list[Export]]:
    """File -> its tensors in the order of their bytes. What transformers keeps as one tensor stays together, in a file of
    its own if it is larger than max_bytes."""
    parts: list[list[Export]] = []
    current: list[Export] = []
    size = 0
    for _, group in itertools.groupby(tensors, key=_kept_as_one):
        group = list(group)
        num_bytes = sum(tensor.num_bytes for tensor in group)
        if num_bytes > max_bytes:
            parts.append(group)
            continue
        if size + num_bytes > max_bytes:
            parts.append(current)
            current, size = [], 0
        current += group
        size += num_bytes
    if current:
        parts.append(current)
    in_file = lambda tensor: (-tensor.dtype.itemsize, tensor.name)
    if len(parts) == 1:
        return {"model.safetensors": sorted(parts[0], key=in_file)}
    return {
        f"model-{number:05d}-of-{len(parts):05d}.safetensors": sorted(part, key=in_file)
        for number, part in enumerate(parts, start=1)
    }


def header(tensors: list[Export]) -> bytes:
    """What stands before the tensors in their file."""
    entries: dict = {"__metadata__": {"format": "pt"}}
    begin = 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": _CODES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [begin, begin := begin + tensor.num_bytes],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def index_json(files: dict[str, list[Export]]) -> str:
    tensors = [tensor for part in files.values() for tensor in part]
    metadata = {
        "total_parameters": sum(math.prod(tensor.shape) for tensor in tensors if tensor.weight is not ROUTER_BIAS),
        "total_size": sum(tensor.num_bytes for tensor in tensors),
    }
    weight_map = {tensor.name: file for file, part in files.items() for tensor in part}
    return json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n"
