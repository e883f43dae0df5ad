"""What a training run does, over and above its model, data and devices."""

import dataclasses

from dots_jax.config.checks import check_types, expand_home, require, require_not_negative, require_positive
from dots_jax.config.compute import ComputeConfig
from dots_jax.config.curriculum import Stage
from dots_jax.config.data import DataConfig
from dots_jax.config.fit import check_batch, check_experts, check_seq_len
from dots_jax.config.mesh import MeshConfig
from dots_jax.config.model import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW as published (report, section 3).

    Weight decay acts on every matrix (embedding, projections, experts, router, head), never on norm weights. The router
    bias is not a gradient parameter: the optimizer does not touch it.
    """

    beta1: float = 0.9  # decay of the first moment; report
    beta2: float = 0.95  # decay of the second moment; report
    epsilon: float = 1e-8  # added to the root of the second moment; not published, our choice
    weight_decay: float = 0.1  # a step, times the learning rate; report
    clip_norm: float = 1.0  # largest global norm of the gradient; report
    init_std: float = 0.006  # of every matrix at the start; norms start at 1, router biases at 0; report

    def __post_init__(self):
        check_types(self)
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"OptimizerConfig.{name} must be in [0, 1), but is {value}.")
        require_positive(self, "epsilon", "clip_norm", "init_std")
        require_not_negative(self, "weight_decay")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    """Load balancing (report, section 2). The values are DeepSeek-V3's; dots.llm1's are not published."""

    expert_bias_update_rate: float = 0.001  # step of the router bias after each training step; 0: off
    sequence_aux_loss_coef: float = 1e-4  # weight (alpha) of the sequence-wise balance loss

    def __post_init__(self):
        check_types(self)
        require_not_negative(self, "expert_bias_update_rate", "sequence_aux_loss_coef")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What a run does about a step that went wrong. The defaults are our choice.

    A step with a non-finite loss or gradient changes nothing but the counters.
    """

    max_nonfinite: int = 10  # non-finite steps in a row that stop the run
    spike_nats: float = 1.0  # a finite loss this far above its running average is logged and counted as a spike

    def __post_init__(self):
        check_types(self)
        require_positive(self, "max_nonfinite", "spike_nats")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written and which are kept. The defaults are our choice."""

    every_steps: int = 500  # steps between checkpoints
    keep_last: int = 3  # newest checkpoints that are kept
    milestone_tokens: int = 0  # the first checkpoint past every multiple is kept for ever (report: 1T); 0: none is

    def __post_init__(self):
        check_types(self)
        require_positive(self, "every_steps", "keep_last")
        require_not_negative(self, "milestone_tokens")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """A window of steps that jax.profiler traces into WORKDIR/profile, for TensorBoard's profile plugin (XProf)."""

    first_step: int = 10  # the first traced step, counted from 1 as in metrics.jsonl; a process compiles in its first
    num_steps: int = 0  # traced steps, a few: a trace grows by some MB a step; 0: off

    def __post_init__(self):
        check_types(self)
        require_positive(self, "first_step")
        require_not_negative(self, "num_steps")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """Answers of the model while it learns, greedy, in WORKDIR/samples.jsonl."""

    prompts: tuple[
        str, ...
    ] = ()  # a user's messages where the first stage learns conversations, else texts to continue
    every_steps: int = 0  # before the first step and after every N steps; 0: at the end alone
    max_new_tokens: int = 128  # of an answer; our choice

    def __post_init__(self):
        check_types(self)
        require_not_negative(self, "every_steps")
        require_positive(self, "max_new_tokens")
        require("" not in self.prompts, "SamplesConfig.prompts holds an empty text: say what the model is asked.")
        require(
            self.every_steps == 0 or self.prompts != (),
            f"SamplesConfig.every_steps is {self.every_steps}, but SamplesConfig.prompts is empty: add one, or set it to 0.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that `dots train` needs."""

    model: ModelConfig
    stages: tuple[Stage, ...]  # one after the other; names differ
    compute: ComputeConfig = ComputeConfig()
    mesh: MeshConfig = MeshConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    balance: BalanceConfig = BalanceConfig()
    guard: GuardConfig = GuardConfig()
    data: DataConfig = DataConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    profile: ProfileConfig = ProfileConfig()
    samples: SamplesConfig = SamplesConfig()
    validation: tuple[str, ...] = ()  # seqio tasks that are scored when the run ends
    validate_every: int = 0  # and after every N steps; 0: only at the end
    validation_sequences: int = 0  # of each task at most; 0: all
    log_every: int = 10  # steps between rows of metrics
    seed: int = 0  # of the initial weights and the data order
    initial_checkpoint: str = (
        ""  # what `convert from_hf` wrote, or a workdir: weights to start from; empty: random ones
    )

    def __post_init__(self):
        check_types(self)
        require(len(self.stages) > 0, "TrainConfig.stages must hold at least one Stage.")
        names = [stage.name for stage in self.stages]
        require(len(set(names)) == len(names), f"TrainConfig.stages: names must differ, but are {names}.")
        require_positive(self, "log_every")
        require(0 <= self.seed < 2**31, f"TrainConfig.seed must be in [0, 2**31), but is {self.seed}.")
        require_not_negative(self, "validation_sequences", "validate_every")
        require(
            self.validate_every == 0 or self.validation != (),
            f"TrainConfig.validate_every is {self.validate_every}, but TrainConfig.validation names no task: name one, or "
            "set it to 0.",
        )
        expand_home(self, "initial_checkpoint")
        for stage in self.stages:
            check_seq_len(f"Stage {stage.name!r}", stage.seq_len, self.model)

    def for_devices(self, num_devices: int) -> "TrainConfig":
        """This run on that many devices: mesh resolved, experts and batches checked against it."""
        mesh = self.mesh.resolve(num_devices)
        check_experts(self.model, mesh)
        for stage in self.stages:
            for _, batch in stage.batch_tokens:
                check_batch(f"Stage {stage.name!r}", stage.microbatch_tokens or batch, stage.seq_len, mesh)
        return dataclasses.replace(self, mesh=mesh)
