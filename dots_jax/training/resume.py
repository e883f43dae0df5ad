"""Where a run goes on, and what it must not change when it does."""

from dots_jax.checkpoint.metadata import CheckpointMetadata
from dots_jax.checkpoint.store import Checkpoints, check_same_model
from dots_jax.config import UserError
from dots_jax.storage import folder, write_text
from dots_jax.training.initial import first_state
from dots_jax.training.report import say
from dots_jax.training.run import Run
from dots_jax.training.state import TrainState, from_items, to_items

MAY_CHANGE = (
    "When resuming you may change learning rates, but not the model, the data, or batch sizes of stages already started"
)


def restore_or_initialise(run: Run, checkpoints: Checkpoints) -> tuple[TrainState, int]:
    """The state to go on from, and the number of steps that it has taken.

    Raises UserError for a workdir whose newest checkpoint is not of this run, and for one in which none can be read.
    """
    # The order matters:
    # 1. Compare the newest record with this run, before any array is read or a damaged checkpoint is moved.
    # 2. Restore the newest checkpoint of the workdir that can be read.
    # 3. If there is none, take the weights of TrainConfig.initial_checkpoint, with a new optimizer, at step 0.
    # 4. If there is no initial checkpoint either, draw the parameters from TrainConfig.seed.
    if saved := checkpoints.newest_metadata():
        check_resumable(saved, run)
    if restored := checkpoints.restore_newest(to_items(run.abstract)):
        items, saved = restored
        say(f"resuming    after step {saved.step:,} ({saved.tokens:,} tokens)")
        return from_items(items), saved.step
    return first_state(run.config, run.model_def, run.optimizer, run.abstract), 0  # 3 and 4


def check_resumable(saved: CheckpointMetadata, run: Run) -> None:
    """A checkpoint continues only its own run: the same model, the same data, the same place in the schedule."""
    workdir = run.options.workdir
    if not saved.is_training_run:
        raise UserError(
            f"The workdir {workdir} holds weights that were {saved.kind}, not a training run: give them as "
            f"TrainConfig.initial_checkpoint = '{workdir}', and choose another --workdir for the run."
        )
    check_same_model(saved.model, run.config.model, f"The workdir {workdir}")
    expected = run.metadata(min(saved.step, run.schedule.num_steps))
    if saved.step > run.schedule.num_steps or saved.position != expected.position:
        raise UserError(
            f"The workdir {workdir} has trained {saved.step:,} steps on {saved.position:,} sequences, which does not fit the "
            f"stages of this config. {MAY_CHANGE}: use the old stages, or another --workdir."
        )
    for before, now in zip(saved.data, expected.data):
        if before == now:
            continue
        if before.content != now.content and before.mixture == now.mixture:
            raise UserError(
                f"The workdir {workdir} was trained on other data than {run.config.data.cache_dir} holds now (another "
                "version of the sources, or of Python for its library): use the old cache, or another --workdir."
            )
        name = before.first_difference(now)
        raise UserError(
            f"The workdir {workdir} has already started stage {before.name!r}, whose {name} was {getattr(before, name)} and is "
            f"now {getattr(now, name)}. {MAY_CHANGE}: use the old setting, or another --workdir."
        )


def write_config(run: Run) -> None:
    """The gin texts of the run, into its workdir."""
    texts = {"config.gin": run.options.gin_text, "operative_config.gin": run.options.operative_text}
    for name, text in texts.items():
        write_text(folder(run.options.workdir) / name, text)
