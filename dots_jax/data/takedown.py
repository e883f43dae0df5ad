"""Documents that have to go: where they stand in the token caches of a run, and which of its steps learned them.

    find      the records of the sources whose field is in a list; from then on a document is known by a hash of its tokens
    spots     where the caches hold these documents, whatever source they are of: the ledger is `documents-*.u8` of each cache
    lessons   which steps of each stage took a sequence with such a document: the order is a function of (seed, index)

A source is read once, of the pieces with a listed record twice. Texts are not kept: the list for Source.exclude has their SHA-256.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import seqio

from dots_jax.config import UserError
from dots_jax.curriculum.stages import Schedule
from dots_jax.data.cache import token_format as fmt
from dots_jax.data.cache.token_cache import cache_directory, check_cache, is_made
from dots_jax.data.corpus import VALIDATION_SPLIT, Corpus
from dots_jax.data.registry import get_task, task_vocabulary
from dots_jax.data.sources.documents import Reading, documents_of, is_weighted, pieces_of
from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.sources.json_lines import Malformed
from dots_jax.data.sources.record_files import numbered_texts
from dots_jax.data.sources.record_text import LeftOut

Lists = tuple[tuple[str, str], ...]  # ((field, glob of lists), ...), as Source.exclude has them


@dataclasses.dataclass
class Found:
    """What the sources hold of the lists. hashes: `document_hash` of each. texts: their SHA-256, in hex. records: task -> listed
    records. without_field: task -> records that have not the field of a list. not_files: tasks that are read from no files."""

    hashes: set[int] = dataclasses.field(default_factory=set)
    texts: set[str] = dataclasses.field(default_factory=set)
    records: dict[str, int] = dataclasses.field(default_factory=dict)
    without_field: dict[str, int] = dataclasses.field(default_factory=dict)
    not_files: list[str] = dataclasses.field(default_factory=list)


class Spot(NamedTuple):
    """A document of a cache: tokens [start, end) of the stream, in chunks first..last of a file."""

    task: str
    split: str
    file: str
    document: int
    first_chunk: int
    last_chunk: int
    start: int
    end: int


class Lesson(NamedTuple):
    """A stage that learns from a spot. first_step: the first step that does, counted from 1. times: sequences of the stage."""

    stage: str
    spot: Spot
    first_step: int
    times: int


def splits_of(corpus: Corpus) -> list[tuple[str, str]]:
    """(task, split) of every token cache of a run, those of the validation last."""
    trained = sorted({task for data in corpus.stages for task in data.rates})
    return [(task, "train") for task in trained] + [(task, VALIDATION_SPLIT) for task in corpus.validation]


def find(splits: Iterable[tuple[str, str]], lists: Lists, on_piece: Callable[[str], None] = lambda name: None) -> Found:
    """The documents of the listed records. on_piece: gets the name of each piece that was read."""
    found = Found()
    for name, split in splits:
        task = get_task(name)
        if not isinstance(task.source, FileSource):
            found.not_files.append(name)
            continue
        found.records.setdefault(name, 0)
        pieces = pieces_of(task, split)
        for index, piece in enumerate(pieces):
            numbers = _listed(task, split, piece, lists, found)
            if numbers:
                _add_documents(task, split, index, pieces, numbers, found)
            on_piece(piece.name)
    return found


def _listed(task: seqio.Task, split: str, piece, lists: Lists, found: Found) -> set[int]:
    """The numbers of the listed records of a piece, as its reader counts them."""
    rule = dataclasses.replace(task.source.file_set(split, piece.name).rule, exclude=lists)
    path, numbers = task.source.path_of(split, piece.name), set()
    for number, text in numbered_texts(path, rule, conversations=is_weighted(task), span=piece.span):
        if isinstance(text, LeftOut) and text.reason.startswith("exclude by "):
            numbers.add(number)
        elif isinstance(text, Malformed) and text.reason in {f"no field {field!r}" for field, _ in lists}:
            found.without_field[task.name] = found.without_field.get(task.name, 0) + 1
    found.records[task.name] += len(numbers)
    return numbers


def _add_documents(task: seqio.Task, split: str, index: int, pieces: Sequence, numbers: set[int], found: Found) -> None:
    def takes(number: int, text: bytes) -> bool:
        if number in numbers:
            found.texts.add(hashlib.sha256(text).hexdigest())
        return number in numbers

    dtype = fmt.token_dtype(task_vocabulary(task).vocab_size)
    reading = Reading(on_malformed=lambda record: None, takes=takes)
    found.hashes |= {fmt.document_hash(one.tokens, dtype) for one in documents_of(task, split, index, pieces, reading)}


def spots(splits: Iterable[tuple[str, str]], cache_dir: str | Path, hashes: set[int]) -> list[Spot]:
    """Every document of the caches that has one of the hashes. Raises UserError for a cache that is not there, or has no ledger."""
    found, wanted = [], np.array(sorted(hashes), np.uint64)
    for name, split in splits:
        task = get_task(name)
        directory = cache_directory(task, split, cache_dir)
        if not is_made(directory):
            raise UserError(f"There is no token cache {directory}, of {name} {split}: make it with `dots cache`.")
        manifest = check_cache(task, split, directory)
        lengths, before = fmt.read_lengths(directory, manifest), 0
        for file in manifest.files:
            ledger = fmt.read_hashes(directory, file)
            if ledger is None or lengths is None:
                raise UserError(
                    f"The token cache {directory} has no {fmt.hashes_name(file['name'])}, since it was made before there were "
                    "such files: delete that folder, and `dots cache` makes it again."
                )
            found += _spots_of_file(
                name, split, file, np.flatnonzero(np.isin(ledger, wanted)), lengths, before, manifest
            )
            before += file["documents"]
    return found


def _spots_of_file(name, split, file: dict, documents, lengths: np.ndarray, before: int, manifest) -> list[Spot]:
    ends, found = np.cumsum(lengths[: before + file["documents"]]), []
    of_file = int(ends[before - 1]) if before else 0
    for document in documents.tolist():
        end = int(ends[before + document])
        start = end - int(lengths[before + document])
        chunks = [(token - of_file) // manifest.chunk_tokens for token in (start, end - 1)]
        found.append(Spot(name, split, file["name"], document, *chunks, start, end))
    return found


def lessons(corpus: Corpus, schedule: Schedule, found: Sequence[Spot]) -> list[Lesson]:
    """What the stages of an open corpus learn of the spots, by stage; spots of the validation are in none."""
    learned = []
    for number, (data, sequences) in enumerate(zip(corpus.stages, corpus.sequences)):
        length = schedule.stage_sequences_before(number, schedule.num_steps)
        for spot in found:
            if spot.split != "train" or spot.task not in data.rates:
                continue
            indices = sequences.indices(spot.task, spot.start, spot.end, length)
            if indices:
                learned.append(Lesson(data.stage.name, spot, schedule.step_of(number, indices[0]) + 1, len(indices)))
    return learned
