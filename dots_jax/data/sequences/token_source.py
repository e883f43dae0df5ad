"""The packed sequences of a Task as a seqio.DataSource.

So stock seqio can read exactly what training reads: `seqio.get_dataset` on a Task over this source, or seqio.Evaluator
(evaluation.py). Training itself asks for sequences by index, through the same object.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf

from dots_jax.data.cache.token_cache import open_stream
from dots_jax.data.cache.token_stream import TokenStream
from dots_jax.data.registry import get_task
from dots_jax.data.sequences import packing
from dots_jax.data.sequences.order import key, permute

# Sequences that cross from Python to tf.data at once: crossing one by one costs more than making them.
_BLOCK = 64


class TokenSource(seqio.DataSource):
    """A Task's token caches as packed sequences of seq_len tokens. Caches are made when a split is first used."""

    def __init__(self, task_name: str, seq_len: int, cache_dir: str | Path):
        self.task_name, self.seq_len, self.cache_dir = task_name, seq_len, cache_dir
        self._streams: dict[str, TokenStream] = {}
        super().__init__(splits=get_task(task_name).splits, caching_permitted=False)

    def stream(self, split: str) -> TokenStream:
        """The split as one stream of tokens, with random access to any slice of it."""
        if split not in self._streams:
            self._streams[split] = open_stream(self.task_name, split, self.cache_dir)
        return self._streams[split]

    def window(self, split: str, start_token: int, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int32 [num_tokens] of the stream, and the offsets of those that close a document."""
        return self.stream(split).window(start_token, num_tokens)

    def sequence(self, split: str, index: int) -> packing.Batch:
        """Packed sequence `index` of the split: packing.FEATURES, each [seq_len]."""
        return self.stream(split).sequence(index, self.seq_len)

    def num_input_examples(self, split: str) -> int:
        return self.stream(split).num_sequences(self.seq_len)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        return [split]

    def get_dataset(self, split="train", shuffle=True, seed=None, shard_info=None, **unused) -> tf.data.Dataset:
        """Examples: packing.FEATURES, each [seq_len]. Shard i of n reads sequences i, i + n, ... and nothing else."""
        total = self.num_input_examples(split)
        shard, num_shards = (shard_info.index, shard_info.num_shards) if shard_info else (0, 1)
        shuffle_key = key("TokenSource", seed if seed is None else int(seed))

        def blocks():
            for start in range(shard, total, num_shards * _BLOCK):
                indices = range(start, min(start + num_shards * _BLOCK, total), num_shards)
                yield packing.stack(
                    [self.sequence(split, permute(i, total, shuffle_key) if shuffle else i) for i in indices]
                )

        signature = {name: tf.TensorSpec([None, self.seq_len], dtype) for name, dtype in packing.FEATURES.items()}
        return tf.data.Dataset.from_generator(blocks, output_signature=signature).unbatch()
