"""The configuration of a run: frozen, typed dataclasses that check themselves.

Standard library only. `gin_cli` builds these from gin files; tests and notebooks build them in Python.
A value that cannot work raises `UserError` with one sentence that names the setting and the mend.
Every number of the report that is published is a default here or in `gin/`; what is not published says so.
"""

import dataclasses
import math
import types
import typing


class UserError(Exception):
    """Something the user can mend. Commands print the one sentence and exit with status 2."""


# --- checking ---------------------------------------------------------------------------------------------------


def _type_name(hint) -> str:
    if typing.get_origin(hint) is tuple:
        return (
            "a tuple of (" + ", ".join("..." if a is Ellipsis else _type_name(a) for a in typing.get_args(hint)) + ")"
        )
    if isinstance(hint, types.UnionType):
        return " or ".join(_type_name(a) for a in typing.get_args(hint))
    plain = {int: "a whole number", float: "a number", str: "a string", bool: "True or False", type(None): "None"}
    return plain.get(hint, getattr(hint, "__name__", str(hint)))


def _fits(value, hint) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_fits(value, a) for a in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        args = typing.get_args(hint)
        if not isinstance(value, tuple):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(_fits(v, args[0]) for v in value)
        return len(value) == len(args) and all(_fits(v, a) for v, a in zip(value, args))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint)


def _freeze(value):
    """gin writes sequences as lists or tuples; a frozen config holds tuples."""
    return tuple(_freeze(v) for v in value) if isinstance(value, (list, tuple)) else value


def _check_types(config) -> None:
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = _freeze(getattr(config, field.name))
        object.__setattr__(config, field.name, value)
        if not _fits(value, hints[field.name]):
            raise UserError(
                f"{type(config).__name__}.{field.name} must be {_type_name(hints[field.name])}, "
                f"but is {value!r} ({type(value).__name__}){_in_which(config, field.name)}."
            )


def _in_which(config, field: str) -> str:
    """Of several sections of one kind, the one that is meant."""
    name = getattr(config, "name", None)
    return f", in {type(config).__name__} {name!r}" if isinstance(name, str) and field != "name" else ""


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UserError(sentence)


def _require_positive(config, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value > 0, f"{type(config).__name__}.{name} must be above 0, but is {value}.")


