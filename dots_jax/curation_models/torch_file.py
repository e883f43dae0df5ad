"""Reads the tensors of a `pytorch_model.bin` without torch and without running what a pickle asks for.

BGE-M3 publishes no safetensors. The file is a zip: a pickle of names, shapes and strides, and the bytes of each storage. The
unpickler here knows the handful of names that such a file needs, and refuses every other.
"""

import collections
import pickle
import zipfile
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from dots_jax.config import UserError

_STORAGES = {
    "FloatStorage": np.dtype("<f4"), "HalfStorage": np.dtype("<f2"), "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"), "DoubleStorage": np.dtype("<f8"), "IntStorage": np.dtype("<i4"),
}  # fmt: skip


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild(storage: _Storage, offset: int, shape: tuple, stride: tuple, *unused: object) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise ValueError(f"it wants {module}.{name}")

    def persistent_load(self, pid: tuple) -> _Storage:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise ValueError(f"it has a persistent {kind}")
        return _Storage(dtype, key)


def read_tensors(path: str) -> dict[str, np.ndarray]:
    """All tensors by name. Raises UserError for a file of another form, or one whose pickle asks for more than tensors."""
    try:
        with zipfile.ZipFile(path) as file:
            (inner,) = [name for name in file.namelist() if name.endswith("/data.pkl")]
            root = inner.removesuffix("data.pkl")
            with file.open(inner) as pickled:
                found = _Unpickler(pickled).load()
            tensors = {name: value for name, value in found.items() if isinstance(value, _Tensor)}
            return {name: _array(file, root, tensor) for name, tensor in tensors.items()}
    except FileNotFoundError:
        raise UserError(f"There is no file {path}.") from None
    except (
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OSError,
    ) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is no file of tensors that torch saved ({type(error).__name__}: {reason}).") from None


def _array(file: zipfile.ZipFile, root: str, tensor: _Tensor) -> np.ndarray:
    """A copy, after its bounds were checked."""
    flat = np.frombuffer(file.read(f"{root}data/{tensor.storage.key}"), tensor.storage.dtype)
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride))
    if 0 in tensor.shape:
        return np.empty(tensor.shape, flat.dtype)
    if min((tensor.offset, *tensor.stride)) < 0 or last >= len(flat):
        raise ValueError("a tensor reaches beyond its bytes")
    strides = [step * flat.itemsize for step in tensor.stride]
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides).copy()
