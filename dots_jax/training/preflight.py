"""What a run checks of its names, its workdir and its data before anything is compiled."""

import contextlib

from dots_jax.checkpoint.store import Checkpoints, check_same_model
from dots_jax.config import TrainConfig, UserError, check_ids
from dots_jax.data.registry import get_rates, get_task, task_vocabulary
from dots_jax.data.sequences.mixture_sequences import MixtureSequences
from dots_jax.evaluation.perplexity import check_task, check_vocabulary
from dots_jax.storage import folder


def check_names(config: TrainConfig) -> None:
    """Refuses mixtures and tasks that do not exist or do not fit the model, without touching their data."""
    for stage in config.stages:
        size = task_vocabulary(get_task(next(iter(get_rates(stage.mixture))))).vocab_size
        if size > config.model.vocab_size:
            raise UserError(
                f"Stage {stage.name!r}: the vocabulary of {stage.mixture} has {size} ids, but ModelConfig.vocab_size is "
                f"{config.model.vocab_size}: raise it."
            )
        if stage.untie:
            check_ids(f"Stage {stage.name!r}", stage.untie, size, config.model)
    for task in config.validation:
        check_vocabulary(task, config.model)


def check_workdir(config: TrainConfig, workdir: str | None) -> None:
    """For a dry run: whether what the workdir holds is of this model."""
    if workdir and (folder(workdir) / "checkpoints").is_dir():
        with contextlib.closing(Checkpoints(workdir)) as checkpoints:
            if record := checkpoints.newest_record():
                check_same_model(record["model"], config.model, f"The workdir {workdir}")


def open_stages(config: TrainConfig) -> list[MixtureSequences]:
    """The sequences of every stage, whose token caches, and those of the validation, are made where they are missing."""
    opened = [
        MixtureSequences(
            stage.mixture, stage.seq_len, config.seed, config.data.cache_dir, salt=stage.name, untie=stage.untie
        )
        for stage in config.stages
    ]
    for task in config.validation:
        check_task(task, config.model, config.data.cache_dir)
    return opened
