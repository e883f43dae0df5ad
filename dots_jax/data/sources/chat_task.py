"""seqio Tasks whose documents are conversations, of which only the assistant's words are learned (chat.py: the template).

A document is one conversation and the end token. Packing puts several into a sequence, apart from each other, and has a rule
for those that are longer than a sequence (sequences/conversation_layout.py).
"""

import functools

import numpy as np
import seqio
import tensorflow as tf

from dots_jax.config import UserError
from dots_jax.data.metrics import language_model_metrics
from dots_jax.data.sources.conversations import formats
from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.tokenizers import chat

_RULES = 2  # of what is learned; a cache of conversations that other rules made is refused (code_identity.py)


class ChatTask(seqio.Task):
    """A Task whose examples have `weights` next to their `targets`, 0 or 1 for each: whether it is learned.

    They are no output feature, since seqio only mixes Tasks whose output features are the same, and text has none.
    """

    weighted = True  # token_cache reads it


def add_chat_task(
    name: str, source: seqio.DataSource, vocabulary: seqio.Vocabulary, field: str = "messages", default_system: str = ""
) -> None:  # fmt: skip
    """Registers a Task; a name that is registered already stays as it is, so that a second import does nothing.

    An example of the Task is `targets`, int32 [tokens of one conversation + 1], closed by the end token, and `weights`,
    int32 of the same length: 1 on the assistant's contents and their `<|endofresponse|>`, else 0.

    Args:
      vocabulary: a TokenizerVocabulary with dots.llm1's chat tokens; UserError for any other.
      field: of the source's examples, a string scalar: a JSON list of {"role", "content"}. A record that is malformed is
        left out of a token cache and counted; stock seqio, which cannot count, stops with a UserError that names it.
      default_system: the system message of conversations without one; empty: none.
    """
    if name in seqio.TaskRegistry.names():
        return
    if not hasattr(vocabulary, "special_id"):
        raise UserError(
            f"Task {name!r} is of conversations, for which {type(vocabulary).__name__} has no tokens: set "
            "DataConfig.tokenizer to a tokenizer.json."
        )
    for token in chat.CHAT_TOKENS:
        vocabulary.special_id(token)
    if isinstance(source, FileSource):
        source.conversations, source.default_system = True, default_system
    system = {"default_system": default_system} if default_system else {}  # without it, token caches keep their names
    encode = functools.partial(_encode, task=name, vocabulary=vocabulary, field=field, rules=_RULES, **system)
    task = ChatTask(
        name,
        source=source,
        preprocessors=[encode],
        output_features={"targets": seqio.Feature(vocabulary, add_eos=True)},
        metric_fns=[language_model_metrics],
    )
    seqio.TaskRegistry.add_provider(name, task)


def encode_record(
    record: bytes, number: int, *, task: str, vocabulary: seqio.Vocabulary, field: str, default_system: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """(targets, weights) of one record, end token included. Raises UserError if it is malformed."""
    try:
        return encode_messages(formats.from_text(record).messages, vocabulary, default_system)
    except chat.MalformedConversation as error:
        where = "" if error.complete else f"in its field {(error.field or field)!r} "
        raise UserError(
            f"Task {task!r}: record {number} (from 0) cannot be learned from, since {where}{error}: "
            "fix that record, or take it out."
        ) from None


def encode_messages(
    messages: list[dict], vocabulary: seqio.Vocabulary, default_system: str = ""
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(targets, weights) of the messages of conversations/formats.py."""
    ids, weights = chat.encode(chat.with_system(messages, default_system), vocabulary)
    return np.array([*ids, vocabulary.eos_id], np.int32), np.array([*weights, 0], np.int32)


def messages_field(task: seqio.Task) -> str | None:
    """The field of the source's examples with the messages, of a task of `add_chat_task` as it stands; else None."""
    steps = task.preprocessors
    return steps[0].keywords["field"] if [getattr(step, "func", step) for step in steps] == [_encode] else None


def default_system(task: seqio.Task) -> str:
    """The system message that a task of `add_chat_task` gives to conversations without one; empty: none."""
    return task.preprocessors[0].keywords.get("default_system", "") if messages_field(task) else ""


def question_id(task: seqio.Task) -> int:
    """The token that opens a message of the user, of a task of `add_chat_task`; else -1."""
    if messages_field(task) is None:
        return -1
    return task.output_features["targets"].vocabulary.special_id(chat.TURNS["user"][0])


def check_field(task: str, dataset: tf.data.Dataset, field: str) -> None:
    spec = dataset.element_spec.get(field)
    if spec is None or spec.dtype != tf.string or spec.shape.rank != 0:
        raise UserError(
            f"Task {task!r} looks for messages in the field {field!r}, which its records do not have as one text of JSON; "
            f"their fields are {', '.join(sorted(dataset.element_spec))}."
        )


def _encode(
    dataset: tf.data.Dataset, task: str, vocabulary: seqio.Vocabulary, field: str, rules: int, default_system: str = ""
) -> tf.data.Dataset:
    check_field(task, dataset, field)

    def encode(number, example):
        def in_python(record, number):
            return encode_record(
                record, int(number), task=task, vocabulary=vocabulary, field=field, default_system=default_system
            )

        targets, weights = tf.numpy_function(in_python, [example[field], number], (tf.int32, tf.int32), stateful=False)
        return {"targets": tf.ensure_shape(targets, [None]), "weights": tf.ensure_shape(weights, [None])}

    return dataset.enumerate().map(encode)
