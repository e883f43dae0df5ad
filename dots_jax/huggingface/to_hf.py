"""A native checkpoint, converted or trained, becomes a Hugging Face folder, piece by piece.

Each process writes every n-th file, from its first byte to its last. A journal next to the files says how far each one is
and adds up what was read, so that an export that was stopped goes on, and one of damaged arrays never looks finished: the
sums must be the checkpoint's. Everything is written to `DST.partial`, which becomes DST at the end; in a bucket, where nothing
can be renamed, the config and the index are written last.
"""

import collections
import contextlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from dots_jax.checkpoint.arrays import StoredArrays
from dots_jax.checkpoint.open import open_checkpoint
from dots_jax.checkpoint.store import check_disk, disk_errors
from dots_jax.config import UserError
from dots_jax.huggingface import units as layouts
from dots_jax.huggingface.config import config_to_hf
from dots_jax.huggingface.progress import byte_bar
from dots_jax.huggingface.safetensors_plan import Export, exports, header, index_json, shard_bytes, split
from dots_jax.huggingface.safetensors_read import INDEX
from dots_jax.huggingface.tokenizer_files import check_vocabulary, complete, copy_files, tokenizer_folder
from dots_jax.parallel.agreement import one_run_at_a_time
from dots_jax.storage import folder, in_bucket, write_text

THREADS = 4
CHUNK_CACHE_BYTES = 2**29  # decoded; chunks of a training run can hold more than one piece
AHEAD = 2 * THREADS  # pieces that are read before they can be written


class ChatTemplate(NamedTuple):
    """jinja: a run's default system message -> the template that is written where none came with the weights. warning: (folder
    of the tokenizer, default system message) -> how the template in it differs, or None."""

    jinja: Callable[[str], str]
    warning: Callable[[str, str], str | None]


def to_hf(
    source_path: str, target_path: str, *, template: ChatTemplate, step: int | None = None, dtype: str | None = None,
    tokenizer: str | None = None, max_shard_size: str = "50GB",
) -> str:  # fmt: skip
    """Exports one checkpoint (default: the newest); says in one sentence what was made.

    template: of the chat. dtype: of the weights, `bfloat16` or `float32`; default: as they are stored. tokenizer: a folder
    with tokenizer.json; default: what came with the weights.

    Raises:
      UserError: there is no such checkpoint, it is damaged, or the target cannot take it.
    """
    if dtype is not None and dtype not in layouts.DTYPES:
        raise UserError(f"--dtype must be bfloat16 or float32, but is {dtype!r}.")
    max_bytes = shard_bytes(max_shard_size)
    source = Source(source_path, step)
    names = _tokenizer(source, tokenizer)
    files = split(exports(source.config, layouts.DTYPES[dtype] if dtype else source.dtype), max_bytes)
    work, trained = _Work(target_path, source, files), source.metadata.is_training_run
    total = sum(tensor.num_bytes for part in files.values() for tensor in part)
    target = folder(target_path)
    lock = one_run_at_a_time(str(target.parent), f"the export {target.name}", f".{target.name}.owner.json")
    with disk_errors(target_path, "The folder"), lock, source.vanishing():
        work.open(total)
        _write_files(source, files, work)
        work.barrier("files written")
        if jax.process_index() == 0:
            source.verify(work.sums(files))
            work.finish(files, _config(source, files), names, template.jinja(source.metadata.default_system), trained)
        work.barrier("export finished")
    said = template.warning(str(names), source.metadata.default_system) if names and trained else None
    warning = f"\nwarning: {said}" if said else ""
    without = "" if names else "; without a tokenizer, since the checkpoint has none (--tokenizer adds one)"
    return f"{total:,} bytes in {len(files)} file(s): {target_path}{without}{warning}"


class Source:
    """One checkpoint, and what an export needs of it."""

    def __init__(self, path: str, step: int | None):
        opened = open_checkpoint(path, step)
        self.path, self.metadata, self.config = opened.path, opened.metadata, opened.model
        self.workdir, self.tokenizer = opened.workdir, opened.tokenizer
        self.arrays = StoredArrays(opened.path / "model", CHUNK_CACHE_BYTES)
        self.dtype = self.arrays.arrays["params/embed/w_VD"].dtype
        self.layouts = {layout.weight: layout for layout in layouts.layouts(self.config, self.dtype)}

    @contextlib.contextmanager
    def vanishing(self) -> Iterator[None]:
        """A run deletes its older checkpoints: what reading one then raises does not say so."""
        try:
            yield
        except Exception as error:
            if self.path.exists():
                raise
            raise UserError(
                f"The checkpoint {self.path} was deleted while it was exported, as a run does with all but its newest: start "
                "again, or name a milestone as --step."
            ) from error

    def verify(self, sums: dict[str, int]) -> None:
        """Refuses an export of arrays that are not the ones that were saved."""
        for layout in self.layouts.values():
            if self.metadata.checksums.get(layout.key) != sums[layout.key]:
                raise UserError(
                    f"The array {layout.name} of the checkpoint {self.path} is damaged: it is not the one that was saved. "
                    "Nothing was exported."
                )


