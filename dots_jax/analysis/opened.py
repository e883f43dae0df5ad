"""`dots_jax.open_checkpoint` for notebooks: what a checkpoint holds, any part of its arrays, or a small model.

The folder is a training run's workdir, what `convert from_hf` wrote, or one checkpoint (`.../checkpoints/200`), on a
disk or in a bucket. Opening it reads a few KB. jax is loaded by `restore` alone.
"""

import dataclasses
import difflib
import fnmatch
import functools
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
from etils import epath

from dots_jax.checkpoint import open as opener
from dots_jax.checkpoint.arrays import Index, StoredArray
from dots_jax.checkpoint.metadata import CheckpointMetadata
from dots_jax.config import ModelConfig, UserError
from dots_jax.curriculum.stages import Schedule
from dots_jax.human import human_bytes

if TYPE_CHECKING:
    from dots_jax.analysis.restored_model import RestoredModel
    from dots_jax.model.parameters import Declaration

Places = int | slice | Iterable[int] | None
DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32), "float16": np.dtype(np.float16)}


def open_checkpoint(path: str, step: int | None = None) -> "OpenCheckpoint":
    """The newest checkpoint of a workdir or the one of `step`, or the one checkpoint that the path names.

    Raises:
      UserError: there is none, or it is damaged.
    """
    return OpenCheckpoint(opener.open_checkpoint(path, step))


