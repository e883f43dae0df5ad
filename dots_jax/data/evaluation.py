"""Perplexity through seqio.Evaluator: the Task's own metric functions over its packed sequences."""

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf

from dots_jax.config import UserError
from dots_jax.data.metrics import language_model_metrics
from dots_jax.data.registry import check_split, get_task, task_vocabulary
from dots_jax.data.sequences import packing
from dots_jax.data.sequences.token_source import TokenSource
from dots_jax.data.tokenizers.vocabulary import token_byte_lengths, token_bytes

# [B, T] features -> (nats [B]: summed -log p of the weighted targets, tokens [B]: how many those were)
ScoreFn = Callable[[packing.Batch], tuple[np.ndarray, np.ndarray]]


def evaluate_task(
    task: str, split: str, seq_len: int, batch_size: int, cache_dir: str | Path, score_fn: ScoreFn,
    max_sequences: int = 0,
) -> dict[str, float]:  # fmt: skip
    """The metrics of a registered Task on one of its splits.

    Args:
      score_fn: called with batches of exactly batch_size rows, the last one filled up with rows of weight 0.
      max_sequences: of the split at most, from its beginning; 0 means all.

    Returns: what the Task's metric functions return; by default those of `language_model_metrics`. Of a task of conversations also
      `too_long`: how many of the split are longer than a sequence, so that they are not scored.
    """
    text_task = get_task(task)
    check_split(text_task, split)
    source = TokenSource(task, seq_len, cache_dir)
    stream = source.stream(split)  # made, or refused, before anything else
    with _registered(_packed_task(text_task, source)) as name:
        evaluator = seqio.Evaluator(
            name, _PackedFeatures(), split, num_examples=max_sequences or None, use_memory_cache=False,
            async_compute_metrics=False,
        )  # fmt: skip
        metrics, _ = evaluator.evaluate(
            compute_metrics=True, score_fn=lambda dataset: _score(dataset, batch_size, score_fn)
        )
        too_long = {"too_long": sum(stream.layout(seq_len).left_out.values())} if stream.weighted else {}
        return dict(metrics.result()[name]) | too_long


def byte_baselines(
    task: str, split: str, seq_len: int, cache_dir: str | Path, max_sequences: int = 0
) -> dict[str, float]:
    """What knowing nothing costs on the text that evaluate_task scores with the same arguments, in nats per byte.

    Returns: `uniform`, ln 256, and `unigram`, the entropy of the text's own byte frequencies.
    """
    stream = TokenSource(task, seq_len, cache_dir).stream(split)
    pieces = token_bytes(task_vocabulary(get_task(task)))
    num_sequences = stream.num_sequences(seq_len)
    token_counts = np.zeros(len(pieces), np.int64)
    for index in range(min(max_sequences, num_sequences) if max_sequences else num_sequences):
        sequence = stream.sequence(index, seq_len)
        np.add.at(token_counts, sequence["targets"][sequence["weights"] > 0], 1)
    byte_counts = np.zeros(256, np.int64)
    for token in np.flatnonzero(token_counts):
        np.add.at(byte_counts, np.frombuffer(pieces[token], np.uint8), token_counts[token])
    if byte_counts.sum() == 0:
        raise UserError(f"Task {task!r}: the first {max_sequences} sequences of {split!r} hold no text: take more.")
    shares = byte_counts[byte_counts > 0] / byte_counts.sum()
    return {"uniform": math.log(256), "unigram": float(-np.sum(shares * np.log(shares)))}


def _packed_task(text_task: seqio.Task, source: TokenSource) -> seqio.Task:
    """The text Task's metrics over its packed sequences."""
    lengths = tf.constant(token_byte_lengths(task_vocabulary(text_task)))

    @tf.autograph.experimental.do_not_convert  # nothing to convert, and trying takes seconds
    def count(example):
        counts = example["weights"] > 0
        return example | {
            "num_tokens": tf.math.count_nonzero(counts),
            "num_bytes": tf.reduce_sum(tf.boolean_mask(tf.gather(lengths, example["targets"]), counts)),
            "targets_pretokenized": "",  # else seqio decodes every target, and only up to the first EOS
        }

    def postprocess(text, example, is_target):
        del text, is_target
        return {"tokens": int(example["num_tokens"]), "bytes": int(example["num_bytes"])}

    return seqio.Task(
        f"{text_task.name}.packed_{source.seq_len}",
        source=source,
        preprocessors=[lambda dataset: dataset.map(count)],
        output_features={"targets": seqio.Feature(task_vocabulary(text_task))},
        postprocess_fn=postprocess,
        metric_fns=list(text_task.score_metric_fns) or [language_model_metrics],
    )


@contextlib.contextmanager
def _registered(task: seqio.Task) -> Iterator[str]:
    """Evaluator takes names only."""
    seqio.TaskRegistry.add_provider(task.name, task)
    try:
        yield task.name
    finally:
        seqio.TaskRegistry.remove(task.name)


class _PackedFeatures(seqio.PassThroughFeatureConverter):
    """Sequences come packed: nothing to convert. Evaluator reads these two attributes, which seqio's class lacks."""

    TASK_FEATURES = {"targets": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32)}
    pack = False


def _score(dataset: tf.data.Dataset, batch_size: int, score_fn: ScoreFn) -> list[tuple[int, float]]:
    """(index, log likelihood) of every sequence."""
    scores = []
    for indices, examples in dataset.batch(batch_size).as_numpy_iterator():
        batch = packing.pad_rows({name: examples[name] for name in packing.FEATURES}, batch_size)
        nats, tokens = (np.asarray(values, np.float64)[: len(indices)] for values in score_fn(batch))
        if not np.array_equal(tokens, examples["num_tokens"]):
            raise RuntimeError(f"score_fn counted {tokens} targets where the batch holds {examples['num_tokens']}.")
        scores += zip(indices.tolist(), (-nats).tolist())
    return scores
