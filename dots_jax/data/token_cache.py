"""Tokenises a seqio Task once into ArrayRecord chunks, and opens what was made.

A cache appears under its name only when it is whole: it is written beside it and renamed. One process builds at a time
(a lock that the system drops if the process dies) and the others wait and then use it.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf
import tqdm
from array_record.python import array_record_module

from dots_jax.config import UserError
from dots_jax.data import token_format as fmt
from dots_jax.data import vocabulary as vocabularies
from dots_jax.data.order import key
from dots_jax.data.registry import check_split, get_task, task_vocabulary
from dots_jax.data.token_stream import TokenStream

# Of the order of documents in the stream. Not the run's seed: the cache serves every run, whose own order is order.py.
DOCUMENT_ORDER_SEED = 0

# TensorFlow only moves text and integers here; it must not take an accelerator's memory from the model.
with contextlib.suppress(RuntimeError, ValueError):
    tf.config.set_visible_devices([], "GPU")


def open_stream(task_name: str, split: str, cache_dir: str | Path) -> TokenStream:
    """The token stream of a split of a registered Task; made first, with a progress bar, if it is not there.

    Raises UserError for an unknown task or split, an empty data set, a cache that is damaged or made with another
    vocabulary, and a folder or disk that cannot be written.
    """
    task = get_task(task_name)
    check_split(task, split)
    directory = cache_directory(task, split, cache_dir)
    if not directory.exists():
        with _write_errors(cache_dir), _one_builder(Path(cache_dir)):
            if not directory.exists():  # else another process made it while this one waited
                _build(task, split, Path(cache_dir), directory)
    manifest = fmt.Manifest.read(directory)
    expected = vocabularies.identity(task_vocabulary(task))
    if manifest.vocabulary != expected:
        raise UserError(
            f"The token cache {directory} was made with {manifest.vocabulary}, but task {task_name!r} now uses "
            f"{expected}: choose another DataConfig.cache_dir, or delete that folder."
        )
    if manifest.weighted != is_weighted(task):
        raise UserError(
            f"The token cache {directory} was made when task {task_name!r} "
            f"{'was' if manifest.weighted else 'was not'} one of conversations: delete that folder and it is made again."
        )
    return TokenStream(directory, manifest)


def is_weighted(task: seqio.Task) -> bool:
    """Whether the Task says of each token if it is learned, in `weights` beside its `targets`, as chat_task.ChatTask."""
    return getattr(task, "weighted", False)


def cache_directory(task: seqio.Task, split: str, cache_dir: str | Path) -> Path:
    """Where the cache of a split is. Another version of the source has another folder, so neither is taken for both."""
    source = re.sub(r"[^\w.-]+", "_", source_identity(task))
    return Path(cache_dir) / "tokens" / task.name / source / split


def source_identity(task: seqio.Task) -> str:
    """The data a Task reads: a source's own `identity`, the TFDS name, or else the kind of source."""
    source = task.source
    if hasattr(source, "identity"):
        return source.identity
    if isinstance(source, seqio.TfdsDataSource):
        return str(source.tfds_dataset.resolved_tfds_name())
    return type(source).__name__


def _build(task: seqio.Task, split: str, cache_dir: Path, directory: Path) -> None:
    if hasattr(task.source, "prepare_under"):
        task.source.prepare_under(cache_dir)
    vocabulary = task_vocabulary(task)
    documents, weights = _shuffled_documents(task, split, vocabulary)
    if sum(len(document) - 1 for document in documents) == 0:
        what = "no documents" if not documents else "only empty documents"
        raise UserError(f"Task {task.name!r} has {what} in its split {split!r}: there is nothing to learn from.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{split}.building-"
    for left_by_a_killed_build in directory.parent.glob(f"{prefix}*"):
        shutil.rmtree(left_by_a_killed_build, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix=prefix, dir=directory.parent))
    try:
        write_cache(
            building, documents, vocabulary, task=task.name, split=split, source=source_identity(task), weights=weights
        )
        building.chmod(0o755)  # mkdtemp's 0700 would hide the cache from other users
        building.rename(directory)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _shuffled_documents(
    task: seqio.Task, split: str, vocabulary: seqio.Vocabulary
) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
    """Every document, end token included, in the order of hash(seed, task, place in the source), so that neighbours
    in a sequence are unrelated whatever the order of the source; and their weights, if the Task has them."""
    dataset = task.get_dataset(None, split, shuffle=False, num_epochs=1, try_in_mem_cache=False)
    dtype = fmt.token_dtype(vocabulary.vocab_size)
    documents, weights = [], []
    progress = tqdm.tqdm(
        _examples(dataset, task.name, split), desc=f"tokenising {task.name} {split}", unit=" docs", disable=None
    )
    for number, example in enumerate(progress):
        tokens = example["targets"]
        if len(tokens) == 0 or tokens[-1] != vocabulary.eos_id:
            raise UserError(
                f"Task {task.name!r}: document {number} of {split!r} does not end with the end token "
                f"{vocabulary.eos_id}: give its feature add_eos=True and append seqio.preprocessors.append_eos."
            )
        if tokens.min() < 0 or tokens.max() >= vocabulary.vocab_size:
            raise UserError(
                f"Task {task.name!r}: document {number} of {split!r} holds an id outside the vocabulary of "
                f"{vocabulary.vocab_size}: check its preprocessors."
            )
        documents.append(tokens.astype(dtype))
        if is_weighted(task):
            weights.append(
                _checked_weights(example["weights"], tokens, f"Task {task.name!r}: document {number} of {split!r}")
            )
    order = sorted(range(len(documents)), key=lambda i: key(DOCUMENT_ORDER_SEED, task.name, i))
    return [documents[i] for i in order], [weights[i] for i in order] if is_weighted(task) else None


