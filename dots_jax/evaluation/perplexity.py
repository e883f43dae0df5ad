"""Loss, perplexity and bits per byte of a model on seqio tasks."""

import functools

import jax
import numpy as np

from dots_jax.config import ComputeConfig, ModelConfig
from dots_jax.data.corpus import VALIDATION_SPLIT, check_vocabulary, open_validation
from dots_jax.data.evaluation import byte_baselines, evaluate_task
from dots_jax.data.registry import get_task, task_vocabulary
from dots_jax.evaluation.score_step import jit_score_step
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.batches import put_batch
from dots_jax.parallel.sharding import batch_sharding


class Scorer:
    """Scores tasks with any parameters of one model; compiled once for each shape of batch."""

    def __init__(self, model_def: ModelDef, compute: ComputeConfig):
        self._sharding = batch_sharding(model_def.mesh)
        self._step = jit_score_step(model_def, compute)
        self._baselines = functools.cache(byte_baselines)  # of the text alone: the same at every validation of a run

    def evaluate(
        self, params: dict, router_bias: jax.Array, task: str, seq_len: int, batch_size: int, cache_dir: str, max_sequences: int
    ) -> dict[str, float]:  # fmt: skip
        """The task's own metrics on its validation split, and two baselines of the same text in nats per byte."""

        def score(batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            placed = put_batch(
                lambda rows: {k: v[list(rows)] for k, v in batch.items()}, 0, batch_size, seq_len, self._sharding
            )
            nll_BT, _ = self._step(params, router_bias, placed)
            return np.asarray(nll_BT, np.float64).sum(axis=1), batch["weights"].sum(axis=1)

        metrics = evaluate_task(task, VALIDATION_SPLIT, seq_len, batch_size, cache_dir, score, max_sequences)
        return metrics | self._baselines(task, VALIDATION_SPLIT, seq_len, cache_dir, max_sequences)


def check_task(task: str, model: ModelConfig, seq_len: int, cache_dir: str) -> None:
    """Refuses a task that `Scorer.evaluate` cannot score, makes its token cache, and says what of it is too long."""
    check_vocabulary("EvalConfig.tasks", task, task_vocabulary(get_task(task)), model)
    open_validation(task, seq_len, cache_dir)


def table(results: dict[str, dict[str, float]]) -> str:
    """Tasks as rows."""
    header = (
        f"{'task':<28}{'nats/byte':>10}{'bits/byte':>10}{'perplexity':>12}{'uniform':>10}{'unigram':>10}{'tokens':>12}"
    )
    rows = [
        f"{name:<28}{r['nats_per_byte']:>10.4f}{r['bits_per_byte']:>10.4f}{r['perplexity']:>12.4f}"
        f"{r['uniform']:>10.3f}{r['unigram']:>10.3f}{r['tokens']:>12,.0f}"
        for name, r in results.items()
    ]
    return "\n".join([header, *rows])
