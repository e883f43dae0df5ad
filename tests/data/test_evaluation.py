"""Perplexity and bits per byte through seqio.Evaluator."""

import math

import numpy as np
import pytest
import seqio

from dots_jax.config import UserError
from dots_jax.data import evaluation
from dots_jax.data.metrics import language_model_metrics
from dots_jax.data.sequences.mixture_sequences import SplitSequences
from dots_jax.data.sources.text_task import register_text_task

TEXTS = ["hello world", "", "你好", "abc" * 30, "the end"]
TASK = "evaluation_test"
SEQ_LEN = 16


@pytest.fixture(scope="module", autouse=True)
def task():
    register_text_task(TASK, {"train": ["x"], "validation": TEXTS})
    yield
    seqio.TaskRegistry.remove(TASK)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def nats_of(target):
    """A pretend model: the cost of a target depends on its id."""
    return 0.5 + target / 100


def score(batch):
    assert all(values.shape == (4, SEQ_LEN) for values in batch.values())
    return (nats_of(batch["targets"]) * batch["weights"]).sum(-1), batch["weights"].sum(-1)


@pytest.mark.parametrize("max_sequences", [0, 1, 3, 1000])
def test_measures_of_the_evaluated_part(cache, max_sequences):
    split = SplitSequences(TASK, "validation", SEQ_LEN, cache)
    used = min(max_sequences or len(split), len(split))
    batch = split.rows(range(used))
    targets = batch["targets"][batch["weights"] > 0]
    nats, text_bytes = nats_of(targets).sum(), (targets >= 3).sum()
    got = evaluation.evaluate_task(TASK, "validation", SEQ_LEN, 4, cache, score, max_sequences)
    assert got["tokens"] == len(targets) and got["bytes"] == text_bytes and got["sequences"] == used
    assert got["loss"] == pytest.approx(nats / len(targets), rel=1e-6)
    assert got["perplexity"] == pytest.approx(math.exp(nats / len(targets)), rel=1e-6)
    assert got["nats_per_byte"] == pytest.approx(nats / text_bytes, rel=1e-6)
    assert got["bits_per_byte"] == pytest.approx(nats / text_bytes / math.log(2), rel=1e-6)
    if used == len(split):
        assert got["bytes"] == sum(len(text.encode()) for text in TEXTS)
        assert got["tokens"] == got["bytes"] + len(TEXTS)
    assert not any("packed" in name for name in seqio.TaskRegistry.names())


def test_baselines(cache):
    counts = np.bincount(np.frombuffer("".join(TEXTS).encode(), np.uint8))
    shares = counts[counts > 0] / counts.sum()
    got = evaluation.byte_baselines(TASK, "validation", SEQ_LEN, cache)
    assert got == {"uniform": math.log(256), "unigram": pytest.approx(-(shares * np.log(shares)).sum())}
    part = evaluation.byte_baselines(TASK, "validation", SEQ_LEN, cache, max_sequences=1)
    assert part["unigram"] != got["unigram"]


def test_a_task_brings_its_own_metrics(cache):
    def worst(targets, scores):
        return {"worst_sequence": -min(scores), "sequences": len(targets)}

    task = seqio.TaskRegistry.get(TASK)
    seqio.TaskRegistry.add_provider("with_metric", task.replace(name="with_metric", metric_fns=[worst]))
    try:
        got = evaluation.evaluate_task("with_metric", "validation", SEQ_LEN, 4, cache, score)
        assert got.keys() == {"worst_sequence", "sequences"} and got["worst_sequence"] > 0
    finally:
        seqio.TaskRegistry.remove("with_metric")


def test_a_score_function_that_miscounts_is_caught(cache):
    with pytest.raises(RuntimeError, match="counted"):
        evaluation.evaluate_task(TASK, "validation", SEQ_LEN, 4, cache, lambda b: (np.zeros(4), np.zeros(4)))
    assert not any("packed" in name for name in seqio.TaskRegistry.names())


def test_unknown_task_or_split(cache):
    with pytest.raises(UserError, match="No seqio task"):
        evaluation.evaluate_task("nonsense", "validation", SEQ_LEN, 4, cache, score)
    with pytest.raises(UserError, match="no split 'test'"):
        evaluation.evaluate_task(TASK, "test", SEQ_LEN, 4, cache, score)


def test_metrics_by_hand():
    targets = [{"tokens": 3, "bytes": 2}, {"tokens": 1, "bytes": 0}]
    got = language_model_metrics(targets, [-2.0, -1.0])
    assert got["loss"] == 0.75 and got["nats_per_byte"] == 1.5 and got["sequences"] == 2


def test_a_vocabulary_that_cannot_count_bytes_is_named(cache):
    from dots_jax.data.tokenizers.vocabulary import token_bytes

    assert [len(b) for b in token_bytes(seqio.ByteVocabulary(extra_ids=2))] == [0, 0, 0] + [1] * 256 + [0, 0]
    with pytest.raises(UserError, match="PassThroughVocabulary.*token_bytes"):
        token_bytes(seqio.PassThroughVocabulary(10))
