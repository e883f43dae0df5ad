"""seqio Tasks whose examples are documents of text.

`add_text_task` registers one over any seqio.DataSource with a text field; `register_text_task` one over a list of
documents in memory, for tests and small experiments:

    register_text_task("my_notes", {"train": ["first note", "second note"], "validation": ["a third"]})

and "my_notes" is then a name for Stage.mixture, TrainConfig.validation or a seqio.Mixture.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from dots_jax.data.metrics import language_model_metrics

BYTES = seqio.ByteVocabulary(extra_ids=0)  # 259 ids: pad 0, end of document 1, unknown 2, then the 256 bytes


def add_text_task(
    name: str,
    source: seqio.DataSource,
    vocabulary: seqio.Vocabulary = BYTES,
    text_field: str = "text",
    keep: Callable[[Mapping[str, tf.Tensor]], tf.Tensor] | None = None,
) -> None:
    """Registers a Task; a name that is registered already stays as it is, so that a second import does nothing.

    An example of the Task is `targets`, int32 [tokens of one document + 1], closed by the end token.

    Args:
      text_field: of the source's examples, a string scalar.
      keep: from an example of the source to a bool scalar; documents for which it is False are left out.
    """
    if name in seqio.TaskRegistry.names():
        return
    choose = [functools.partial(_filter, keep=keep)] if keep else []
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[
            *choose,
            functools.partial(_text_to_targets, text_field=text_field),
            functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False),
            seqio.preprocessors.append_eos,
        ],
        output_features={"targets": seqio.Feature(vocabulary, add_eos=True)},
        metric_fns=[language_model_metrics],
    )


def plain_text_field(task: seqio.Task) -> str | None:
    """The field whose text is a document of the task as it stands, if that is all its preprocessors do; else None."""
    steps = task.preprocessors
    functions = [getattr(step, "func", step) for step in steps]
    if functions != [_text_to_targets, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]:
        return None
    return steps[0].keywords["text_field"] if task.output_features["targets"].add_eos else None


def register_text_task(name: str, documents: Mapping[str, Sequence[str]], vocabulary: seqio.Vocabulary = BYTES) -> None:
    """Registers, or replaces, a Task over documents in memory. documents: split -> texts; no file or network is used."""
    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    add_text_task(name, DocumentsSource(documents), vocabulary)


def _filter(dataset: tf.data.Dataset, keep) -> tf.data.Dataset:
    return dataset.filter(keep)


def _text_to_targets(dataset: tf.data.Dataset, text_field: str) -> tf.data.Dataset:
    return dataset.map(lambda example: {"targets": example[text_field]})


class DocumentsSource(seqio.DataSource):
    """Documents in memory as examples {"text"}, in the order given."""

    def __init__(self, documents: Mapping[str, Sequence[str]]):
        self._documents = {split: [text.encode() for text in texts] for split, texts in documents.items()}
        super().__init__(splits=documents, num_input_examples={s: len(d) for s, d in self._documents.items()})

    @property
    def identity(self) -> str:
        """Names the content, so that a cache of other documents is never taken for this one's."""
        return "documents-" + hashlib.sha256(repr(sorted(self._documents.items())).encode()).hexdigest()[:16]

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        return [split]

    def get_dataset(self, split="train", shuffle=True, seed=None, shard_info=None, **unused) -> tf.data.Dataset:
        documents = self._documents[split]
        dataset = tf.data.Dataset.from_tensor_slices({"text": tf.constant(documents, tf.string, [len(documents)])})
        if shuffle:
            dataset = dataset.shuffle(max(1, len(documents)), seed=seed)
        return dataset.shard(shard_info.num_shards, shard_info.index) if shard_info else dataset