class OpenCheckpoint:
    """One checkpoint, and the steps of the others of its run. Arrays are named as `huggingface/names.py` names them, in
    their nested dicts: `embed/w_VD`, `moe_blocks/moe/experts/w_down_EFD`, `router_bias`."""

    def __init__(self, opened: opener.Opened):
        self._opened = opened
        self.path: epath.Path = opened.path
        self.model: ModelConfig = opened.model
        self._names = {name.removeprefix("params/"): name for name in opened.arrays.arrays}
        self.arrays: dict[str, StoredArray] = {
            short: dataclasses.replace(opened.arrays.arrays[name], path=short) for short, name in self._names.items()
        }

    # --- what is there ------------------------------------------------------------------------------------------------

    @property
    def metadata(self) -> CheckpointMetadata:
        return self._opened.metadata

    @property
    def step(self) -> int:
        return self._opened.step

    @property
    def gin(self) -> str:
        """The settings that the run was started with; empty for a converted model."""
        return self.metadata.gin

    @property
    def tokenizer(self) -> str:
        """The tokenizer.json in the workdir, or the one that the run named; empty: bytes."""
        return self._opened.tokenizer or ""

    @functools.cached_property
    def declarations(self) -> "dict[str, Declaration]":
        """What the model declares each array to be, by name: its layers, its experts, its part of the model.

        Raises:
          UserError: an array is none of the model's.
        """
        from dots_jax.model.model_def import declared_parameters  # imports jax, which reading arrays does without

        declared = declared_parameters(self.model)
        if unknown := sorted(self.arrays.keys() - declared.keys()):
            raise UserError(f"{self.path} holds arrays that its model does not have: {_listed(unknown)}.")
        return {name: declared[name] for name in self.arrays}

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints of the run, rising."""
        return self._opened.steps

    @functools.cached_property
    def tokens(self) -> dict[int, int]:
        """Step -> tokens that the model has been trained on, for each of `steps`."""
        return {step: self._opened.at(step).metadata.tokens for step in self.steps}

    @functools.cached_property
    def milestones(self) -> list[int]:
        """Those of `steps` that the run keeps for ever: one every `CheckpointConfig.milestone_tokens` tokens, and its end."""
        saves = self.metadata.schedule_of_saves
        if saves is None or not saves.milestone_tokens:
            return []
        return Schedule(self.metadata.stages).milestones(self.steps, saves.every_steps, saves.milestone_tokens)

    def at(self, step: int) -> "OpenCheckpoint":
        """The checkpoint of another step of the same run."""
        return self if step == self.step else OpenCheckpoint(self._opened.at(step))

    @property
    def has_metrics(self) -> bool:
        """Whether the workdir holds the metrics of a training run."""
        return self._opened.workdir is not None and (self._opened.workdir / "metrics.jsonl").exists()

    def metrics(self) -> list[dict]:
        """The rows of the run's metrics.jsonl, one for each logged step; null is None. Rows of validations are left out."""
        if not self.has_metrics:
            raise UserError(
                f"There is no metrics.jsonl of {self.path}: only a training run writes one, in its workdir."
            )
        path = self._opened.workdir / "metrics.jsonl"
        rows = []
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:  # a run that is just writing, or was killed
                break
        return [row for row in rows if "validation" not in row]

    def tree(self) -> str:
        """Every array with its shape, dtype, bytes in memory and bytes on the disk, as a table."""
        stored = self._opened.arrays.stored_bytes
        width = max(map(len, self.arrays))
        lines = [f"{'array':<{width}}  {'shape':<24} {'dtype':<9} {'in memory':>11} {'stored':>11} {'a chunk':>11}"]
        for name, array in self.arrays.items():
            shape = " x ".join(map(str, array.shape)) or "scalar"
            figures = (array.nbytes, stored[self._names[name]], array.chunk_bytes)
            lines.append(
                f"{name:<{width}}  {shape:<24} {array.dtype.name:<9} "
                + " ".join(f"{human_bytes(n):>11}" for n in figures)
            )
        sums = (sum(array.nbytes for array in self.arrays.values()), sum(stored.values()))
        lines.append(f"{'in all':<{width}}  {'':<24} {'':<9} " + " ".join(f"{human_bytes(n):>11}" for n in sums))
        return "\n".join(lines)

    def __repr__(self) -> str:
        size = sum(array.nbytes for array in self.arrays.values())
        count = sum(array.nbytes // array.dtype.itemsize for array in self.arrays.values())
        m = self.model
        lines = [
            f"checkpoint  {self.path}",
            f"step        {self.step:,} of {_listed(self.steps)}; {self.metadata.tokens:,} tokens",
            f"milestones  {_listed(self.milestones) or 'none kept'}",
            f"model       {m.num_layers} layers of {m.hidden_size}, {m.num_experts} experts of {m.expert_ffn_size} "
            f"({m.experts_per_token} for each token), vocabulary {m.vocab_size:,}",
            f"arrays      {len(self.arrays)}, {count:,} numbers, {human_bytes(size)}: print(checkpoint.tree())",
        ]
        return "\n".join(lines)

    # --- the arrays ---------------------------------------------------------------------------------------------------

    def load(
        self, pattern: str | re.Pattern, *, layers: Places = None, experts: Places = None, index=None,
        dtype: str | None = None,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """Part of the checkpoint: only the chunks that hold it are read.

        Args:
          pattern: a glob over names, whose * also stands for slashes, or a compiled regular expression that is searched.
          layers: of the model's layers, from 0; a number, a list, a range or a slice. Layer 0 is the dense one. Arrays
            that belong to no chosen layer are left out. A number drops the layer axis.
          experts: the same for the routed experts' weights; all other arrays come with all their axes.
          index: for each of the leading axes of every array, a number, list, range or slice; instead of the two above.
          dtype: `bfloat16`, `float32` or `float16`; None leaves it as it is stored.

        Raises:
          UserError: nothing matches, an index is out of range, or the result is too large for this machine.
        """
        if dtype is not None and dtype not in DTYPES:
            raise UserError(f"dtype must be one of {', '.join(DTYPES)}, but is {dtype!r}.")
        if index is not None and (layers is not None or experts is not None):
            raise UserError("Give either index, or layers and experts: both say which part of an array is meant.")
        names = self._matching(pattern)
        if index is not None:
            chosen = {name: _checked_index(index, self.arrays[name]) for name in names}
        else:
            places = {name: self._index(name, layers, experts) for name in names}
            chosen = {name: place for name, place in places.items() if place is not None}
        if not chosen:
            raise UserError(
                f"{_text(pattern)!r} matches {_listed(names)}, of which nothing is in the layers {layers}: leave layers out, or "
                "choose others."
            )
        sizes = [self._sizes(name, place, dtype) for name, place in chosen.items()]
        _check_memory(sum(result for result, _ in sizes), max(chunk for _, chunk in sizes))
        return {
            name: self._opened.arrays.read(self._names[name], place, DTYPES.get(dtype, self.arrays[name].dtype))
            for name, place in chosen.items()
        }

    def restore(self, dtype: str = "float32") -> "RestoredModel":
        """The model on one device of this machine, ready to compute with; its checksums are compared."""
        if dtype not in DTYPES:
            raise UserError(f"dtype must be one of {', '.join(DTYPES)}, but is {dtype!r}.")
        size = sum(
            array.nbytes + array.nbytes // array.dtype.itemsize * DTYPES[dtype].itemsize
            for array in self.arrays.values()
        )
        _check_memory(size, 0)
        from dots_jax.analysis.restored_model import restore_model

        return restore_model(self._opened, dtype)

    def _matching(self, pattern: str | re.Pattern) -> list[str]:
        if isinstance(pattern, re.Pattern):
            names = [name for name in self.arrays if pattern.search(name)]
        else:
            names = [name for name in self.arrays if fnmatch.fnmatchcase(name, pattern)]
        if not names:
            near = difflib.get_close_matches(_text(pattern), list(self.arrays), n=3, cutoff=0.3)
            raise UserError(
                f"No array of {self.path} matches {_text(pattern)!r}; "
                f"{'near it are ' + _listed(near) if near else 'they are ' + _listed(list(self.arrays))}."
            )
        return names

    def _index(self, name: str, layers: Places, experts: Places) -> tuple[Index, ...] | None:
        """The leading axes' places in one array; None if it belongs to none of the layers."""
        layers = _places(layers, self.model.num_layers, "layers")
        experts = _places(experts, self.model.num_experts, "experts")
        if layers is None and experts is None:
            return ()
        declared = self.declarations[name]
        first = declared.first_layer
        index: tuple[Index, ...] = ()
        if layers is not None and not declared.stacked:
            return () if first in ([layers] if isinstance(layers, int) else layers) else None
        if layers is not None:
            place = layers - first if isinstance(layers, int) else [layer - first for layer in layers if layer >= first]
            if place in (-1, []):
                return None
            index = (place,)
        if experts is not None and "experts" in declared.stack:
            index = (index[0] if index else list(range(self.model.num_moe_layers)), experts)
        return index

    def _sizes(self, name: str, place: tuple[Index, ...], dtype: str | None) -> tuple[int, int]:
        """Bytes of the result, and of one chunk that must be decoded for it."""
        array = self.arrays[name]
        kept = [1 if isinstance(one, int) else len(one) for one in place] + list(array.shape[len(place) :])
        return int(np.prod(kept, dtype=np.int64)) * DTYPES.get(dtype, array.dtype).itemsize, array.chunk_bytes


def _places(places: Places, size: int, what: str) -> Index | None:
    """A number, or a list of them, each checked. what: `layers`, for the message."""
    if places is None:
        return None
    if isinstance(places, slice):
        places = range(*places.indices(size))
    single = isinstance(places, (int, np.integer))
    numbers = [int(places)] if single else [int(place) for place in places]
    wrong = [number for number in numbers if not 0 <= number < size]
    if wrong or not numbers:
        found = f"{wrong[0]} is out of range" if wrong else "None is chosen"
        raise UserError(f"{found}: the {what} are 0 to {size - 1}.")
    return numbers[0] if single else numbers


def _checked_index(index, array: StoredArray) -> tuple[Index, ...]:
    index = index if isinstance(index, tuple) else (index,)
    if len(index) > len(array.shape):
        raise UserError(f"The index has {len(index)} axes, and {array.path} has the shape {array.shape}.")
    return tuple(
        _places(place, size, f"places on axis {axis} of {array.path}")
        for axis, (place, size) in enumerate(zip(index, array.shape))
    )


def _check_memory(result: int, chunk: int) -> None:
    """Refuses what would end with the machine killing the notebook."""
    free = _free_memory()
    if free is not None and result + chunk > free:
        what = (
            f"The result takes {human_bytes(result)}"
            if result > chunk
            else f"A chunk of the checkpoint takes {human_bytes(chunk)}"
        )
        raise UserError(
            f"{what}, and this machine has {human_bytes(free)} free: choose fewer layers or experts, or bfloat16."
        )


def _free_memory() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None  # not Linux


def _text(pattern: str | re.Pattern) -> str:
    return pattern.pattern if isinstance(pattern, re.Pattern) else pattern


def _listed(names) -> str:
    names = [str(name) for name in names]
    return ", ".join(names if len(names) <= 8 else [*names[:4], "...", *names[-2:]])
