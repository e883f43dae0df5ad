"""Which experts a domain's tokens meet, and what the model loses on them.

The load of expert e on domain D is the tokens of D routed to e over the tokens of D (report, analysis of the mixture of
experts). Each token is routed to K experts, so a layer's loads sum to K, and an even load is K / E.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dots_jax.analysis.restored_model import RestoredModel
from dots_jax.config import UserError
from dots_jax.evaluation.score_step import jit_score_step
from dots_jax.parallel.batches import BATCH_KEYS

ROWS = 4  # sequences that are scored at a time


class DomainScore(NamedTuple):
    """load_LE: share of the domain's tokens that each expert of each layer got. loss: nats per token."""

    load_LE: np.ndarray
    loss: float
    tokens: int


def score_domains(
    model: RestoredModel, domains: Mapping[str, Sequence[int]], seq_len: int = 256
) -> dict[str, DomainScore]:
    """The model's loss and expert load on each domain's token ids, read in sequences of at most seq_len.

    Raises:
      UserError: a domain has fewer than two tokens, or an id outside the model's vocabulary.
    """
    seq_len = min(seq_len, model.config.max_seq_len)
    step = _step(model.definition, model.compute)
    scores = {}
    for name, ids in domains.items():
        ids = np.asarray(ids, np.int32)
        _check(name, ids, model.config.vocab_size)
        nll, load = 0.0, 0
        for batch in _batches(ids, seq_len):
            nll_BT, load_LE = step(model.params, model.router_bias, batch)
            nll, load = nll + np.asarray(nll_BT, np.float64).sum(), load + np.asarray(load_LE, np.int64)
        tokens = len(ids) - 1  # each but the last is read, and each but the first is to be told
        scores[name] = DomainScore(load / tokens, float(nll / tokens), tokens)
    return scores


# Compiled once for all the milestones of a run.
_step = functools.lru_cache(maxsize=8)(jit_score_step)


def specialisation(scores: Mapping[str, DomainScore]) -> np.ndarray:
    """How differently the domains use each layer's experts, [L]: the distance between two domains' loads (half the sum of
    absolute differences, over K), averaged over pairs. 0: all use the same experts; 1: no two share any."""
    loads = [score.load_LE / score.load_LE.sum(axis=1, keepdims=True) for score in scores.values()]
    if len(loads) < 2:
        raise UserError("Specialisation compares domains: give at least two.")
    return np.mean([0.5 * np.abs(a - b).sum(axis=1) for a, b in itertools.combinations(loads, 2)], axis=0)


def _check(name: str, ids: np.ndarray, vocab_size: int) -> None:
    if len(ids) < 2:
        raise UserError(f"The domain {name!r} has {len(ids)} token(s): two are the least that can be scored.")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise UserError(
            f"The domain {name!r} has the id {ids.max() if ids.max() >= vocab_size else ids.min()}, and the model's "
            f"vocabulary is {vocab_size}: is this the tokenizer that it was trained with?"
        )


def _batches(ids: np.ndarray, seq_len: int):
    """Batches of one shape; what is past the end of the text is padding, which counts neither as load nor as loss."""
    inputs, targets = ids[:-1], ids[1:]
    rows = -(-len(inputs) // seq_len)
    rows += -rows % ROWS
    padded = np.zeros((3, rows * seq_len), np.int32)
    padded[:, : len(inputs)] = inputs, targets, np.ones_like(inputs)
    tokens, targets, real = padded.reshape(3, rows, seq_len)
    positions = np.broadcast_to(np.arange(seq_len, dtype=np.int32), tokens.shape)
    arrays = dict(zip(BATCH_KEYS, (tokens, targets, positions, real, real.astype(np.float32))))
    for start in range(0, rows, ROWS):
        yield {name: array[start : start + ROWS] for name, array in arrays.items()}
