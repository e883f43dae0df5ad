"""The documents of a task, piece by piece: what one worker reads and tokenises at a time."""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from dots_jax.config import UserError
from dots_jax.data.cache.token_format import token_dtype
from dots_jax.data.registry import task_vocabulary
from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.sources.record_files import Malformed
from dots_jax.data.sources.text_task import plain_text_field
from dots_jax.data.tokenizers import vocabulary as vocabularies

_BATCH = 256  # texts that are encoded together


class Document(NamedTuple):
    """tokens: int [n + 1], closed by the end token. weights: 0 or 1 for each, of a weighted Task; else all are learned."""

    tokens: np.ndarray
    weights: np.ndarray | None = None


class Piece(NamedTuple):
    """A file of the source, or all of a source without files. name: without the folder. size: in bytes, 0 if unknown."""

    name: str
    size: int


def is_weighted(task: seqio.Task) -> bool:
    """Whether the Task says of each token if it is learned, in `weights` beside its `targets`, as chat_task.ChatTask."""
    return getattr(task, "weighted", False)


def pieces_of(task: seqio.Task, split: str) -> list[Piece]:
    """The pieces of a split, which together are all of it. Raises UserError for files that are not there."""
    if isinstance(task.source, FileSource):
        return [Piece(file.name, file.size) for file in task.source.files(split)]
    shards = task.source.list_shards(split)
    if isinstance(task.source, seqio.TfdsDataSource):
        return [Piece(PurePath(str(path)).name, tf.io.gfile.stat(str(path)).length) for path in shards]
    return [Piece(PurePath(str(shard)).name, 0) for shard in shards]


def documents_of(
    task: seqio.Task, split: str, index: int, num_pieces: int, on_malformed: Callable[[Malformed], None]
) -> Iterator[Document]:
    """Every document of piece `index`, in the order of the source. Raises UserError for one that breaks the rules."""
    vocabulary = task_vocabulary(task)
    field, what = plain_text_field(task), f"Task {task.name!r}, {split!r}"
    if isinstance(task.source, FileSource):
        file = task.source.files(split)[index]
        if field:
            yield from _encoded(_good(task.source.texts(file), on_malformed), vocabulary, what)
            return
        dataset = task.source.dataset([file], on_malformed)
    else:
        # As seqio's own caching does: as many shards as there are files is one file a shard.
        info = seqio.ShardInfo(index, num_pieces) if num_pieces > 1 else None
        dataset = task.source.get_dataset(split=split, shuffle=False, seed=None, shard_info=info)
        if field:
            yield from _encoded((example[field] for example in dataset.as_numpy_iterator()), vocabulary, what)
            return
    dataset = task.preprocess_postcache(task.preprocess_precache(dataset), sequence_length=None)
    for example in _examples(dataset.prefetch(tf.data.AUTOTUNE), task.name, split):
        tokens = _checked(example["targets"], vocabulary, what)
        yield Document(tokens, _checked_weights(example["weights"], tokens, what) if is_weighted(task) else None)


def _examples(dataset: tf.data.Dataset, task: str, split: str) -> Iterator[dict]:
    """The examples; a UserError of a Python function inside tf.data, which wraps it, is one again and names the split."""
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.OpError as error:
        sentence = re.search(r"\bUserError: (.*)", error.message)
        if not sentence:
            raise
        raise UserError(sentence[1].replace(f"Task {task!r}:", f"Task {task!r}, split {split!r}:", 1)) from None


def _good(texts: Iterable[bytes | Malformed], on_malformed: Callable[[Malformed], None]) -> Iterator[bytes]:
    for text in texts:
        if isinstance(text, Malformed):
            on_malformed(text)
        else:
            yield text


def _encoded(texts: Iterator[bytes], vocabulary: seqio.Vocabulary, what: str) -> Iterator[Document]:
    """The task's preprocessors, without the detour through tf.data. A batch is one array, since documents are short."""
    end, dtype = np.array([vocabulary.eos_id]), token_dtype(vocabulary.vocab_size)
    while batch := list(islice(texts, _BATCH)):
        ids = vocabularies.encode_batch(vocabulary, batch)
        together = np.concatenate([part for one in ids for part in (one, end)])
        together = _checked(together, vocabulary, what).astype(dtype)
        start = 0
        for one in ids:
            yield Document(together[start : start + len(one) + 1])
            start += len(one) + 1


def _checked(tokens: np.ndarray, vocabulary: seqio.Vocabulary, what: str) -> np.ndarray:
    if len(tokens) == 0 or tokens[-1] != vocabulary.eos_id:
        raise UserError(
            f"{what}: a document does not end with the end token {vocabulary.eos_id}: give its feature add_eos=True and append "
            "seqio.preprocessors.append_eos."
        )
    if tokens.min() < 0 or tokens.max() >= vocabulary.vocab_size:
        raise UserError(
            f"{what}: a document holds an id outside the vocabulary of {vocabulary.vocab_size}: check its preprocessors."
        )
    return tokens


def _checked_weights(weights: np.ndarray, tokens: np.ndarray, what: str) -> np.ndarray:
    if weights.shape != tokens.shape or not np.isin(weights, (0, 1)).all():
        raise UserError(
            f"{what}: a document has {len(weights)} weights for {len(tokens)} tokens: give each token one, 0 or 1."
        )
    return weights.astype(np.uint8)
