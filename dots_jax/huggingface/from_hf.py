"""A Hugging Face checkpoint becomes a native one: `DST/checkpoints/0`, in the source's dtype, piece by piece.

Each process takes every n-th unit of work (`layout.units`). A finished unit leaves a small file with its checksum, so that
a conversion that was stopped goes on where it was. Everything is written to `DST/conversion.partial`, which becomes
`DST/checkpoints/0` by a rename at the end; in a bucket, where nothing can be renamed, orbax's commit file does it.
"""

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from dots_jax.checkpoint.commit import COMMIT_FILE
from dots_jax.checkpoint.metadata import CONVERTED, CheckpointMetadata, read_metadata
from dots_jax.checkpoint.store import check_disk, disk_errors
from dots_jax.config import ModelConfig, UserError
from dots_jax.huggingface.config import config_from_hf
from dots_jax.huggingface.names import ROUTER_BIAS, check_names, hf_shape, slice_from_hf
from dots_jax.huggingface.progress import byte_bar
from dots_jax.huggingface.safetensors_read import DTYPES, SafetensorsFolder
from dots_jax.huggingface.stored_model import Batch, UnitWriter, finish_checkpoint, finish_model
from dots_jax.huggingface.tokenizer_files import check_vocabulary, copy_files, found
from dots_jax.huggingface.units import Layout, Piece, Unit, checksum, layouts, names_of, units
from dots_jax.parallel.agreement import one_run_at_a_time
from dots_jax.storage import folder, in_bucket, write_text

STEP = 0
BATCH_BYTES = 128 * 2**20  # committed at once; two of them are in memory
THREADS = 4  # each holds a piece and its copies
SPARE_BYTES = 64 * 2**20  # in addition to the arrays: databases' own files


def from_hf(source_path: str, target_path: str) -> str:
    """Converts; says in one sentence what was made.

    Raises:
      UserError: the source is not a complete checkpoint of this model type, or the target cannot take it.
    """
    source = SafetensorsFolder(source_path)
    config = config_from_hf(source.config)
    plan = layouts(config, check_tensors(source, config))
    check_vocabulary(source.path, config.vocab_size)
    target = folder(target_path)
    total = sum(layout.num_bytes for layout in plan)
    step = target / "checkpoints" / str(STEP)
    if _is_done(target_path, step, source.fingerprint):
        (target / "conversion.partial").rmtree(missing_ok=True)
        return f"{target_path} holds this conversion already: complete, skipped"
    if jax.process_index() == 0:
        check_disk(target_path, 0, "The folder", "another DST")
    with one_run_at_a_time(target_path, "the conversion"):
        _convert_into(target, target_path, source, config, plan)
    source.close()
    return f"{total:,} bytes in {len(plan)} arrays: {step}"


def _convert_into(target: epath.Path, target_path: str, source: SafetensorsFolder, config: ModelConfig, plan) -> None:
    work = _Work(target_path, source.fingerprint)
    done = work.open()
    total = sum(layout.num_bytes for layout in plan)
    if jax.process_index() == 0:
        left = total - sum(unit.num_bytes for unit in units(plan) if unit.name in done)
        check_disk(target_path, left + SPARE_BYTES, "The folder", "another DST")
    with disk_errors(target_path, "The folder"):
        _write_units(source, config, units(plan), work, done)
        work.barrier("units written")
        if jax.process_index() == 0:
            _finish(source, config, plan, work, target)
        work.barrier("conversion finished")


def check_tensors(source: SafetensorsFolder, config: ModelConfig) -> np.dtype:
    """Names, shapes and dtypes against the table; returns the dtype of the weights."""
    expected = {
        name: layout for layout in layouts(config, np.float32) for n in names_of(layout, config).values() for name in n
    }
    check_names("tensors", source.tensors, expected)
    first = source.tensors["model.embed_tokens.weight"].dtype
    for name, layout in expected.items():
        tensor, shape = source.tensors[name], hf_shape(layout.weight, config)
        if tensor.shape != shape:
            raise UserError(f"{name} in {tensor.file} has shape {tensor.shape}, but config.json makes it {shape}.")
        # A bias in bfloat16, as transformers writes it after `.to(bfloat16)`, becomes float32 without a change.
        allowed = ("F32", "BF16") if layout.weight is ROUTER_BIAS else (first,)
        if tensor.dtype not in allowed or tensor.dtype not in DTYPES:
            wanted = " or ".join(DTYPES) if tensor.dtype not in DTYPES else f"{' or '.join(allowed)}, as the rest"
            raise UserError(f"{name} in {tensor.file} has the dtype {tensor.dtype}, but must have {wanted}.")
    return DTYPES[first]


def _is_done(target_path: str, step: epath.Path, fingerprint: str) -> bool:
    """Whether this very conversion is finished. Refuses a folder with another checkpoint in it."""
    checkpoints = step.parent
    if not checkpoints.exists():
        return False
    if (step / COMMIT_FILE).exists():
        with contextlib.suppress(UserError):  # a damaged one is another one
            metadata = read_metadata(step)
            if metadata.kind == CONVERTED and metadata.source_fingerprint == fingerprint:
                return True
        raise UserError(f"{target_path} holds another checkpoint already, in {step}: choose another folder.")
    unfinished = {step.name} if in_bucket(target_path) else set()
    if {entry.name for entry in checkpoints.iterdir()} - unfinished:
        raise UserError(f"{target_path} holds a training run's checkpoints: choose another folder.")
    return False


