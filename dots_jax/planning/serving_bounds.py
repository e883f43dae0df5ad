"""What serving a model takes: memory, and bounds of tokens/s that no program can pass. Arithmetic alone, no arrays.

Weights are split over all chips and stay where they are. A decode step reads every weight that any row of the batch needs,
once, and all keys and values: memory bandwidth bounds it long before arithmetic does. Prefill is bounded by arithmetic.
"""

import dataclasses

from dots_jax.config import ModelConfig
from dots_jax.model.flops import count_parameters, flops_per_token
from dots_jax.parallel.topology import CHIPS, Chip

GIB = 2**30
ITEM_BYTES = {"bfloat16": 2, "float32": 4}
# Hosts to plan for: chip, chips, what it is called.
SLICES = (("v5e", 8, "v5e-8"), ("v6e", 8, "v6e-8"), ("v5p", 4, "v5p, one host"), ("v5p", 8, "v5p, two hosts"))


@dataclasses.dataclass(frozen=True)
class Serving:
    """Sizes in bytes, of all chips together. spare: the unused part of the chips' usable memory; below 0 it does not fit.
    max_batch: rows of that context for which there is room. decode, prefill: upper bounds in tokens/s, of all rows."""

    weights: float
    cache: float
    spare: float
    max_batch: int
    experts_read: float
    step_bytes: float
    decode: float
    prefill: float

    @property
    def fits(self) -> bool:
        return self.spare >= 0


def cache_bytes_per_token(c: ModelConfig, dtype: str) -> int:
    """Keys and values of one token in all layers."""
    return 2 * c.num_layers * c.num_heads * c.head_dim * ITEM_BYTES[dtype]


def experts_read(c: ModelConfig, batch: int) -> float:
    """How many experts of a layer at least one of `batch` tokens is expected to choose, where all are chosen alike."""
    return c.num_experts * (1 - (1 - c.experts_per_token / c.num_experts) ** batch)


def plan_serving(c: ModelConfig, chip: Chip, chips: int, batch: int, context: int, dtype: str = "bfloat16") -> Serving:
    """Serving `batch` rows, each with `context` tokens in the cache."""
    count, item = count_parameters(c), ITEM_BYTES[dtype]
    weights = item * count.total + 4 * count.router_biases
    row = context * cache_bytes_per_token(c, dtype)
    usable = chips * chip.usable_gib * GIB

    # Of the embedding a row each, of the routed experts those that were chosen, of all else everything.
    distinct = experts_read(c, batch)
    routed, embedding = count.parts["routed experts"], count.parts["embedding"]
    read = count.total - routed - embedding + batch * c.hidden_size + routed * distinct / c.num_experts
    step_bytes = item * read + batch * row
    # Forward is a third of training. Of a decode step every token sees the entire context: attention counts twice.
    attention = c.num_layers * 2 * context * c.num_heads * c.head_dim
    forward = flops_per_token(c, context) / 3
    step_seconds = max(step_bytes / (chips * chip.hbm), batch * (forward + attention) / (chips * chip.flops))
    return Serving(
        weights=weights,
        cache=batch * row,
        spare=usable - weights - batch * row,
        max_batch=max(0, int((usable - weights) // row)),
        experts_read=distinct,
        step_bytes=step_bytes,
        decode=batch / step_seconds,
        prefill=chips * chip.flops / forward,
    )


def serving_table(c: ModelConfig, batches=(1, 16, 64), contexts=(8192, 32768), dtype: str = "bfloat16") -> str:
    """The hosts of SLICES as rows, for each context that the model has."""
    count = count_parameters(c)
    lines = [
        f"Serving {count.total / 1e9:,.4g} B parameters ({count.active / 1e9:,.4g} B active) in {dtype}: upper bounds, from memory "
        "bandwidth for decoding",
        "and from arithmetic for prefill. GiB are of all chips together; tokens/s of all rows together.",
        f"{'':16}{'context':>8}{'batch':>7}{'experts':>9}{'weights':>9}{'cache':>8}{'spare':>10}{'fits':>6}{'rows':>7}"
        f"{'decode/s':>10}{'prefill/s':>11}",
    ]
    for name, chips, label in SLICES:
        for context in sorted({min(context, c.max_seq_len) for context in contexts}):
            for batch in batches:
                s = plan_serving(c, CHIPS[name], chips, batch, context, dtype)
                lines.append(
                    f"{label:16}{context:>8,}{batch:>7}{s.experts_read:>9.1f}{s.weights / GIB:>9,.1f}{s.cache / GIB:>8,.1f}"
                    f"{s.spare / GIB:>10,.1f}{'yes' if s.fits else 'no':>6}{s.max_batch:>7,}{s.decode:>10,.0f}{s.prefill:>11,.0f}"
                )
    lines.append(
        "experts: of each layer that a step reads, if all are chosen alike. rows: for which there is room at that context. "
        "Where it does not fit,\nthe tokens/s are those that the bandwidth of these chips would allow."
    )
    return "\n".join(lines)
