"""The one way to open a checkpoint: of a training run, of a conversion, or a folder that stands alone.

Opening reads a few KB. Neither jax nor orbax is loaded before `Opened.restore`.
"""

import dataclasses
import functools
from typing import TYPE_CHECKING

from etils import epath

from dots_jax.checkpoint.arrays import StoredArrays
from dots_jax.checkpoint.commit import finished_steps, is_complete
from dots_jax.checkpoint.metadata import CheckpointMetadata, read_metadata
from dots_jax.config import ModelConfig, UserError
from dots_jax.storage import folder, tokenizer_file

if TYPE_CHECKING:
    import jax


@dataclasses.dataclass(frozen=True)
class Opened:
    """One checkpoint."""

    path: epath.Path  # its folder, which holds model/ and record/
    checkpoints: epath.Path | None  # the folder of all checkpoints of its run; None if it stands alone
    metadata: CheckpointMetadata

    @property
    def step(self) -> int:
        return self.metadata.step

    @property
    def model(self) -> ModelConfig:
        return self.metadata.model

    @property
    def workdir(self) -> epath.Path | None:
        return self.checkpoints.parent if self.checkpoints else None

    @functools.cached_property
    def steps(self) -> list[int]:
        """Steps of all checkpoints of the run, rising."""
        return finished_steps(self.checkpoints) if self.checkpoints else [self.step]

    def at(self, step: int) -> "Opened":
        """The checkpoint of another step of the same run.

        Raises:
          UserError: there is none.
        """
        if step == self.step:
            return self
        path = _checkpoint_of_step(self.checkpoints or self.path, self.steps, step)
        return Opened(path, self.checkpoints, read_metadata(path))

    @property
    def tokenizer(self) -> str | None:
        """The tokenizer.json in the workdir, or else the one that the run named; empty: bytes. None: unknown."""
        kept = tokenizer_file(self.workdir) if self.workdir else None
        return str(kept) if kept else self.metadata.run_tokenizer

    @functools.cached_property
    def arrays(self) -> StoredArrays:
        """The arrays on the disk or in the bucket, by name; any part of them can be read."""
        return StoredArrays(self.path / "model")

    def restore(self, shapes: tuple, shardings: tuple, *, stored_dtypes: bool = False) -> tuple[dict, "jax.Array"]:
        """The model on devices, without the optimizer's two thirds of the bytes; its checksums are compared.

        Args:
          shapes: (params, router_bias) as shapes with dtypes, as `ModelDef.abstract` returns.
          shardings: the same as shardings, as `ModelDef.shardings` returns.
          stored_dtypes: every array comes in the dtype in which it is stored; otherwise in that of `shapes`, which must
            not be narrower.

        Returns:
          params and router_bias.

        Raises:
          DamagedCheckpoint: an array is missing, is not the one that was saved, or has another shape.
        """
        from dots_jax.checkpoint.restore import restore_model

        dtypes = {name: array.dtype for name, array in self.arrays.arrays.items()} if stored_dtypes else {}
        return restore_model(self.path, self.metadata, shapes, shardings, dtypes)


def open_checkpoint(path: str, step: int | None = None) -> Opened:
    """The newest checkpoint of a workdir or the one of `step`, or the one checkpoint that the path names (`.../checkpoints/200`).

    Raises:
      UserError: there is none, it is damaged, or a later version of this project wrote it.
    """
    here = folder(path)
    if not here.is_dir():
        raise UserError(f"There is no folder {path}.")
    if (here / "model").is_dir() and (here / "record").is_dir():
        if not is_complete(here):
            raise UserError(f"{path} is not finished: it is being written, or the run was killed while it did so.")
        in_run = here.name.isdecimal() and here.parent.name == "checkpoints"
        opened = Opened(here, here.parent if in_run else None, read_metadata(here))
        if step not in (None, opened.step):
            raise UserError(f"{path} is the checkpoint of step {opened.step}, not of step {step}: give one of the two.")
        return opened
    checkpoints = here if here.name == "checkpoints" else here / "checkpoints"
    if not checkpoints.is_dir():
        if (here / "config.json").exists():
            raise UserError(
                f"{path} is a Hugging Face folder: `python -m dots_jax.convert from_hf {path} DIR` makes a checkpoint of it."
            )
        raise UserError(
            f"{path} is not a checkpoint: give the workdir of a training run, a folder that `python -m dots_jax.convert "
            "from_hf` wrote, or one checkpoint (checkpoints/STEP)."
        )
    steps = finished_steps(checkpoints)
    if not steps:
        raise UserError(f"There is no finished checkpoint in {checkpoints}.")
    path = _checkpoint_of_step(checkpoints, steps, steps[-1] if step is None else step)
    return Opened(path, checkpoints, read_metadata(path))


def _checkpoint_of_step(checkpoints: epath.Path, steps: list[int], step: int) -> epath.Path:
    if step not in steps:
        raise UserError(f"There is no checkpoint of step {step} in {checkpoints}: it has {', '.join(map(str, steps))}.")
    return checkpoints / str(step)
