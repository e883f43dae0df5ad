"""The documents of a task, piece by piece: what one worker reads and tokenises at a time."""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from dots_jax.config import UserError
from dots_jax.config.records import RecordRule
from dots_jax.data.cache.token_format import token_dtype
from dots_jax.data.registry import task_vocabulary
from dots_jax.data.sources import chat_task, parts
from dots_jax.data.sources.content import Content, checksum, look_at, unchanged_since
from dots_jax.data.sources.conversations import formats
from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.sources.json_lines import DamagedFile, Malformed
from dots_jax.data.sources.record_files import numbered_texts
from dots_jax.data.sources.record_text import LeftOut, text_of
from dots_jax.data.sources.text_task import plain_text_field
from dots_jax.data.tokenizers import vocabulary as vocabularies
from dots_jax.data.tokenizers.chat import MalformedConversation

_BATCH = 256  # texts that are encoded together
_REASONS = 3  # that a message names
_SHOWN = 300  # characters of a malformed conversation that are kept


class Document(NamedTuple):
    """tokens: int [n + 1], closed by the end token. weights: 0 or 1 for each, of a weighted Task; else all are learned."""

    tokens: np.ndarray
    weights: np.ndarray | None = None


class Piece(NamedTuple):
    """A file of the source, a part of one, or all of a source without files. name: without the folder. size: in bytes, 0 if
    unknown. begin, end: of a part, its bytes; end 0: all of the file."""

    name: str
    size: int
    begin: int = 0
    end: int = 0

    @property
    def span(self) -> parts.Span | None:
        return (self.begin, self.end) if self.end else None


@dataclasses.dataclass
class Reading:
    """What reading a piece says, other than its documents.

    on_malformed: gets each record that cannot be used.
    left_out: setting of the source -> records that it leaves out. noted: what is not learned of conversations, or not as it
    stood -> conversations. content: of the piece's file, when it has been read; None if
    the piece is no file. damage: if the file cannot be read to its end. language: that the source states for the file.
    takes: of the number and text of a record, whether it is read, for who looks for a few; None: all are.
    """

    on_malformed: Callable[[Malformed], None]
    content: Content | None = None
    damage: DamagedFile | None = None
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)
    language: str = ""
    noted: Counter[str] = dataclasses.field(default_factory=Counter)
    takes: Callable[[int, bytes], bool] | None = None


def commonest(counts: Mapping[str, int]) -> str:
    """The commonest reasons of malformed records, with their numbers."""
    first = sorted(counts, key=lambda reason: (-counts[reason], reason))
    shown = [f"{counts[reason]:,} times {reason}" for reason in first[:_REASONS]]
    rest = sum(counts[reason] for reason in first[_REASONS:])
    return ", ".join(shown + ([f"{rest:,} for other reasons"] if rest else []))


def is_weighted(task: seqio.Task) -> bool:
    """Whether the Task says of each token if it is learned, in `weights` next to its `targets`, as chat_task.ChatTask."""
    return getattr(task, "weighted", False)


def pieces_of(task: seqio.Task, split: str) -> list[Piece]:
    """The pieces of a split, which together are all of it. Raises UserError for files that are not there."""
    if isinstance(task.source, FileSource):
        files, pieces = task.source.files(split), []
        for file, spans in zip(files, parts.spans_of((file.path, file.size) for file in files)):
            pieces += [Piece(file.name, end - begin, begin, end) for begin, end in spans] or [
                Piece(file.name, file.size)
            ]
        return pieces
    shards = task.source.list_shards(split)
    if isinstance(task.source, seqio.TfdsDataSource | seqio.FileDataSource):
        return [Piece(PurePath(str(path)).name, tf.io.gfile.stat(str(path)).length) for path in shards]
    return [Piece(PurePath(str(shard)).name, 0) for shard in shards]


def user_field(task: seqio.Task) -> str | None:
    """The field of a record that the task reads, as the user calls it; None if its preprocessors alone know."""
    if isinstance(task.source, FileSource):
        return task.source.shown_field
    return plain_text_field(task) or chat_task.messages_field(task)


def paths_of(task: seqio.Task, split: str) -> dict[str, str]:
    """Name of a piece -> its file, of sources whose files are the user's own; a TFDS data set has a version instead."""
    if isinstance(task.source, FileSource):
        return {file.name: file.path for file in task.source.files(split)}
    if isinstance(task.source, seqio.FileDataSource):
        return {PurePath(str(path)).name: str(path) for path in task.source.list_shards(split)}
    return {}