def _checked_weights(weights: np.ndarray, tokens: np.ndarray, at: str) -> np.ndarray:
    if weights.shape != tokens.shape or not np.isin(weights, (0, 1)).all():
        raise UserError(f"{at} has {len(weights)} weights for {len(tokens)} tokens: give each token one, 0 or 1.")
    return weights.astype(np.uint8)


def _examples(dataset: tf.data.Dataset, task: str, split: str) -> Iterator[dict]:
    """The examples; a UserError of a Python function inside tf.data, which wraps it, is one again and names the split."""
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.OpError as error:
        sentence = re.search(r"\bUserError: (.*)", error.message)
        if not sentence:
            raise
        raise UserError(sentence[1].replace(f"Task {task!r}:", f"Task {task!r}, split {split!r}:", 1)) from None


def write_cache(
    directory: Path, documents: Iterable[np.ndarray], vocabulary: seqio.Vocabulary, *, task: str, split: str,
    source: str, chunk_tokens: int = fmt.CHUNK_TOKENS, chunks_per_file: int = fmt.CHUNKS_PER_FILE,
    weights: Iterable[np.ndarray] | None = None,
) -> None:  # fmt: skip
    """Writes files and manifest into an empty directory.

    documents: int [tokens + 1] each, in stream order, each closed by its end token; ids are never interpreted.
    weights: 0 or 1 for each of their tokens; None: every token is learned.
    """
    dtype = fmt.token_dtype(vocabulary.vocab_size)
    lengths = _byte_lengths(vocabulary)
    num_documents = num_tokens = num_bytes = 0

    def counted():
        nonlocal num_documents, num_tokens, num_bytes
        for document in documents:
            num_documents += 1
            num_tokens += len(document)
            num_bytes += 0 if lengths is None else int(lengths[document].sum())
            yield document

    files = _write_files(directory, _chunks(counted(), dtype, chunk_tokens, weights), chunks_per_file)
    fmt.Manifest(
        format=fmt.FORMAT, task=task, split=split, source=source, vocabulary=vocabularies.identity(vocabulary),
        eos_id=vocabulary.eos_id, token_dtype=dtype, chunk_tokens=chunk_tokens, chunks_per_file=chunks_per_file,
        document_order_seed=DOCUMENT_ORDER_SEED, documents=num_documents, tokens=num_tokens,
        bytes=None if lengths is None else num_bytes, files=files, weighted=weights is not None,
    ).write(directory)  # fmt: skip


def _byte_lengths(vocabulary: seqio.Vocabulary) -> np.ndarray | None:
    try:
        return vocabularies.token_byte_lengths(vocabulary)
    except UserError:  # trains all the same; only bits per byte need it, and say so
        return None


def _chunks(
    documents: Iterable[np.ndarray], dtype: str, chunk_tokens: int, weights: Iterable[np.ndarray] | None = None
) -> Iterator[bytes]:
    """The stream cut into encoded chunks."""
    tokens, ends, filled = np.empty(chunk_tokens, dtype), [], 0
    bits = None if weights is None else np.empty(chunk_tokens, np.uint8)
    for document, its_bits in zip(documents, itertools.repeat(None) if weights is None else weights):
        done = 0
        while done < len(document):
            taken = min(len(document) - done, chunk_tokens - filled)
            tokens[filled : filled + taken] = document[done : done + taken]
            if bits is not None:
                bits[filled : filled + taken] = its_bits[done : done + taken]
            filled += taken
            done += taken
            if done == len(document):
                ends.append(filled - 1)
            if filled == chunk_tokens:
                yield fmt.encode_chunk(tokens, np.array(ends), bits)
                ends, filled = [], 0
    if filled:
        yield fmt.encode_chunk(tokens[:filled], np.array(ends), None if bits is None else bits[:filled])


def _write_files(directory: Path, chunks: Iterable[bytes], chunks_per_file: int) -> list[dict]:
    files, writer = [], None
    for number, chunk in enumerate(chunks):
        if number % chunks_per_file == 0:
            if writer is not None:
                writer.close()
            name = f"tokens-{len(files):05d}.array_record"
            writer = array_record_module.ArrayRecordWriter(str(directory / name), fmt.WRITER_OPTIONS)
            files.append({"name": name, "chunks": 0})
        writer.write(chunk)
        files[-1]["chunks"] += 1
    if writer is not None:
        writer.close()
    for file in files:
        with open(directory / file["name"], "rb") as f:
            file["sha256"] = hashlib.file_digest(f, "sha256").hexdigest()
            file["size"] = os.fstat(f.fileno()).st_size
    return files


@contextlib.contextmanager
def _one_builder(cache_dir: Path) -> Iterator[None]:
    cache_dir.mkdir(parents=True, exist_ok=True)
    with open(cache_dir / ".building.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _write_errors(cache_dir: str | Path) -> Iterator[None]:
    """A folder or disk that cannot be written becomes one sentence; trouble with reading the source stays what it is."""
    try:
        yield
    except OSError as error:
        inside = str(error.filename or "").startswith(str(cache_dir))
        if not inside and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        reason = error.strerror
    except (RuntimeError, tf.errors.ResourceExhaustedError) as error:  # how array_record and tf.io say it
        if "No space left" not in str(error) and "quota exceeded" not in str(error):
            raise
        reason = "No space left on device"
    else:
        return
    raise UserError(
        f"The token cache cannot be written under {cache_dir} ({reason}): free space there, make it writable, or set "
        "DataConfig.cache_dir to another folder."
    )
