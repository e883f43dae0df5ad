"""Checkpoints with orbax: the model, the optimizer, the data position and the gin text of a run, as one unit.

A checkpoint is a folder `checkpoints/<step>` with three items: `model` (params and router_bias), `training` (optimizer
state, step, guard) and `record` (JSON: position, tokens, model section, gin text, checksums). Orbax writes it beside and
renames it when it is whole, so a crash at any moment leaves the previous one as it was. Each array's checksum is taken
on the device when it is saved and again when it is restored: a bit that flipped on the disk is found, on any mesh.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from dots_jax.config import CheckpointConfig, ModelConfig, UserError, to_dict
from dots_jax.storage import folder, in_bucket


@dataclasses.dataclass
class _Milestones(ocp.checkpoint_managers.PreservationPolicy):
    is_milestone: Callable[[int], bool]

    def should_preserve(self, checkpoints, *, context):
        return [self.is_milestone(checkpoint.step) for checkpoint in checkpoints]


@jax.jit
def _checksums(tree) -> list[jax.Array]:
    """The sum of each leaf's bit patterns modulo 2**32: whole numbers, so the order of the sum does not matter."""
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}

    def one(leaf):
        return jnp.sum(jax.lax.bitcast_convert_type(leaf, unsigned[leaf.dtype.itemsize]).astype(jnp.uint32))

    return [one(leaf) for leaf in jax.tree.leaves(tree)]


# A chunk is the least that can be read of an array. Smaller than this it is not worth a request of its own, and there
# would be millions of them.
MIN_CHUNK_BYTES = 2**20


def save_args(array: jax.Array, stack_axes: int) -> ocp.SaveArgs:
    """Cuts the leading `stack_axes` axes (layers, experts), so that one of them can be read without the others.

    Orbax otherwise writes a shard as one chunk, or cuts its longest axes, and each chunk then holds something of every
    layer: one expert of dots.llm1, 0.07 GB, would cost 68 GB (of a mesh of fsdp 16 x expert 8) to 540 GB (of one host).
    """
    shard = array.sharding.shard_shape(array.shape)
    worth = [
        axis for axis in range(stack_axes) if math.prod(shard[axis + 1 :]) * array.dtype.itemsize >= MIN_CHUNK_BYTES
    ]
    return ocp.SaveArgs(shard_axes=tuple(worth))


def _named_checksums(items: dict) -> dict[str, int]:
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(items)]
    return dict(zip(names, map(int, jax.device_get(_checksums(items)))))


def _verify(items: dict, record: dict) -> None:
    saved_dtypes = record.get("dtypes", {})  # of a converted checkpoint; a run restores what it saved

    def as_saved(path, leaf):
        name = jax.tree_util.keystr(path)
        dtype = jnp.dtype(saved_dtypes.get(name, leaf.dtype))
        if dtype.itemsize > leaf.dtype.itemsize:
            raise ValueError(f"the array {name} is {dtype} and cannot be checked as {leaf.dtype}: cast it afterwards")
        return leaf.astype(dtype)  # bfloat16 that was widened to float32 comes back bit for bit

    for name, checksum in _named_checksums(jax.tree_util.tree_map_with_path(as_saved, items)).items():
        if record["checksums"].get(name) != checksum:
            raise ValueError(f"the array {name} is not the one that was saved")


def with_checksum(record: dict) -> dict:
    """The record with the checksum of itself, which whoever reads it compares."""
    return record | {"checksum": _record_checksum(record)}


def verify_model(model: dict, record: dict) -> None:
    """Raises ValueError if an array of the item `model` is not the one whose checksum the record holds."""
    _verify({"model": model}, record)


