"""The architecture."""

import dataclasses

from dots_jax.config.checks import check_types, require, require_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture. Every default is dots.llm1's, from the released config.json (report, section 2)."""

    vocab_size: int = 152_064  # token ids, the reserved ones included
    num_layers: int = 62  # layer 0 has a dense feed-forward, layers 1 .. num_layers - 1 are mixtures of experts
    hidden_size: int = 4096  # width of the residual stream
    num_heads: int = 32  # query heads of a layer, and as many key and value heads
    head_dim: int = 128  # width of a head
    dense_ffn_size: int = 10_944  # hidden width of layer 0's SwiGLU
    num_experts: int = 128  # routed experts of a layer
    experts_per_token: int = 6  # routed experts that a token uses in a layer
    expert_ffn_size: int = 1408  # hidden width of one expert's SwiGLU
    num_shared_experts: int = 2  # experts of a layer that every token uses
    routed_scaling_factor: float = 2.5  # factor on the weights of the routed experts, which sum to 1
    rope_theta: float = 10_000_000.0  # base of the rotary position embedding
    norm_epsilon: float = 1e-5  # added to the mean square in every RMSNorm
    max_seq_len: int = 32_768  # tokens of the longest sequence

    def __post_init__(self):
        check_types(self)
        require_positive(self, *(f.name for f in dataclasses.fields(self)))
        require(
            self.num_layers >= 2,
            f"ModelConfig.num_layers must be at least 2 (one dense layer, then experts), but is {self.num_layers}.",
        )
        require(self.head_dim % 2 == 0, f"ModelConfig.head_dim must be even for RoPE, but is {self.head_dim}.")
        require(
            self.experts_per_token <= self.num_experts,
            f"ModelConfig.experts_per_token ({self.experts_per_token}) must not exceed num_experts ({self.num_experts}).",
        )

    @property
    def num_moe_layers(self) -> int:
        return self.num_layers - 1

    @property
    def shared_ffn_size(self) -> int:
        """Hidden width of the shared experts, which are computed as one."""
        return self.num_shared_experts * self.expert_ffn_size


def dots_llm1() -> ModelConfig:
    """The released model: 142.77 B parameters, 14.0 B active per token."""
    return ModelConfig()


def tiny() -> ModelConfig:
    """The same architecture at a size for tests and laptops, with a byte vocabulary."""
    return ModelConfig(
        vocab_size=259, num_layers=3, hidden_size=32, num_heads=2, head_dim=16, dense_ffn_size=64,
        num_experts=8, experts_per_token=2, expert_ffn_size=16, num_shared_experts=2, rope_theta=10_000.0,
        max_seq_len=256,
    )  # fmt: skip


def to_dict(config) -> dict:
    """Any section as plain dicts and lists, for the JSON of a checkpoint."""
    return dataclasses.asdict(config)


def model_from_dict(fields: dict) -> ModelConfig:
    """The inverse of `to_dict` for the model section.

    Raises:
      UserError: naming the fields that this version does not know.
    """
    known = {f.name for f in dataclasses.fields(ModelConfig)}
    unknown = sorted(set(fields) - known)
    require(not unknown, f"The model section holds fields this version does not know: {', '.join(unknown)}.")
    return ModelConfig(**fields)
