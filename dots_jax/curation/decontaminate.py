"""The step `decontamination`: documents that share n-grams of 13 words with the texts of benchmarks go. Off by default.

Words are those of near-duplicates: normalised, Han characters cut by jieba; an n-gram is a 64-bit hash. A text of fewer words
than n has no n-gram and is counted, since it would match everything. Also for lists of samples to keep in fine-tuning data.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from dots_jax.config import CurateConfig, UserError
from dots_jax.curation.minhash import ngram_hashes
from dots_jax.curation.protocol import Verdict
from dots_jax.curation.record import Document, Record, removal
from dots_jax.storage import open_file


class NGrams(NamedTuple):
    """Of all benchmark texts. hashes: sorted uint64, distinct. short: texts without an n-gram."""

    n: int
    hashes: np.ndarray
    texts: int
    short: int


def collect(texts: Iterable[str], n: int = 13) -> NGrams:
    """The n-grams to look for."""
    found, number, short = [np.empty(0, np.uint64)], 0, 0
    for text in texts:
        grams = ngram_hashes(text, n)
        number += 1
        short += len(grams) == 0
        found.append(grams)
    return NGrams(n, np.unique(np.concatenate(found)), number, short)


def hits(text: str, ngrams: NGrams) -> int:
    """How many different n-grams of the text stand in the benchmarks."""
    if len(ngrams.hashes) == 0:
        return 0
    grams = np.unique(ngram_hashes(text, ngrams.n))
    places = np.minimum(np.searchsorted(ngrams.hashes, grams), len(ngrams.hashes) - 1)
    return int((ngrams.hashes[places] == grams).sum())


def read_texts(paths: Iterable[str], setting: str = "DecontaminationConfig.texts") -> Iterator[str]:
    """.txt: one text a line. .jsonl: every string of every row, however deep. setting: what names the files, for messages.

    Raises UserError for a file that is missing, no UTF-8, no JSON lines, of another kind, or empty.
    """
    for path in paths:
        where = f"{setting}: {path}"
        if not path.endswith((".txt", ".jsonl")):
            raise UserError(f"{where} is neither .txt (one text a line) nor .jsonl (all strings of a row).")
        with open_file(path) as file:
            try:
                lines = [line for line in file.read().decode("utf-8-sig").splitlines() if line.strip()]
                rows = [json.loads(line) for line in lines] if path.endswith(".jsonl") else lines
            except ValueError as error:
                raise UserError(f"{where} cannot be read ({' '.join(str(error).split())[:120]}).") from None
        if not rows:
            raise UserError(f"{where} holds no text; leave it out, or fill it.")
        for row in rows:
            yield from _strings(row)


def _strings(value) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)


def read_ngrams(config: CurateConfig) -> NGrams:
    """Raises UserError without any text, or if no text is long enough to have an n-gram."""
    settings = config.decontamination
    if not settings.texts:
        raise UserError("The step decontamination needs DecontaminationConfig.texts: name files of benchmark texts.")
    return ngrams_of(settings.texts, settings.ngram, "DecontaminationConfig.texts", "DecontaminationConfig.ngram")


def ngrams_of(paths: Iterable[str], n: int, setting: str, ngram_setting: str) -> NGrams:
    """Of these files. setting, ngram_setting: what names them and n, for messages.

    Raises UserError if no text is long enough to have an n-gram.
    """
    ngrams = collect(read_texts(paths, setting), n)
    if len(ngrams.hashes) == 0:
        raise UserError(f"{setting}: none of {ngrams.texts:,} texts has {n} words; lower {ngram_setting}.")
    return ngrams


@contextlib.contextmanager
def opened(config: CurateConfig) -> Iterator[Callable[[Record], Verdict]]:
    ngrams, least = read_ngrams(config), config.decontamination.min_hits

    def step(record: Record) -> Verdict:
        number = hits(record.text, ngrams) if isinstance(record, Document) else 0
        if number < least:
            return record
        return removal(record, "decontamination", "benchmark text", score=float(number), detail=f"{number} n-grams")

    yield step
