"""The checkpoints of a training run: written with orbax, and restored to resume.

A checkpoint is a folder `checkpoints/<step>` with three items: `model` (params and router_bias), `training` (optimizer
state, step, guard) and `record` (JSON, checkpoint/metadata.py). Orbax writes it under another name and renames it when it
is complete, so a crash at any moment leaves the previous one as it was.
"""

import contextlib
import dataclasses
import math
import os
import shutil
import sys
from collections.abc import Callable

import jax
import orbax.checkpoint as ocp

from dots_jax.checkpoint.bucket import BucketCheckpoint, is_out_of_reach, refusals
from dots_jax.checkpoint.metadata import CheckpointMetadata, DamagedCheckpoint, NewerFormat, read_metadata
from dots_jax.checkpoint.restore import named_checksums, verify
from dots_jax.config import CheckpointConfig, ModelConfig, UserError, to_dict
from dots_jax.human import first_line, human_bytes
from dots_jax.storage import folder, in_bucket


@dataclasses.dataclass
class _Milestones(ocp.checkpoint_managers.PreservationPolicy):
    is_milestone: Callable[[int], bool]

    def should_preserve(self, checkpoints, *, context):
        return [self.is_milestone(checkpoint.step) for checkpoint in checkpoints]


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
            temporary_path_class=BucketCheckpoint if in_bucket(workdir) else None,
        )
        self._open()

    def _open(self) -> None:
        with refusals(self.folder):
            self._manager = ocp.CheckpointManager(
                self.folder, options=self._options, item_names=("model", "training", "record")
            )

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, rising."""
        with refusals(self.folder):
            return sorted(self._manager.all_steps())

    def save(
        self, step: int, items: dict[str, dict], metadata: CheckpointMetadata, stack_axes: dict | None = None
    ) -> None:
        """Copies the items `model` and `training` to the host and returns; the rest is written in the background.

        A step that has a checkpoint is skipped. The checksums of the arrays are added to the metadata.
        stack_axes: for each array of `model`, how many leading axes are layers and experts (`ModelDef.stack_axes`), along
        which it is cut; None: no array is cut.
        """
        if step in self._manager.all_steps():
            return
        metadata = dataclasses.replace(metadata, checksums=named_checksums(items))
        # Only the model is read in parts: the optimizer's chunks may be as large as its shards.
        cut = {"model": jax.tree.map(save_args, items["model"], stack_axes)} if stack_axes else {}
        arguments = {name: ocp.args.StandardSave(item, save_args=cut.get(name)) for name, item in items.items()}
        record = ocp.args.JsonSave(metadata.to_json())
        self._manager.save(step, args=ocp.args.Composite(**arguments, record=record))

    def metadata(self, step: int) -> CheckpointMetadata:
        """Of one checkpoint, without its arrays."""
        return read_metadata(self.folder / str(step))

    def newest_metadata(self) -> CheckpointMetadata | None:
        """Of the newest checkpoint whose record can be read; None where there is no checkpoint."""
        for step in reversed(self.steps()):
            with contextlib.suppress(DamagedCheckpoint):  # restore_newest says what is wrong with it
                return self.metadata(step)
        return None

    def restore_newest(self, abstract: dict[str, dict]) -> tuple[dict[str, dict], CheckpointMetadata] | None:
        """The newest items that can be read, in the shardings of `abstract`, and their metadata; None for a new run.

        A damaged checkpoint is named on stderr and moved to `damaged/`, and the one before it is used.

        Raises:
          UserError: there are checkpoints, and none can be read; or a later version of this project wrote the newest.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self._restore(step, abstract)
            except Exception as error:  # noqa: BLE001  whatever the reader trips over, the checkpoint cannot be used
                if "RESOURCE_EXHAUSTED" in str(error) or isinstance(error, NewerFormat):
                    raise
                if in_bucket(self.folder) and is_out_of_reach(error):
                    raise
                self._set_aside(step, error)
        if steps:
            raise UserError(
                f"None of the checkpoints {steps} in {self.folder} can be read; they are in {self.folder.parent / 'damaged'}. "
                "Start again in an empty workdir, or put a copy of one back."
            )
        return None

    def _restore(self, step: int, abstract: dict[str, dict]) -> tuple[dict[str, dict], CheckpointMetadata]:
        metadata = self.metadata(step)
        arguments = {name: ocp.args.StandardRestore(item) for name, item in abstract.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**arguments))
        items = {name: restored[name] for name in abstract}
        verify(items, metadata)
        return items, metadata

    def _set_aside(self, step: int, error: Exception) -> None:
        """Moves a damaged checkpoint out of the way, so that its step can be saved again; nothing is deleted."""
        if jax.process_index() == 0:
            path, reason = self.folder / str(step), getattr(error, "reason", None) or first_line(error)
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


def check_same_model(
    saved: ModelConfig, config: ModelConfig, where: str, fix: str = "Use another --workdir, or the old settings."
) -> None:
    """Refuses to continue a run with another architecture, and says what differs."""
    before, now = to_dict(saved), to_dict(config)
    differences = [f"{n} was {before[n]} and is now {now[n]}" for n in sorted(now) if before[n] != now[n]]
    if differences:
        raise UserError(f"{where} holds another model: {', '.join(differences)}. {fix}")


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
            f"{what} {workdir} can no longer be written ({reason}). Finished checkpoints are unchanged: fix that and start "
            "the same command again."
        ) from error


def check_disk(
    workdir: str, checkpoint_bytes: int, what: str = "The workdir", other: str = "another --workdir"
) -> None:
    """Refuses a workdir that cannot be written, or whose disk has no room for one more checkpoint. Buckets have room."""
    if in_bucket(workdir):
        probe = folder(workdir) / f".probe-{jax.process_index()}"
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_text("x")
            probe.unlink()
        except Exception as error:  # noqa: BLE001  every kind of bucket has errors of its own
            raise UserError(
                f"{what} {workdir} cannot be written ({first_line(error)}): is there such a bucket, and may this "
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
        raise UserError(f"{what} {workdir} cannot be written ({error.strerror}): choose {other}.") from error
    free = shutil.disk_usage(workdir).free
    if free < checkpoint_bytes:
        raise UserError(
            f"A checkpoint takes {human_bytes(checkpoint_bytes)}, and the disk of {workdir} has {human_bytes(free)} left: "
            f"free some space, or choose {other}."
        )
