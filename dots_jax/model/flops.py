"""How many parameters a config has and what a token costs, by arithmetic (no arrays are made)."""

import dataclasses

from dots_jax.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class ParameterCount:
    """parts: name -> trainable parameters. active: those that one token uses. router_biases: not trainable."""

    parts: dict[str, int]
    active: int
    router_biases: int

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def count_parameters(c: ModelConfig) -> ParameterCount:
    """Trainable parameters of the model, by part (`parameters.PARTS`)."""
    expert = 3 * c.hidden_size * c.expert_ffn_size
    parts = {
        "embedding": c.vocab_size * c.hidden_size,
        "attention": c.num_layers * 4 * c.hidden_size * c.num_heads * c.head_dim,
        "norms": (2 * c.num_layers + 1) * c.hidden_size + 2 * c.num_layers * c.head_dim,
        "dense feed-forward": 3 * c.hidden_size * c.dense_ffn_size,
        "routers": c.num_moe_layers * c.hidden_size * c.num_experts,
        "routed experts": c.num_moe_layers * c.num_experts * expert,
        "shared experts": c.num_moe_layers * 3 * c.hidden_size * c.shared_ffn_size,
        "head": c.hidden_size * c.vocab_size,
    }
    idle = c.num_moe_layers * (c.num_experts - c.experts_per_token) * expert
    return ParameterCount(parts, sum(parts.values()) - idle, c.num_moe_layers * c.num_experts)


def flops_per_token(c: ModelConfig, seq_len: int) -> float:
    """Floating-point operations of training on one token, forward and backward, without recomputation.

    Six for each active parameter that is a matrix factor (the embedding is looked up, not multiplied), plus causal
    attention, of which half the square is counted: 2 matmuls, forward once and backward twice. dots.llm1: 92.8e9 at 8K.
    """
    count = count_parameters(c)
    matrices = count.active - count.parts["embedding"] - count.parts["norms"]
    attention = c.num_layers * 2 * seq_len * c.num_heads * c.head_dim
    return 6.0 * matrices + 3.0 * attention