class _Work:
    """The journal of a conversion: what it is of, and which units are finished."""

    def __init__(self, target_path: str, fingerprint: str):
        self._target, self._fingerprint = target_path, fingerprint
        self.folder = folder(target_path) / "conversion.partial"
        in_place = folder(target_path) / "checkpoints" / str(STEP)
        self.step = in_place if in_bucket(target_path) else self.folder / str(STEP)

    def open(self) -> dict[str, int]:
        """Makes the folders, or finds them as this conversion left them. Returns unit -> checksum of what is done."""
        plan, text = self.folder / "plan.json", json.dumps({"format": 1, "source": self._fingerprint})
        if jax.process_index() == 0 and not plan.exists():
            for path in (self.folder / "units", self.step / "model"):
                path.mkdir(parents=True, exist_ok=True)
            write_text(plan, text)
        self.barrier("folders made")
        if plan.read_text() != text:
            raise UserError(
                f"{self.folder} holds the beginning of another conversion: delete it, or choose another folder."
            )
        done = {}
        for path in (self.folder / "units").iterdir():
            if path.name.endswith(".json"):
                done[path.name.removesuffix(".json")] = json.loads(path.read_text())
        self.barrier("journal read")  # before anyone adds to it
        return done

    def write(self, unit: Unit, value: int) -> None:
        write_text(self.folder / "units" / f"{unit.name}.json", str(value))

    def barrier(self, name: str) -> None:
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"convert: {name}")


def _write_units(
    source: SafetensorsFolder, config: ModelConfig, all_units: list[Unit], work: _Work, done: dict
) -> None:
    """This process's share. A unit counts when all of its pieces are on the disk."""
    mine = all_units[jax.process_index() :: jax.process_count()]
    before = sum(unit.num_bytes for unit in mine if unit.name in done)
    total = sum(unit.num_bytes for unit in mine)
    with (
        byte_bar("from_hf", total, before, jax.process_index() == 0) as bar,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        for unit in mine:
            if unit.name in done:
                continue
            try:
                value = _write_unit(source, config, unit, work, threads, bar)
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
            work.write(unit, value % 2**32)


def _write_unit(
    source: SafetensorsFolder, config: ModelConfig, unit: Unit, work: _Work, threads: ThreadPoolExecutor, bar
) -> int:
    """Returns the checksum when all of it is on the disk. While one batch is committed the next one is read."""
    writer, names, value, before = UnitWriter(work.step / "model", unit), names_of(unit.layout, config), 0, None
    writer.begin()
    for pieces in _batches(unit):
        batch = writer.batch()
        futures = [threads.submit(_convert, source, config, unit.layout, names, piece, batch) for piece in pieces]
        for future in futures:
            part, num_bytes = future.result()
            value += part
            bar.update(num_bytes)
        if before:
            before.result()
        before = batch.commit()
    before.result()
    return value


def _batches(unit: Unit) -> Iterator[list[Piece]]:
    pieces, taken = [], 0
    for piece in unit.pieces:
        pieces.append(piece)
        taken += unit.layout.piece_bytes(piece)
        if taken >= BATCH_BYTES:
            yield pieces
            pieces, taken = [], 0
    if pieces:
        yield pieces


def _convert(
    source: SafetensorsFolder, config: ModelConfig, layout: Layout, names: dict, piece: Piece, batch: Batch
) -> tuple[int, int]:
    """Reads, turns and writes one piece; returns its checksum and its bytes."""
    weight = layout.weight
    if piece.index is None:
        array = np.empty(layout.shape, layout.dtype)
        for index, hf_names in names.items():
            array[index] = slice_from_hf(weight, tuple(source.read(name) for name in hf_names), config)
        batch.write((), 0, 0, array)
        return checksum(array), array.nbytes
    # Rows of the hf matrix for each step along the first native output axis.
    rows = hf_shape(weight, config)[0] * len(weight.hf) // layout.inner[layout.axis]
    several = len(weight.hf) > 1
    tensors = tuple(
        source.read(name) if several else source.read(name, piece.start * rows, piece.stop * rows)
        for name in names[piece.index]
    )
    tensors = tuple(part.astype(layout.dtype, copy=False) for part in tensors)
    value = sum(checksum(part) for part in tensors)
    array = slice_from_hf(weight, tensors, config)
    batch.write(piece.index, layout.axis, piece.start, array)
    return value, array.nbytes


def _finish(
    source: SafetensorsFolder, config: ModelConfig, plan: list[Layout], work: _Work, target: epath.Path
) -> None:
    """Puts the units together, and makes the checkpoint visible last."""
    done = {path.name: int(path.read_text()) for path in (work.folder / "units").iterdir() if path.suffix == ".json"}
    sums: dict[str, int] = {}
    for unit in units(plan):
        value = done[f"{unit.name}.json"]
        sums[unit.layout.key] = (sums.get(unit.layout.key, 0) + value) % 2**32
    finish_model(work.step / "model", plan)
    metadata = CheckpointMetadata(
        step=STEP,
        model=config,
        kind=CONVERTED,
        dtypes={layout.key: layout.dtype.name for layout in plan},
        checksums=sums,
        source={"fingerprint": source.fingerprint, "config": source.config, "files": source.files},
        tokenizer_files=tuple(found(source.path)),
    )
    if found(source.path):
        (target / "tokenizer").mkdir(exist_ok=True)
        copy_files(source.path, target / "tokenizer")
    finish_checkpoint(work.step, metadata)
    if work.step.parent == work.folder:
        (target / "checkpoints").mkdir(exist_ok=True)
        work.step.rename(target / "checkpoints" / str(STEP))
    work.folder.rmtree()
