"""A folder of safetensors files, read tensor by tensor: nothing is loaded before it is asked for, and nothing is trusted.

A file is 8 bytes of length, a JSON header of that length (name -> dtype, shape, offsets) and the bytes of the tensors. The
headers are checked against the sizes of the files, and the index against the headers, when the folder is opened. Formats
that run code when they are read (pickle: .bin, .pt) are refused by name.
"""

import concurrent.futures
import functools
import hashlib
import json
import math
import os
import threading
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath

from dots_jax.config import UserError
from dots_jax.storage import folder, in_bucket, open_file

DTYPES = {"BF16": np.dtype(jnp.bfloat16), "F32": np.dtype(np.float32)}
_SIZES = {"BF16": 2, "F32": 4, "F16": 2, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1, "I8": 1, "U8": 1, "I16": 2}
_SIZES |= {"U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8}
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
MAX_HEADER = 100_000_000  # bytes; what the safetensors library allows
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


CHECKSUM_THREADS, CHECKSUM_BLOCK = 4, 8 << 20  # of files at once; bytes


class Tensor(NamedTuple):
    """Where a tensor is. begin: of its bytes, from the start of the file."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    num_bytes: int


class SafetensorsFolder:
    """A checkpoint folder of Hugging Face's: config.json, safetensors files and their index.

    Attributes: path; config (the parsed config.json); tensors (by name); fingerprint.

    Raises:
      UserError: something is missing, cut off, contradicts something else, or would have to be unpickled.
    """

    def __init__(self, path: str):
        self.path = folder(path)
        if not self.path.is_dir():
            raise UserError(f"There is no folder {path}.")
        self.files = _files(self.path, [entry.name for entry in self.path.iterdir()])
        for file in self.files:
            _refuse_dead_link(self.path / file)
        self.config = read_json(self.path / "config.json")
        self._local = not in_bucket(path)
        self._handles: dict = {}
        self._lock = threading.Lock()
        self.tensors: dict[str, Tensor] = {}
        for file in self.files:
            found = _read_header(self.path / file)
            twice = sorted(self.tensors.keys() & found.keys())
            if twice:
                raise UserError(f"The tensor {twice[0]} is in two files, {self.tensors[twice[0]].file} and {file}.")
            self.tensors |= found
        self._check_index()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of config.json and all bytes of the files, which are read for it: minutes for dots.llm1's 284 GB. Samples of them
        take a model for another one that differs from it in a few tensors."""
        with concurrent.futures.ThreadPoolExecutor(CHECKSUM_THREADS) as pool:
            checksums = list(pool.map(self._checksum, self.files))
        config = json.dumps(self.config, sort_keys=True)
        return hashlib.sha256(repr((config, self.files, checksums)).encode()).hexdigest()

    def _checksum(self, file: str) -> str:
        digest = hashlib.sha256()
        with open_file(str(self.path / file)) as opened:
            while block := opened.read(CHECKSUM_BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def _check_index(self) -> None:
        if not (self.path / INDEX).exists():
            return
        for name, file in _weight_map(self.path / INDEX).items():
            if name not in self.tensors:
                raise UserError(f"{self.path / INDEX} promises the tensor {name} in {file}, which does not hold it.")
            if self.tensors[name].file != file:
                raise UserError(
                    f"{self.path / INDEX} promises the tensor {name} in {file}, but it is in {self.tensors[name].file}."
                )
        extra = sorted(self.tensors.keys() - _weight_map(self.path / INDEX).keys())
        if extra:
            raise UserError(f"{self.tensors[extra[0]].file} holds the tensor {extra[0]}, which {INDEX} does not list.")

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start to stop of a tensor, read from the file now. Safe from several threads."""
        tensor = self.tensors[name]
        rows = tensor.shape[0] if tensor.shape else 1
        stop = rows if stop is None else stop
        array = np.empty((stop - start, *tensor.shape[1:]) if tensor.shape else (), DTYPES[tensor.dtype])
        row_bytes = tensor.num_bytes // rows if rows else 0
        view = memoryview(array.reshape(-1).view(np.uint8))
        done = 0
        while done < len(view):
            got = self._read_into(tensor.file, tensor.begin + start * row_bytes + done, view[done:])
            if not got:
                raise UserError(
                    f"{self.path / tensor.file} ends inside the tensor {name}: it changed while it was read."
                )
            done += got
        return array

    def _read_into(self, file: str, offset: int, view: memoryview) -> int:
        # Not mmap: its pages would count as this process's memory.
        with self._lock:
            if file not in self._handles:
                self._handles[file] = open_file(str(self.path / file))
            handle = self._handles[file]
            if not self._local:
                handle.seek(offset)
                data = handle.read(len(view))
                view[: len(data)] = data
                return len(data)
        return os.preadv(handle.fileno(), [view], offset)

    def close(self) -> None:
        for handle in self._handles.values():
            handle.close()
        self._handles.clear()


def refuse_pointer(path: epath.Path, begin: bytes) -> None:
    """Refuses what git leaves in place of a large file that was never fetched. begin: the first bytes of the file."""
    if begin.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{path} is a Git LFS pointer and not the file itself: run `git lfs pull` in {path.parent}, or download it again."
        )


def read_json(path: epath.Path) -> dict:
    """A JSON object from a file, or one sentence."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # some editors begin a file with a byte order mark
        refuse_pointer(path, text[:64].encode())
        value = json.loads(text)
    except FileNotFoundError:
        raise UserError(
            f"There is no {path.name} in {path.parent}: it is not a complete Hugging Face checkpoint."
        ) from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON: it is damaged or was cut off.") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object.")
    return value


def _refuse_dead_link(path: epath.Path) -> None:
    """A snapshot of the hub's cache holds links to blobs, which a cleaned cache has no longer."""
    if not in_bucket(path) and os.path.islink(path) and not os.path.exists(path):
        raise UserError(
            f"{path} is a link to {os.readlink(path)}, which is not there: download this snapshot again, or copy the files "
            "themselves instead of the links."
        )


def _files(path: epath.Path, entries: list[str]) -> list[str]:
    """The safetensors files of the checkpoint: those of the index, or the one file of a small model."""
    if INDEX in entries:
        files = sorted(set(_weight_map(path / INDEX).values()))
        missing = [file for file in files if file not in entries]
        if missing:
            raise UserError(
                f"{len(missing)} of the {len(files)} files that {path / INDEX} lists are missing: {missing[0]}."
            )
        return files
    if SINGLE in entries:
        return [SINGLE]
    if "adapter_model.safetensors" in entries or "adapter_config.json" in entries:
        raise UserError(
            f"{path} is an adapter (adapter_model.safetensors, as LoRA makes) without its model: merge it into the model that it "
            "was trained on, for instance with merge_and_unload() of peft, and convert the merged model."
        )
    pickles = sorted(entry for entry in entries if entry.endswith(_PICKLES))
    if pickles:
        raise UserError(
            f"{path} holds {pickles[0]} and no safetensors: reading such files runs code that is in them, so they are not "
            "read. Save the model as safetensors where you trust it (transformers' save_pretrained does)."
        )
    if any(entry.endswith(".safetensors") for entry in entries):
        raise UserError(f"{path} holds several safetensors files, but no {INDEX}, which says what belongs together.")
    if "checkpoints" in entries:
        raise UserError(
            f"{path} is a workdir of dots_jax, not a Hugging Face checkpoint: convert to_hf is the way from there."
        )
    raise UserError(f"There is no {SINGLE} and no {INDEX} in {path}: it is not a Hugging Face checkpoint.")


def _weight_map(path: epath.Path) -> dict[str, str]:
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{path} has no weight_map: it is damaged.")
    for name, file in weight_map.items():
        if not isinstance(file, str) or os.path.basename(file) != file or not file.endswith(".safetensors"):
            raise UserError(f"{path} lists {file!r} for {name}, which is no safetensors file of this folder.")
    return weight_map


def _no_duplicates(pairs: list[tuple]) -> dict:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError(f"it names {next(n for n in names if names.count(n) > 1)} twice")
    return dict(pairs)


def _read_header(path: epath.Path) -> dict[str, Tensor]:
    """The tensors of one file, every offset checked against its size, and the header's bytes with that size."""
    size = path.stat().length
    with open_file(str(path)) as file:
        begin = file.read(64)
        refuse_pointer(path, begin)
        file.seek(8)
        length = int.from_bytes(begin[:8], "little") if size >= 8 else 0
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise UserError(f"{path} is cut off or no safetensors file: its header should have {length:,} bytes.")
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates)
        if not isinstance(header, dict):
            raise ValueError("its header is no object")
        header.pop("__metadata__", None)
        tensors = {name: _entry(path.name, name, entry, 8 + length) for name, entry in header.items()}
    except (ValueError, RecursionError) as error:
        reason = str(error) if not isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) else "it is not JSON"
        raise UserError(f"The header of {path} is damaged: {reason}.") from None
    # One tensor after the other, no gap, no overlap, no bytes left over.
    end = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].num_bytes)):
        if tensor.begin != end:
            raise UserError(f"The header of {path} is damaged: the bytes of {name} do not begin where others end.")
        end += tensor.num_bytes
    if end != size:
        problem = "is cut off" if size < end else "has bytes that belong to no tensor"
        raise UserError(f"{path} {problem}: it has {size:,} bytes, and its header accounts for {end:,}.")
    return tensors


def _entry(file: str, name: str, entry: object, data: int) -> Tensor:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the entry of {name} is not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    is_size = lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not isinstance(dtype, str) or dtype not in _SIZES:
        raise ValueError(f"{name} has the dtype {dtype!r}")
    if not isinstance(shape, list) or not all(is_size(size) for size in shape):
        raise ValueError(f"{name} has the shape {shape!r}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(is_size(offset) for offset in offsets):
        raise ValueError(f"{name} has the offsets {offsets!r}")
    num_bytes = offsets[1] - offsets[0]
    if num_bytes != math.prod(shape) * _SIZES[dtype]:
        raise ValueError(f"{name} has {num_bytes} bytes, but {dtype} {shape} takes {math.prod(shape) * _SIZES[dtype]}")
    return Tensor(file, dtype, tuple(shape), data + offsets[0], num_bytes)