def _tokenizer(source: Source, tokenizer: str | None) -> epath.Path | None:
    """The folder whose small files are copied, or the tokenizer.json of a run under a name of its own; None: there is none.

    Raises:
      UserError: the run names a tokenizer that is not there, or the tokenizer is of another model.
    """
    kept = source.workdir / "tokenizer" if source.workdir else None
    if tokenizer:
        path = tokenizer_folder(tokenizer)
    elif kept and kept.is_dir():
        path = kept
    elif source.tokenizer:
        path = folder(source.tokenizer)
        if not path.exists():
            raise UserError(
                f"The run read text with the tokenizer {source.tokenizer}, which is not there: start the export in the folder "
                "of the run, or give the tokenizer as --tokenizer."
            )
        path = path.parent if path.name == "tokenizer.json" else path
    else:
        return None
    check_vocabulary(path, source.config.vocab_size)
    return path


def _config(source: Source, files: dict[str, list[Export]]) -> dict:
    """config.json. The one that the weights came with says the same in its own way, and has fields that change nothing in
    the model (token ids, initializer_range, ...): what it says stays."""
    native, came_with = config_to_hf(source.config), source.metadata.hf_config
    dtype = next(t for part in files.values() for t in part if t.name == "model.embed_tokens.weight").dtype.name
    kept = {name: value for name, value in came_with.items() if value is not None or name not in native}
    return native | kept | {"dtype": dtype, "torch_dtype": dtype}  # of transformers 5, and of 4


# --- files ------------------------------------------------------------------------------------------------------------


class _Work:
    """What is being written, and the journal of it: for each file the sums of the tensors that are in it already."""

    def __init__(self, target_path: str, source: Source, files: dict[str, list[Export]]):
        self.target, self.local = folder(target_path), not in_bucket(target_path)
        self._path = target_path
        self.folder = self.target.parent / f"{self.target.name}.partial" if self.local else self.target
        self._journal = self.folder / "conversion.partial"
        first = next(iter(files.values()))[-1]
        self._plan = json.dumps({
            "format": 2, "source": source.metadata.checksum, "files": list(files), "dtype": first.dtype.name,
            "checkpoint": str(source.path),
        })  # fmt: skip

    def open(self, total: int) -> None:
        plan = self._journal / "plan.json"
        if jax.process_index() == 0:
            taken = self.target.exists() and (not self.target.is_dir() or any(self.target.iterdir()))
            if taken and (self.local or not plan.exists()):  # in a bucket the export itself is there
                raise UserError(f"{self._path} exists and is not empty: choose another folder, or delete it.")
            if plan.exists() and plan.read_text() != self._plan:
                self._forget_vanished(json.loads(plan.read_text()).get("checkpoint"))
            there = sum(entry.stat().length for entry in self.folder.iterdir()) if self.folder.exists() else 0
            check_disk(str(self.folder), max(0, total - there), "The folder", "another DST")
            self._journal.mkdir(parents=True, exist_ok=True)
            if not plan.exists():
                write_text(plan, self._plan)
        self.barrier("folders made")
        if plan.read_text() != self._plan:
            raise UserError(
                f"{self.folder} holds the beginning of another export: delete it, or choose another folder."
            )

    def _forget_vanished(self, checkpoint: str | None) -> None:
        """The beginning of an export that nobody can finish, since its checkpoint is gone, does not block the next one."""
        if checkpoint and not folder(checkpoint).exists():
            for entry in list(self.folder.iterdir()):
                entry.rmtree() if entry.is_dir() else entry.unlink()

    def journal(self, file: str) -> epath.Path:
        return self._journal / f"{file}.jsonl"

    def entries(self, file: str) -> list[tuple[str, str, int]]:
        """(tensor, native array, checksum) of all that is in the file; a line that was cut off does not count."""
        if not self.journal(file).exists():
            return []
        lines = self.journal(file).read_text().split("\n")[:-1]
        return [tuple(json.loads(line)) for line in lines]

    def sums(self, files: dict[str, list[Export]]) -> dict[str, int]:
        sums: dict[str, int] = {}
        for file in files:
            for _, key, value in self.entries(file):
                sums[key] = (sums.get(key, 0) + value) % 2**32
        return sums

    def finish(
        self, files: dict, config: dict, tokenizer: epath.Path | None, chat_template: str, trained: bool
    ) -> None:  # fmt: skip
        """The small files, and last the ones that make the folder a checkpoint."""
        if tokenizer:
            copy_files(tokenizer, self.folder)
        config = complete(self.folder, chat_template, config, trained)
        if len(files) > 1:
            (self.folder / INDEX).write_text(index_json(files))
        (self.folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        self._journal.rmtree()
        if self.local:
            if self.target.exists():
                self.target.rmdir()
            self.folder.rename(self.target)

    def barrier(self, name: str) -> None:
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"convert: {name}")


