"""What the commands other than training need."""

import dataclasses

from dots_jax.config.checks import check_types, require, require_not_negative, require_one_of, require_positive
from dots_jax.config.compute import ComputeConfig
from dots_jax.config.data import DataConfig
from dots_jax.config.fit import check_batch, check_experts, check_seq_len
from dots_jax.config.mesh import MeshConfig
from dots_jax.config.model import ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Everything that `dots eval` needs; the model comes from the checkpoint."""

    tasks: tuple[str, ...]  # seqio tasks whose validation splits are scored
    seq_len: int  # tokens of a packed sequence
    batch_tokens: int  # tokens of a step
    checkpoint: str = "latest"  # `latest`, `all` (every one kept, milestones included) or a step number as a string
    max_sequences: int = 0  # of each task at most; 0: all
    compute: ComputeConfig = ComputeConfig(remat="none")
    mesh: MeshConfig = MeshConfig()
    data: DataConfig = DataConfig()

    def __post_init__(self):
        check_types(self)
        require(len(self.tasks) > 0, "EvalConfig.tasks must name at least one task.")
        require_positive(self, "seq_len", "batch_tokens")
        require_not_negative(self, "max_sequences")
        require(
            self.checkpoint in ("latest", "all") or self.checkpoint.isdecimal(),
            f"EvalConfig.checkpoint must be 'latest', 'all' or a step number, but is {self.checkpoint!r}.",
        )
        require(
            self.batch_tokens % self.seq_len == 0,
            f"EvalConfig.batch_tokens ({self.batch_tokens}) is not a multiple of seq_len ({self.seq_len}).",
        )

    def for_devices(self, model: ModelConfig, num_devices: int) -> "EvalConfig":
        """This evaluation of that model on that many devices: mesh resolved, everything checked against it."""
        mesh = self.mesh.resolve(num_devices)
        check_experts(model, mesh)
        check_seq_len("EvalConfig", self.seq_len, model)
        check_batch("EvalConfig", self.batch_tokens, self.seq_len, mesh)
        return dataclasses.replace(self, mesh=mesh)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Everything that `dots cache` needs. The defaults are our choice."""

    tasks: tuple[str, ...]  # seqio tasks to tokenise; a mixture stands for all its tasks
    splits: tuple[str, ...] = ()  # of each task; empty: all that it has
    shards: int = 0  # files of each cache; 0: one for about every 512 MB of text; the stream does not depend on it
    max_malformed: float = 0.01  # share of records, 0 to 1, above which the job stops
    malformed_samples: int = 100  # malformed records of each cache that are kept next to it
    max_damaged_files: int = (
        0  # files of each cache that may break off or be damaged; what can be read of them is taken
    )
    source_check: str = (
        "checksum"  # how files of a cache that is there are compared: `checksum`: all bytes; `time`: cheaply
    )
    beam: tuple[
        str, ...
    ] = ()  # flags for Apache Beam: ('--runner=DataflowRunner', '--project=...'); empty: this machine
    data: DataConfig = DataConfig()

    def __post_init__(self):
        check_types(self)
        require(len(self.tasks) > 0, "CacheConfig.tasks must name at least one task or mixture.")
        require_not_negative(self, "shards", "malformed_samples", "max_damaged_files")
        require_one_of(self, "source_check", ("checksum", "time"))
        require(
            0 <= self.max_malformed <= 1, f"CacheConfig.max_malformed must be in [0, 1], but is {self.max_malformed}."
        )
        for flag in self.beam:
            require(flag.startswith("--"), f"CacheConfig.beam holds {flag!r}, but flags begin with --.")