def _require_one_of(config, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(config, name)
    _require(value in choices, f"{type(config).__name__}.{name} must be one of {', '.join(choices)}, but is {value!r}.")


# --- the model ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture (report, section 2; released config.json). Defaults are dots.llm1.

    Layer 0 has a dense SwiGLU feed-forward; layers 1 .. num_layers - 1 are mixtures of experts.
    """

    vocab_size: int = 152_064
    num_layers: int = 62
    hidden_size: int = 4096
    num_heads: int = 32
    head_dim: int = 128
    dense_ffn_size: int = 10_944
    num_experts: int = 128
    experts_per_token: int = 6
    expert_ffn_size: int = 1408
    num_shared_experts: int = 2
    routed_scaling_factor: float = 2.5
    rope_theta: float = 10_000_000.0
    norm_epsilon: float = 1e-5
    max_seq_len: int = 32_768

    def __post_init__(self):
        _check_types(self)
        _require_positive(self, *(f.name for f in dataclasses.fields(self)))
        _require(
            self.num_layers >= 2,
            f"ModelConfig.num_layers must be at least 2 (one dense layer, then experts), but is {self.num_layers}.",
        )
        _require(self.head_dim % 2 == 0, f"ModelConfig.head_dim must be even for RoPE, but is {self.head_dim}.")
        _require(
            self.experts_per_token <= self.num_experts,
            f"ModelConfig.experts_per_token ({self.experts_per_token}) must not exceed num_experts ({self.num_experts}).",
        )

    @property
    def num_moe_layers(self) -> int:
        return self.num_layers - 1

    @property
    def shared_ffn_size(self) -> int:
        return self.num_shared_experts * self.expert_ffn_size


def dots_llm1() -> ModelConfig:
    """The released model: 142.77 B parameters, 14.0 B active per token."""
    return ModelConfig()


def tiny() -> ModelConfig:
    """The same architecture at a size for tests and laptops; byte vocabulary."""
    return ModelConfig(
        vocab_size=259, num_layers=3, hidden_size=32, num_heads=2, head_dim=16, dense_ffn_size=64,
        num_experts=8, experts_per_token=2, expert_ffn_size=16, num_shared_experts=2, rope_theta=10_000.0,
        max_seq_len=256,
    )  # fmt: skip


# Results of a layer that remat can save, by the names that checkpoint_name gives them.
SAVEABLE = ("qkv", "attention", "attn_out", "routing", "dense_ffn_hidden", "expert_ffn_hidden")
LAYER_INPUT = "layer_input"
REMAT_POLICIES = {"none": (LAYER_INPUT, *SAVEABLE), "matmuls": SAVEABLE, "full": ()}
EXPERT_STRATEGIES = ("all_gather", "all_to_all", "gather_weights", "gather_weights_fused")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How the model is computed: speed, memory and rounding, never the architecture.

    `remat` selects which activations are saved on the device for the backward pass. `none` saves all, `full` only each
    layer's input, `matmuls` the results of matmuls; a tuple of SAVEABLE names saves those. On a CPU `matmuls` is fastest.

    `expert_strategy` is how tokens and experts come together over the `expert` mesh axis. `all_gather` sends all tokens
    to all devices of the axis: cheaper up to about `experts_per_token` devices. `all_to_all` sends each copy of a token to
    its expert's device. `gather_weights` sends the experts' weights to the tokens; the axis then only shards them.
    `gather_weights_fused` does that in one collective over all mesh axes, for a 2D torus (v5e, v6e) on which a device
    holds one expert or a part of one: fsdp 128 for dots.llm1.
    """

    dtype: str = (
        "bfloat16"  # of activations and of weights in matmuls; parameters, router, norms, softmax, loss: float32
    )
    remat: str | tuple[str, ...] = "full"
    expert_strategy: str = "all_gather"
    expert_capacity_factor: float = (
        1.25  # rows of one expert round over the balanced load; more rows: more rounds, no drops
    )
    loss_chunk_tokens: int = 1024  # tokens of one device whose logits exist at the same time; 0: all
    offload_optimizer: bool = (
        False  # Adam's moments wait in host memory: 8 bytes a parameter less, two transfers a step
    )
    offload_activations: tuple[str, ...] = ()  # `layer_input` or SAVEABLE names that wait in host memory

    def __post_init__(self):
        _check_types(self)
        _require_one_of(self, "dtype", ("bfloat16", "float32"))
        _require_one_of(self, "expert_strategy", EXPERT_STRATEGIES)
        results = ", ".join(SAVEABLE)
        _require(
            self.remat in REMAT_POLICIES if isinstance(self.remat, str) else {*self.remat} <= {*SAVEABLE},
            f"ComputeConfig.remat must be 'none', 'full', 'matmuls', or a tuple of names from {results}, but is {self.remat!r}.",
        )
        _require(
            self.offloaded <= {LAYER_INPUT, *SAVEABLE},
            f"ComputeConfig.offload_activations must be a tuple of names from {LAYER_INPUT}, {results}, but is "
            f"{self.offload_activations!r}.",
        )
        twice = " and ".join(sorted(self.saved & self.offloaded))
        sentence = f"ComputeConfig.remat = {self.remat!r} saves {twice} on the device:"
        _require(not twice, f"{sentence} name in ComputeConfig.offload_activations only what it does not save.")
        _require(
            self.expert_capacity_factor >= 1,
            f"ComputeConfig.expert_capacity_factor must be at least 1, but is {self.expert_capacity_factor}.",
        )
        _require(self.loss_chunk_tokens >= 0, "ComputeConfig.loss_chunk_tokens must not be negative.")

    @property
    def saved(self) -> frozenset[str]:
        """Names of activations that the backward pass finds on the device."""
        return frozenset(REMAT_POLICIES[self.remat] if isinstance(self.remat, str) else self.remat)

    @property
    def offloaded(self) -> frozenset[str]:
        """Names of activations that it finds in host memory."""
        return frozenset(self.offload_activations)

    @property
    def gathers_expert_weights(self) -> bool:
        """Weights move to the tokens, and no token leaves its device."""
        return self.expert_strategy.startswith("gather_weights")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each mesh axis; at most one may be -1, which takes all devices that are left.

    data: copies of the parameters. fsdp: shards of every parameter. expert: tokens travel over it to their experts.
    context: pieces of every sequence. The batch is split over the first three.
    """

    data: int = 1
    fsdp: int = -1
    expert: int = 1
    context: int = 1

    def __post_init__(self):
        _check_types(self)
        sizes = dataclasses.astuple(self)
        for field, size in zip(dataclasses.fields(self), sizes):
            _require(
                size > 0 or size == -1, f"MeshConfig.{field.name} must be above 0, or -1 for the rest, but is {size}."
            )
        _require(sizes.count(-1) <= 1, "MeshConfig: only one of data, fsdp, expert and context may be -1.")

    def resolve(self, num_devices: int) -> "MeshConfig":
        """The same mesh with -1 replaced; refuses a mesh that these devices cannot form."""
        sizes = dataclasses.asdict(self)
        known = math.prod(s for s in sizes.values() if s > 0)
        shape = " x ".join(f"{name} {size}" for name, size in sizes.items())
        _require(
            known <= num_devices,
            f"The mesh {shape} needs {known} devices, but there are {num_devices}: make an axis smaller, or use -1 for one.",
        )
        if -1 in sizes.values():
            _require(
                num_devices % known == 0,
                f"The mesh {shape} cannot use {num_devices} devices: {num_devices} is not a multiple of {known}.",
            )
            sizes = {name: num_devices // known if size == -1 else size for name, size in sizes.items()}
        return MeshConfig(**sizes)

    @property
    def size(self) -> int:
        return self.data * self.fsdp * self.expert * self.context

    def __str__(self) -> str:
        return " x ".join(f"{name} {size}" for name, size in dataclasses.asdict(self).items())


# --- the training run -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Untie:
    """Untie the knots (arXiv 2409.04774): a sequence's documents are cut into chunks, which are shuffled and tied by ids.

    The report uses it for 32K and publishes none of these; the defaults are the best of that paper's ablations.

    first_id: of the reserved ids, one after the other: 2 * (max_chunks - 1) knots, <D>, </D>, <S>, <s>, </S>. They lie
      outside the vocabulary and inside the model's vocab_size.
    probability: of a sequence to be knotted. min_chunks, max_chunks: of a document that is cut.
    keep_order: the chunks of one document stay in order among the others. backtrace: chunks carry random names, and
      their order is asked for at the document's end.
    reserve: share of a sequence that is kept free for what is inserted (our choice), so that no answer is cut off.
    """

    first_id: int
    probability: float = 0.8
    min_chunks: int = 2
    max_chunks: int = 3
    keep_order: bool = True
    backtrace: bool = True
    reserve: float = 1 / 16

    def __post_init__(self):
        _check_types(self)
        _require_positive(self, "first_id")
        _require(0 <= self.probability <= 1, f"Untie.probability must be in [0, 1], but is {self.probability}.")
        _require(
            2 <= self.min_chunks <= self.max_chunks,
            f"Untie.min_chunks must be at least 2 and at most max_chunks ({self.max_chunks}), but is {self.min_chunks}.",
        )
        _require(0 < self.reserve < 1, f"Untie.reserve must be between 0 and 1, but is {self.reserve}.")

    def window(self, seq_len: int) -> int:
        """Tokens of its source that a sequence of seq_len takes: what the reserve leaves, or all if nothing is knotted."""
        return seq_len - math.ceil(seq_len * self.reserve) if self.probability else seq_len

    @property
    def num_ids(self) -> int:
        return 2 * (self.max_chunks - 1) + 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One stretch of the curriculum (report, section 3).

    tokens: length of the stage. mixture: name of a seqio mixture or task.
    seq_len: tokens per packed sequence. batch_tokens: ((from, size), ...): from that many tokens into the stage on,
      a step takes `size` tokens; the first `from` is 0.
    microbatch_tokens: a step accumulates gradients over pieces of this many tokens; 0 means one piece.
    learning_rate_shape: `constant`, `linear` or `cosine` from learning_rate_start to learning_rate_end over the
      stage's tokens. warmup_steps: linear from 0 to learning_rate_start over the stage's first steps, after which the
      shape begins. untie: how documents are knotted; None leaves them as they are.
    """

    name: str
    tokens: int
    mixture: str
    seq_len: int
    batch_tokens: tuple[tuple[int, int], ...]
    learning_rate_start: float
    learning_rate_end: float
    learning_rate_shape: str = "constant"
    warmup_steps: int = 0
    microbatch_tokens: int = 0
    untie: Untie | None = None

    def __post_init__(self):
        _check_types(self)
        at = f"Stage {self.name!r}"
        _require(self.name.isidentifier(), f"{at}: the name must be a plain word, since metrics and folders carry it.")
        _require(self.mixture != "", f"{at}: mixture must name a seqio mixture or task.")
        _require_positive(self, "tokens", "seq_len", "learning_rate_start", "learning_rate_end")
        _require_one_of(self, "learning_rate_shape", ("constant", "linear", "cosine"))
        _require(
            self.learning_rate_shape != "constant" or self.learning_rate_start == self.learning_rate_end,
            f"{at}: a constant learning rate must end where it starts, but goes from {self.learning_rate_start} to "
            f"{self.learning_rate_end}: use linear or cosine.",
        )
        _require(self.warmup_steps >= 0, f"{at}: warmup_steps must not be negative.")
        _require(self.microbatch_tokens >= 0, f"{at}: microbatch_tokens must not be negative.")
        starts = [start for start, _ in self.batch_tokens]
        _require(
            bool(starts) and starts[0] == 0 and starts == sorted(set(starts)) and starts[-1] < self.tokens,
            f"{at}: batch_tokens must be ((0, size), (from, size), ...) with rising `from` inside the stage, "
            f"but is {self.batch_tokens}.",
        )
        for _, size in self.batch_tokens:
            _require(
                size > 0 and size % self.seq_len == 0,
                f"{at}: a batch of {size} tokens is not a whole number of sequences of {self.seq_len}.",
            )
            micro = self.microbatch_tokens or size
            _require(
                size % micro == 0 and micro % self.seq_len == 0,
                f"{at}: microbatch_tokens ({micro}) must divide the batch ({size}) and hold whole sequences of {self.seq_len}.",
            )
        _require(
            self.window_tokens > 0, f"{at}: Untie.reserve leaves no room in a sequence of {self.seq_len}: lower it."
        )

    @property
    def window_tokens(self) -> int:
        """Tokens of its source that one sequence takes."""
        return self.untie.window(self.seq_len) if self.untie else self.seq_len


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW as published (report, section 3); epsilon is not published and 1e-8 is our choice.

    Weight decay acts on every matrix (embedding, projections, experts, router, head), never on norm weights; the
    router bias is no gradient parameter and is outside the optimizer.
    init_std: of every matrix; norms start at 1, router biases at 0.
    """

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    init_std: float = 0.006

    def __post_init__(self):
        _check_types(self)
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"OptimizerConfig.{name} must be in [0, 1), but is {value}.")
        _require_positive(self, "epsilon", "clip_norm", "init_std")
        _require(self.weight_decay >= 0, "OptimizerConfig.weight_decay must not be negative.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    """Load balancing (report, section 2). The values are DeepSeek-V3's; dots.llm1's are not published."""

    expert_bias_update_rate: float = 0.001  # step of the router bias after each training step; 0: off
    sequence_aux_loss_coef: float = 1e-4  # weight (alpha) of the sequence-wise balance loss

    def __post_init__(self):
        _check_types(self)
        _require(self.expert_bias_update_rate >= 0, "BalanceConfig.expert_bias_update_rate must not be negative.")
        _require(self.sequence_aux_loss_coef >= 0, "BalanceConfig.sequence_aux_loss_coef must not be negative.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What a run does about a step that went wrong.

    A step with a non-finite loss or gradient changes nothing but the counters. max_nonfinite: that many in a row stop
    the run. spike_nats: a finite loss this far above its running average is counted and logged as a spike.
    """

    max_nonfinite: int = 10
    spike_nats: float = 1.0

    def __post_init__(self):
        _check_types(self)
        _require_positive(self, "max_nonfinite", "spike_nats")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One source of training data; it becomes the seqio Task `name`, which mixtures and stages name.

    tfds: a TFDS name with its version, as 'wikipedia/20230601.en:1.0.0', or files: ((split, glob), ...), as
      (('train', 'corpus/web-*.jsonl.zst'), ('validation', 'corpus/held-out.jsonl')). Exactly one of the two.
    splits: ((split, TFDS split), ...), as (('train', 'train[1%:]'), ('validation', 'train[:1%]')); empty: TFDS's own.
    where: (field, pattern): only the TFDS records whose field matches the whole pattern (RE2).
    field: of a record, where its text or its messages are. kind: `text`, or `conversation` (messages as JSON).
    language, group: for reports and pictures only; without a group the name is used. tokens: an estimate, for plans made
      before its token cache; 0 means unknown.
    """

    name: str
    tfds: str = ""
    files: tuple[tuple[str, str], ...] = ()
    splits: tuple[tuple[str, str], ...] = ()
    where: tuple[str, ...] = ()
    field: str = "text"
    kind: str = "text"
    language: str = ""
    group: str = ""
    tokens: int = 0

    def __post_init__(self):
        _check_types(self)
        at = f"Source {self.name!r}"
        _require(self.name.isidentifier(), f"{at}: the name must be a plain word, since folders and metrics carry it.")
        _require(
            (self.tfds != "") != (self.files != ()),
            f"{at}: set one of tfds and files, to say where its records are.",
        )
        _require(self.field != "", f"{at}: field must name the field of a record that holds its text.")
        _require(
            self.tfds != "" or self.splits == (), f"{at}: splits are for tfds; files name their splits themselves."
        )
        _require(
            self.where == () or (self.tfds != "" and len(self.where) == 2),
            f"{at}: where must be (field, pattern), and is for tfds; but is {self.where}.",
        )
        _require_one_of(self, "kind", ("text", "conversation"))
        _require(self.kind == "text" or self.where == (), f"{at}: where is for kind 'text'.")
        _require(self.tokens >= 0, f"{at}: tokens must not be negative.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
    """A seqio mixture. rates: ((task, rate), ...), whose proportions are shares of the tokens."""

    name: str
    rates: tuple[tuple[str, float], ...]

    def __post_init__(self):
        _check_types(self)
        at = f"Mixture {self.name!r}"
        _require(self.name.isidentifier(), f"{at}: the name must be a plain word.")
        _require(self.rates != (), f"{at}: rates must name at least one task.")
        names = [name for name, _ in self.rates]
        _require(len(set(names)) == len(names), f"{at}: rates name a task twice.")
        for name, rate in self.rates:
            _require(0 < rate < math.inf, f"{at}: the rate of {name!r} must be above 0, but is {rate}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the names in stages stand for.

    cache_dir: where token caches are. tasks_modules: Python modules whose import registers seqio tasks and mixtures.
    tokenizer: path of a Hugging Face tokenizer.json for the sources below; empty: bytes.
    sources, mixtures: registered as seqio tasks and mixtures when the run starts.
    max_epochs: a source that the plan reads more often than that is named before the run starts; 0 means no limit.
    """

    cache_dir: str = ".cache/dots_jax"
    tasks_modules: tuple[str, ...] = ("dots_jax.data.tasks",)
    tokenizer: str = ""
    sources: tuple[Source, ...] = ()
    mixtures: tuple[Mixture, ...] = ()
    max_epochs: float = 4.0

    def __post_init__(self):
        _check_types(self)
        _require(self.cache_dir != "", "DataConfig.cache_dir must name a folder.")
        _require(self.max_epochs >= 0, f"DataConfig.max_epochs must not be negative, but is {self.max_epochs}.")
        for kind in ("sources", "mixtures"):
            names = [one.name for one in getattr(self, kind)]
            twice = sorted({name for name in names if names.count(name) > 1})
            _require(not twice, f"DataConfig.{kind} names {', '.join(twice)} twice: give each a name of its own.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """every_steps: how often. keep_last: newest checkpoints kept. milestone_tokens: the first checkpoint past every
    multiple of this many tokens is kept for ever (the report: every 1T); 0 keeps none."""

    every_steps: int = 500
    keep_last: int = 3
    milestone_tokens: int = 0

    def __post_init__(self):
        _check_types(self)
        _require_positive(self, "every_steps", "keep_last")
        _require(self.milestone_tokens >= 0, "CheckpointConfig.milestone_tokens must not be negative.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything `python -m dots_jax.train` needs. validation: tasks scored when the run ends, `validation_sequences`
    sequences of each at most (0: all). log_every: steps between rows of metrics. initial_checkpoint: a folder of
    `convert from_hf`, or another run's workdir: a new run begins with its newest weights and router biases (fine-tuning),
    and with a new optimizer; empty: with random ones."""

    model: ModelConfig
    stages: tuple[Stage, ...]
    compute: ComputeConfig = ComputeConfig()
    mesh: MeshConfig = MeshConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    balance: BalanceConfig = BalanceConfig()
    guard: GuardConfig = GuardConfig()
    data: DataConfig = DataConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    validation: tuple[str, ...] = ()
    validation_sequences: int = 0
    log_every: int = 10
    seed: int = 0
    initial_checkpoint: str = ""

    def __post_init__(self):
        _check_types(self)
        _require(len(self.stages) > 0, "TrainConfig.stages must hold at least one Stage.")
        names = [stage.name for stage in self.stages]
        _require(len(set(names)) == len(names), f"TrainConfig.stages: names must differ, but are {names}.")
        _require_positive(self, "log_every")
        _require(0 <= self.seed < 2**31, f"TrainConfig.seed must be in [0, 2**31), but is {self.seed}.")
        _require(self.validation_sequences >= 0, "TrainConfig.validation_sequences must not be negative.")
        for stage in self.stages:
            check_seq_len(f"Stage {stage.name!r}", stage.seq_len, self.model)

    def for_devices(self, num_devices: int) -> "TrainConfig":
        """This run on so many devices: mesh resolved, experts and batches checked against it."""
        mesh = self.mesh.resolve(num_devices)
        check_experts(self.model, mesh)
        for stage in self.stages:
            for _, batch in stage.batch_tokens:
                check_batch(f"Stage {stage.name!r}", stage.microbatch_tokens or batch, stage.seq_len, mesh)
        return dataclasses.replace(self, mesh=mesh)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Everything `python -m dots_jax.eval` needs; the model comes from the checkpoint.

    checkpoint: `latest`, `all` (every one kept, milestones included) or a step number as a string.
    max_sequences: of each task at most; 0 means all.
    """

    tasks: tuple[str, ...]
    seq_len: int
    batch_tokens: int
    checkpoint: str = "latest"
    max_sequences: int = 0
    compute: ComputeConfig = ComputeConfig(remat="none")
    mesh: MeshConfig = MeshConfig()
    data: DataConfig = DataConfig()

    def __post_init__(self):
        _check_types(self)
        _require(len(self.tasks) > 0, "EvalConfig.tasks must name at least one task.")
        _require_positive(self, "seq_len", "batch_tokens")
        _require(self.max_sequences >= 0, "EvalConfig.max_sequences must not be negative.")
        _require(
            self.checkpoint in ("latest", "all") or self.checkpoint.isdecimal(),
            f"EvalConfig.checkpoint must be 'latest', 'all' or a step number, but is {self.checkpoint!r}.",
        )
        _require(
            self.batch_tokens % self.seq_len == 0,
            f"EvalConfig.batch_tokens ({self.batch_tokens}) is not a whole number of sequences of {self.seq_len}.",
        )

    def for_devices(self, model: ModelConfig, num_devices: int) -> "EvalConfig":
        """This evaluation of that model on so many devices: mesh resolved, everything checked against it."""
        mesh = self.mesh.resolve(num_devices)
        check_experts(model, mesh)
        check_seq_len("EvalConfig", self.seq_len, model)
        check_batch("EvalConfig", self.batch_tokens, self.seq_len, mesh)
        return dataclasses.replace(self, mesh=mesh)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Everything `python -m dots_jax.cache` needs.

    tasks: to tokenise; a mixture stands for all its tasks. splits: of each; empty: all that a task has.
    shards: files of each cache; 0: one for about every 512 MB of text. The stream is the same for any number.
    max_malformed: the share of records, from 0 to 1, above which the job stops. malformed_samples: of each cache, kept
      beside it. beam: flags for Apache Beam, as ('--runner=DataflowRunner', '--project=...'); empty: this machine.
    """

    tasks: tuple[str, ...]
    splits: tuple[str, ...] = ()
    shards: int = 0
    max_malformed: float = 0.01
    malformed_samples: int = 100
    beam: tuple[str, ...] = ()
    data: DataConfig = DataConfig()

    def __post_init__(self):
        _check_types(self)
        _require(len(self.tasks) > 0, "CacheConfig.tasks must name at least one task or mixture.")
        _require(self.shards >= 0, f"CacheConfig.shards must not be negative, but is {self.shards}.")
        _require(
            0 <= self.max_malformed <= 1, f"CacheConfig.max_malformed must be in [0, 1], but is {self.max_malformed}."
        )
        _require(self.malformed_samples >= 0, "CacheConfig.malformed_samples must not be negative.")
        for flag in self.beam:
            _require(flag.startswith("--"), f"CacheConfig.beam holds {flag!r}, but flags begin with --.")


def check_seq_len(where: str, seq_len: int, model: ModelConfig) -> None:
    _require(
        seq_len <= model.max_seq_len,
        f"{where}: seq_len {seq_len} is longer than ModelConfig.max_seq_len {model.max_seq_len}: shorten it, or raise the maximum.",
    )


def check_ids(where: str, untie: Untie, vocabulary_size: int, model: ModelConfig) -> None:
    last = untie.first_id + untie.num_ids - 1
    _require(
        vocabulary_size <= untie.first_id and last < model.vocab_size,
        f"{where}: untie's ids {untie.first_id} to {last} must lie outside the vocabulary, whose ids end at "
        f"{vocabulary_size - 1}, and below ModelConfig.vocab_size, {model.vocab_size}: set Untie.first_id to "
        f"{vocabulary_size} and vocab_size to {vocabulary_size + untie.num_ids} or more.",
    )


def check_experts(model: ModelConfig, mesh: MeshConfig) -> None:
    _require(
        model.num_experts % mesh.expert == 0,
        f"ModelConfig.num_experts ({model.num_experts}) must be a multiple of MeshConfig.expert ({mesh.expert}).",
    )


def check_batch(where: str, batch_tokens: int, seq_len: int, mesh: MeshConfig) -> None:
    sequences, ways = batch_tokens // seq_len, mesh.size // mesh.context
    _require(
        sequences % ways == 0,
        f"{where}: {batch_tokens} tokens are {sequences} sequences of {seq_len}, which cannot be split over "
        f"{ways} of the devices of the mesh ({mesh}): make the batch a multiple of {ways * seq_len} tokens.",
    )
    _require(
        mesh.context == 1 or seq_len % (2 * mesh.context) == 0,
        f"{where}: sequences of {seq_len} tokens cannot be split over MeshConfig.context = {mesh.context}: make the length a "
        f"multiple of {2 * mesh.context}.",
    )


def to_dict(config) -> dict:
    """A config as plain dicts and lists, for JSON beside a checkpoint."""
    return dataclasses.asdict(config)


def model_from_dict(fields: dict) -> ModelConfig:
    """The inverse of `to_dict` for the model section; unknown fields are refused by name."""
    known = {f.name for f in dataclasses.fields(ModelConfig)}
    unknown = sorted(set(fields) - known)
    _require(not unknown, f"The model section holds fields this version does not know: {', '.join(unknown)}.")
    return ModelConfig(**fields)