def _record_checksum(record: dict) -> str:
    text = json.dumps({name: value for name, value in record.items() if name != "checksum"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Checkpoints:
    """The checkpoints of one workdir. Every process of a run makes one and makes the same calls."""

    def __init__(
        self, workdir: str, config: CheckpointConfig | None = None, is_milestone: Callable[[int], bool] | None = None
    ):
        """is_milestone: of a step; without it the checkpoints are only read."""
        config = config or CheckpointConfig()
        self.folder = folder(workdir) / "checkpoints"
        self._writes = is_milestone is not None
        policies = [ocp.checkpoint_managers.LatestN(n=config.keep_last)]
        if is_milestone:
            policies.append(_Milestones(is_milestone))
        self._options = ocp.CheckpointManagerOptions(
            create=self._writes,
            read_only=not self._writes,
            cleanup_tmp_directories=self._writes,
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
        )
        self._open()

    def _open(self) -> None:
        self._manager = ocp.CheckpointManager(
            self.folder, options=self._options, item_names=("model", "training", "record")
        )

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are whole, rising."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, items: dict[str, dict], record: dict, stack_axes: dict | None = None) -> None:
        """Copies the items `model` and `training` to the host and returns; the rest is written in the background. A step
        that is there stays.

        stack_axes: for each array of `model`, how many leading axes are layers and experts (`ModelDef.stack_axes`), along
        which it is cut; None: no array is cut.
        """
        if step in self._manager.all_steps():
            return
        record = with_checksum(record | {"checksums": _named_checksums(items)})
        # Only the model is read in parts: the optimizer's chunks may be as large as its shards.
        cut = {"model": jax.tree.map(save_args, items["model"], stack_axes)} if stack_axes else {}
        arguments = {name: ocp.args.StandardSave(item, save_args=cut.get(name)) for name, item in items.items()}
        self._manager.save(step, args=ocp.args.Composite(**arguments, record=ocp.args.JsonSave(record)))

    def record(self, step: int) -> dict:
        """The JSON of a checkpoint, without its arrays."""
        record = self._manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore())).record
        if record.get("checksum") != _record_checksum(record):
            raise ValueError("the record is not the one that was saved")
        return record

    def newest_record(self) -> dict | None:
        """The record of the newest checkpoint whose record can be read; None where there is no checkpoint."""
        for step in reversed(self.steps()):
            try:
                return self.record(step)
            except Exception:  # noqa: BLE001  restore_newest says what is wrong with it
                continue
        return None

    def restore_newest(self, abstract: dict[str, dict]) -> tuple[dict[str, dict], dict] | None:
        """The newest items that can be read, in the shardings of `abstract`, and their record; None for a new run.

        A damaged checkpoint is named on stderr and moved to `damaged/`, and the one before it is used.

        Raises:
          UserError: there are checkpoints, and none can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self._restore(step, abstract)
            except Exception as error:  # noqa: BLE001  whatever the reader trips over, the checkpoint cannot be used
                if "RESOURCE_EXHAUSTED" in str(error):
                    raise
                self._set_aside(step, error)
        if steps:
            raise UserError(
                f"None of the checkpoints {steps} in {self.folder} can be read; they are in {self.folder.parent / 'damaged'}. "
                "Start again in an empty workdir, or put a copy of one back."
            )
        return None

    def _restore(self, step: int, abstract: dict[str, dict]) -> tuple[dict[str, dict], dict]:
        record = self.record(step)
        arguments = {name: ocp.args.StandardRestore(item) for name, item in abstract.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**arguments))
        items = {name: restored[name] for name in abstract}
        _verify(items, record)
        return items, record

    def restore_model(self, step: int, abstract_model: dict) -> dict:
        """`params` and `router_bias` of one checkpoint, without the optimizer's two thirds of the bytes.

        Raises:
          UserError: the checkpoint is not there or is damaged.
        """
        try:
            record = self.record(step)
            item = ocp.args.StandardRestore(abstract_model)
            model = self._manager.restore(step, args=ocp.args.Composite(model=item)).model
            verify_model(model, record)
        except Exception as error:  # noqa: BLE001
            raise UserError(f"The checkpoint {self.folder / str(step)} cannot be read: {_first_line(error)}") from error
        return model

    def _set_aside(self, step: int, error: Exception) -> None:
        """Moves a damaged checkpoint out of the way, so that its step can be saved again; nothing is deleted."""
        if jax.process_index() == 0:
            path, reason = self.folder / str(step), _first_line(error)
            print(f"warning: checkpoint {path} is damaged ({reason}); moved to damaged/", file=sys.stderr, flush=True)
        self._manager.close()
        if jax.process_index() == 0:
            target = self.folder.parent / "damaged" / str(step)
            target.rmtree(missing_ok=True)
            target.parent.mkdir(exist_ok=True)
            (self.folder / str(step)).rename(target)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("damaged checkpoint moved")
        self._open()

    def wait(self) -> None:
        """Returns when everything is on disk; raises what went wrong in the background."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split("See full TensorStore details")[0].split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + " ..."


def check_same_model(
    saved: dict, config: ModelConfig, where: str, mend: str = "Use another --workdir, or the old settings."
) -> None:
    """Refuses to continue a run with another architecture, and says what differs."""
    now = to_dict(config)
    names = sorted(n for n in saved.keys() | now.keys() if saved.get(n) != now.get(n))
    if names:
        differences = ", ".join(f"{n} was {saved.get(n)} and is now {now.get(n)}" for n in names)
        raise UserError(f"{where} holds another model: {differences}. {mend}")


@contextlib.contextmanager
def disk_errors(workdir: str, what: str = "The workdir"):
    """A disk that fills up or goes away in the middle of a run becomes one sentence, whoever was writing."""
    try:
        yield
    except Exception as error:
        reasons = ("No space left on device", "Disk quota exceeded", "Read-only file system", "Input/output error")
        reason = next((reason for reason in reasons if reason in str(error)), None)
        if reason is None or isinstance(error, UserError):
            raise
        raise UserError(
            f"{what} {workdir} can no longer be written ({reason}). The checkpoints that are whole stay as they were: "
            "mend that and start the same command again."
        ) from error


def check_disk(workdir: str, checkpoint_bytes: int, what: str = "The workdir", mend: str = "another --workdir") -> None:
    """Refuses a workdir that cannot be written, or whose disk has no room for one more checkpoint. Buckets have room."""
    if in_bucket(workdir):
        probe = folder(workdir) / f".probe-{jax.process_index()}"
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_text("x")
            probe.unlink()
        except Exception as error:  # noqa: BLE001  every kind of bucket has errors of its own
            raise UserError(
                f"{what} {workdir} cannot be written ({_first_line(error)}): is there such a bucket, and may this "
                "machine's account write to it?"
            ) from error
        return
    try:
        os.makedirs(workdir, exist_ok=True)
        probe = os.path.join(workdir, ".probe")
        with open(probe, "w") as file:
            file.write("x")
        os.remove(probe)
    except OSError as error:
        raise UserError(f"{what} {workdir} cannot be written ({error.strerror}): choose {mend}.") from error
    free = shutil.disk_usage(workdir).free
    if free < checkpoint_bytes:
        raise UserError(
            f"A checkpoint takes {checkpoint_bytes / 2**20:,.1f} MiB, and the disk of {workdir} has {free / 2**20:,.1f} MiB left: "
            f"free some space, or choose {mend}."
        )
