"""Everything about a training run that is known before its first step and stays the same to its last."""

import dataclasses

import jax
import optax

from dots_jax.checkpoint.metadata import CheckpointMetadata, StageData
from dots_jax.cli.options import RunOptions
from dots_jax.config import Stage, TrainConfig, to_dict
from dots_jax.curriculum.mixture_use import declared_repeats, repeats, uses
from dots_jax.curriculum.stages import Schedule
from dots_jax.curriculum.token_ledger import TokenLedger
from dots_jax.data.corpus import Corpus
from dots_jax.data.sequences.mixture_sequences import MixtureSequences
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.batches import put_batch
from dots_jax.parallel.sharding import batch_sharding
from dots_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is prepared; its corpus is opened by `open_run`."""

    config: TrainConfig  # for these devices: the mesh is resolved
    options: RunOptions
    schedule: Schedule
    corpus: Corpus
    model_def: ModelDef
    optimizer: optax.GradientTransformation
    abstract: TrainState  # shapes, dtypes and shardings
    last_step: int  # where this process stops: the end of the schedule, or --max_steps
    peak_flops: float  # FLOP/s of one device
    peak_source: str  # where that number is from

    # --- what is due after a step; steps are counted from 1, as in metrics.jsonl ---

    def logs_after(self, step: int) -> bool:
        return step % self.config.log_every == 0 or step == self.last_step

    def saves_after(self, step: int) -> bool:
        return step % self.config.checkpoint.every_steps == 0 or step == self.last_step

    def validates_after(self, step: int) -> bool:
        every = self.config.validate_every
        due = step == self.schedule.num_steps or (every > 0 and step > 0 and step % every == 0)
        return due and self.config.validation != ()

    def samples_after(self, step: int) -> bool:
        """Step 0 is before the first."""
        every = self.config.samples.every_steps
        due = step == self.schedule.num_steps or (every > 0 and step % every == 0)
        return due and self.config.samples.prompts != ()

    def is_milestone(self, step: int) -> bool:
        checkpoint = self.config.checkpoint
        return self.schedule.is_milestone(step, checkpoint.every_steps, checkpoint.milestone_tokens)

    # --- the data ---

    def make_batch(self, step: int) -> dict[str, jax.Array]:
        """The global batch after `step` steps, on the devices."""
        plan = self.schedule.at(step)
        rows = self.corpus.sequences[plan.stage_index].rows
        sharding = batch_sharding(self.model_def.mesh)
        return put_batch(rows, plan.sequence, plan.batch_size, plan.stage.seq_len, sharding)

    @property
    def ledger(self) -> TokenLedger:
        return TokenLedger(self.schedule, self.corpus.sequences)

    def repeats(self) -> list[str]:
        """A warning for each source that is read more often than DataConfig.max_epochs."""
        return repeats(
            uses(self.schedule, self.corpus.rates, self.corpus.sizes, declared_repeats(self.config.data)),
            self.config.data.max_epochs,
        )

    # --- what a checkpoint says about itself ---

    def metadata(self, step: int) -> CheckpointMetadata:
        started = self.schedule.at(step - 1).stage_index + 1 if step else 0
        return CheckpointMetadata(
            step=step,
            model=self.config.model,
            position=self.schedule.position_before(step),
            tokens=self.schedule.tokens_before(step),
            data=tuple(map(self._stage_data, self.config.stages[:started], self.corpus.sequences)),
            exposure=self.ledger.stages(step),
            config=to_dict(self.config),
            gin=self.options.gin_text,
        )

    def _stage_data(self, stage: Stage, sequences: MixtureSequences) -> StageData:
        return StageData(
            name=stage.name,
            mixture=stage.mixture,
            rates={task: str(rate) for task, rate in sequences.rates.items()},
            seq_len=stage.seq_len,
            seed=self.config.seed,
            content=sequences.identity,
            untie=dataclasses.asdict(stage.untie) if stage.untie else None,
        )