def _write_files(source: Source, files: dict[str, list[Export]], work: _Work) -> None:
    """This process's share of the files."""
    mine = dict(list(files.items())[jax.process_index() :: jax.process_count()])
    done = {file: len(work.entries(file)) for file in mine}
    size = lambda tensors: sum(tensor.num_bytes for tensor in tensors)
    total, before = sum(map(size, mine.values())), sum(size(mine[file][: done[file]]) for file in mine)
    with (
        byte_bar("to_hf", total, before, jax.process_index() == 0) as bar,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        for file, tensors in mine.items():
            if done[file] == len(tensors):
                continue
            try:
                write = _write_local if work.local else _write_bucket
                write(
                    work, file, tensors, done[file], _read_ahead(source, threads, tensors, done[file], work.local), bar
                )
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise


def _write_local(work: _Work, file: str, tensors: list[Export], done: int, pieces: Iterator, bar) -> None:
    """Goes on behind the `done` tensors that the journal knows; what a killed export wrote behind them is overwritten."""
    start = header(tensors)
    if done:  # without the line that a full disk or a kill cut off
        write_text(work.journal(file), "".join(json.dumps(entry) + "\n" for entry in work.entries(file)))
    with (
        open(work.folder / file, "r+b" if done else "wb") as out,
        open(work.journal(file), "a" if done else "w") as journal,
    ):
        if not done:
            out.write(start)
        out.seek(len(start) + sum(tensor.num_bytes for tensor in tensors[:done]))
        out.truncate()
        for entry in _copy(out.write, pieces, bar):
            out.flush()
            journal.write(json.dumps(entry) + "\n")
            journal.flush()
        os.fsync(out.fileno())


def _write_bucket(work: _Work, file: str, tensors: list[Export], done: int, pieces: Iterator, bar) -> None:
    """An object of a bucket is there when it is closed, or not at all; so is its journal."""
    with (work.folder / file).open("wb") as out:
        out.write(header(tensors))
        entries = list(_copy(lambda data: out.write(bytes(data)), pieces, bar))  # TensorFlow's files take nothing else
    work.journal(file).write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def _copy(write: Callable[[memoryview], object], pieces: Iterator, bar) -> Iterator[tuple[str, str, int]]:
    """Writes the pieces of a file; yields a journal entry when a tensor is complete."""
    value = 0
    for tensor, key, last, (array, part) in pieces:
        write(memoryview(array.reshape(-1).view(np.uint8)))
        bar.update(array.nbytes)
        value += part
        if last:
            yield tensor.name, key, value % 2**32
            value = 0


def _read_ahead(
    source: Source, threads: ThreadPoolExecutor, tensors: list[Export], done: int, resumes: bool
) -> Iterator[tuple[Export, str, bool, tuple[np.ndarray, int]]]:
    """(tensor, native array's key, whether it ends here, (rows of it, checksum)), in order, a few of them read ahead."""
    waiting: collections.deque[tuple[Export, str, bool, Future]] = collections.deque()
    for tensor in tensors[done if resumes else 0 :]:
        layout = source.layouts[tensor.weight]
        size = layout.inner[layout.axis] // len(tensor.weight.hf)
        step = _step(source.arrays.arrays[layout.path].chunk, layout, tensor, size)
        for start in range(0, size, step):
            stop = min(start + step, size)
            if len(waiting) >= AHEAD:
                *head, future = waiting.popleft()
                yield (*head, future.result())
            waiting.append(
                (tensor, layout.key, stop == size, threads.submit(_read, source, layout, tensor, start, stop))
            )
    for *head, future in waiting:
        yield (*head, future.result())


def _step(chunk: tuple[int, ...], layout: layouts.Layout, tensor: Export, size: int) -> int:
    """Along the first native output axis, what is read at once: about PIECE_BYTES, in complete chunks if they are not larger."""
    part, row_bytes = chunk[len(layout.stack) + layout.axis], tensor.num_bytes // size
    step = max(1, layouts.PIECE_BYTES // row_bytes)
    if part <= step:
        step = step // part * part
    else:
        step *= 8  # each piece decodes all of its chunks: fewer and larger ones
    return min(step, size)


def _read(source: Source, layout: layouts.Layout, tensor: Export, start: int, stop: int) -> tuple[np.ndarray, int]:
    store = source.arrays.stores[layout.path]
    first = tensor.number * (layout.inner[layout.axis] // len(tensor.weight.hf))
    where = (slice(None),) * layout.axis + (slice(first + start, first + stop),)
    # The hf axes are the native ones, outputs first; tensorstore transposes while it copies.
    turned = (*range(layout.axis, len(layout.inner)), *range(layout.axis))
    rows = store[(*tensor.index, *where)].transpose(turned).read(order="C").result()
    return rows.astype(tensor.dtype, copy=False), layouts.checksum(rows)
