"""The metric functions of a language-modelling Task, in seqio's form `metric_fn(targets, scores)`."""

import math
from collections.abc import Mapping, Sequence

import numpy as np


def language_model_metrics(targets: Sequence[Mapping[str, int]], scores: Sequence[float]) -> dict[str, float]:
    """Loss, perplexity and per-byte measures of packed sequences.

    Args:
      targets: of each sequence, `tokens`: number of targets, `bytes`: text bytes they stand for.
      scores: of each sequence, the log likelihood of its targets in nats.

    Returns: loss (nats per token, end tokens included), perplexity, nats_per_byte and bits_per_byte (all nats, those
      of end tokens included, over text bytes only), tokens, bytes, sequences.
    """
    nats = -float(np.sum(np.asarray(scores, np.float64)))
    tokens = sum(int(target["tokens"]) for target in targets)
    text_bytes = sum(int(target["bytes"]) for target in targets)
    loss = nats / tokens
    nats_per_byte = nats / text_bytes if text_bytes else math.nan
    return {
        "loss": loss,
        "perplexity": float(np.exp(loss)),
        "nats_per_byte": nats_per_byte,
        "bits_per_byte": nats_per_byte / math.log(2),
        "tokens": tokens,
        "bytes": text_bytes,
        "sequences": len(targets),
    }