def documents_of(
    task: seqio.Task, split: str, index: int, pieces: Sequence[Sequence], reading: Reading
) -> Iterator[Document]:
    """Every document of pieces[index], in the order of the source; what else there is to say goes to `reading`.

    Raises UserError for a document that breaks the rules of its task.
    """
    vocabulary, what, piece = task_vocabulary(task), f"Task {task.name!r}, {split!r}", Piece(*pieces[index])
    text_field, messages_field = plain_text_field(task), chat_task.messages_field(task)
    if isinstance(task.source, FileSource):
        texts = _file_texts(task, split, piece, reading)
        if not text_field and not messages_field:
            dataset = task.source.dataset([(text for _, text in texts)])
    else:
        # As seqio's own caching does: as many shards as there are files is one file a shard.
        info = seqio.ShardInfo(index, len(pieces)) if len(pieces) > 1 else None
        path = paths_of(task, split).get(piece.name)
        reading.content = checksum(path) if path else None
        dataset = task.source.get_dataset(split=split, shuffle=False, seed=None, shard_info=info)
        if messages_field:
            chat_task.check_field(task.name, dataset, messages_field)
        if text_field or messages_field:
            texts = _example_texts(dataset, text_field or messages_field, what, task.name, split)
    if text_field:
        encoded = _encoded(_good(texts, reading), vocabulary, what)
        if isinstance(task.source, FileSource):
            encoded = _of_length(encoded, task.source.file_set(split, pieces[index][0]).rule, reading)
        yield from encoded
    elif messages_field:
        system = chat_task.default_system(task)
        yield from _conversations(texts, vocabulary, user_field(task), system, reading)
    else:
        dataset = task.preprocess_postcache(task.preprocess_precache(dataset), sequence_length=None)
        for example in _examples(dataset.prefetch(tf.data.AUTOTUNE), what, task.name, split):
            tokens = _checked(example["targets"], vocabulary, what)
            yield Document(tokens, _checked_weights(example["weights"], tokens, what) if is_weighted(task) else None)


def _file_texts(
    task: seqio.Task, split: str, piece: Piece, reading: Reading
) -> Iterator[tuple[int, bytes | Malformed]]:
    """The numbered texts of a file or a part of one, whose content is known at the end."""
    before, digest = look_at(task.source.path_of(split, piece.name)), hashlib.sha256()
    plain = plain_text_field(task) or chat_task.messages_field(task)
    try:
        files = task.source.file_set(split, piece.name)
        reading.language = files.language
        texts = numbered_texts(before.path, files.rule, conversations=is_weighted(task), digest=digest, span=piece.span)
        for number, text in texts:
            if isinstance(text, LeftOut):
                reading.left_out[text.reason] += text.records
            elif not plain and isinstance(text, Malformed):  # tf.data has no place for it
                reading.on_malformed(text)
            elif reading.takes is None or isinstance(text, Malformed) or reading.takes(number, text):
                yield number, text
    except DamagedFile as error:
        reading.damage = error
    content = unchanged_since(before, digest.hexdigest())
    reading.content = content._replace(spans=(piece.span,) if piece.span else ())


def _example_texts(
    dataset: tf.data.Dataset, field: str, what: str, task: str, split: str
) -> Iterator[tuple[int, bytes | Malformed]]:
    """The numbered texts of a source's examples, under the rules of files."""
    spec = dataset.element_spec.get(field)
    if spec is None or spec.dtype != tf.string or spec.shape.rank != 0:
        raise UserError(
            f"{what}: its records have no field {field!r} that is one text; their fields are "
            f"{', '.join(sorted(dataset.element_spec))}."
        )
    for number, example in enumerate(_examples(dataset, what, task, split), start=1):
        text = text_of(example[field], field)
        yield number, text._replace(number=number) if isinstance(text, Malformed) else text


def _examples(dataset: tf.data.Dataset, what: str, task: str, split: str) -> Iterator[dict]:
    """The examples; a UserError of a Python function inside tf.data, which wraps it, is one again and names the split."""
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.DataLossError as error:
        reason = " ".join(error.message.split())[:200].rstrip(".")
        raise UserError(f"{what}: its source cannot be read to its end ({reason}): make the data set again.") from None
    except tf.errors.OpError as error:
        sentence = re.search(r"\bUserError: (.*)", error.message)
        if not sentence:
            raise
        raise UserError(sentence[1].replace(f"Task {task!r}:", f"Task {task!r}, split {split!r}:", 1)) from None


def _good(texts: Iterable[tuple[int, bytes | Malformed]], reading: Reading) -> Iterator[bytes]:
    for _, text in texts:
        if isinstance(text, Malformed):
            reading.on_malformed(text)
        else:
            yield text


def _conversations(
    texts: Iterable[tuple[int, bytes | Malformed]], vocabulary: seqio.Vocabulary, field: str, default_system: str,
    reading: Reading,
) -> Iterator[Document]:  # fmt: skip
    """The preprocessor of a chat task, which counts what it leaves out. field: as the user calls it."""
    for number, text in texts:
        if isinstance(text, Malformed):
            reading.on_malformed(text)
            continue
        try:
            found = formats.from_text(text)
        except MalformedConversation as error:
            shown = f"{error}: {text.decode(errors='replace')}"[:_SHOWN]
            reading.on_malformed(Malformed(error.counted(field), shown, number))
        else:
            reading.noted.update(found.noted)
            yield Document(*chat_task.encode_messages(found.messages, vocabulary, default_system))


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


def _of_length(documents: Iterator[Document], rule: RecordRule, reading: Reading) -> Iterator[Document]:
    """Those that the rule's limits of tokens take."""
    for document in documents:
        broken = rule.refused_length("tokens", len(document.tokens) - 1)
        if broken:
            reading.left_out[broken] += 1
        else:
            yield document


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
