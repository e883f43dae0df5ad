"""Run files: tokenised documents sorted by the hash that orders the stream, many runs in one file that is opened once.

    run 0: keys uint64 [n], ends int64 [n] of documents in the tokens, tokens [ends[-1]], weights uint8 [the same] if there are any
    run 1: ...
    index: uint64 [runs, 4], of each run its documents, tokens, first and last key
    uint64: number of runs

A range of hashes is found by a binary search in the keys of a run that may have it, and read by its offset.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

_TOGETHER = 4096  # documents of one write


class Span(NamedTuple):
    """Documents of one run: keys uint64 [n], ends int64 [n] in the tokens [t], weights uint8 [t] or None."""

    keys: np.ndarray
    ends: np.ndarray
    tokens: np.ndarray
    weights: np.ndarray | None


class RunWriter:
    """Writes the runs of one file; `close` completes it."""

    def __init__(self, file: BinaryIO):
        self._file, self._index = file, []

    def __repr__(self) -> str:
        return f"RunWriter({getattr(self._file, 'name', '')})"

    def add(
        self, keys: np.ndarray, tokens: Sequence[np.ndarray], weights: Sequence[np.ndarray] | None, dtype: str
    ) -> None:
        """One run, not empty. keys: sorted. tokens, weights: of each document, in the order of the keys."""
        ends = np.cumsum([len(one) for one in tokens], dtype="<i8")
        self._file.write(keys.astype("<u8", copy=False).tobytes())
        self._file.write(ends.tobytes())
        for column, kind in ((tokens, dtype), (weights, "u1")):
            for start in range(0, len(column or ()), _TOGETHER):
                some = column[start : start + _TOGETHER]
                self._file.write(np.concatenate(some).astype(kind, copy=False).tobytes())
        self._index.append((len(keys), int(ends[-1]), int(keys[0]), int(keys[-1])))

    def close(self) -> None:
        self._file.write(np.array(self._index, "<u8").tobytes())
        self._file.write(np.array([len(self._index)], "<u8").tobytes())


class RunFile:
    """A complete run file, mapped: a search and a slice read a few pages of it and not all of it. One open."""

    def __init__(self, path: str | os.PathLike, dtype: str, weighted: bool):
        self._bytes = np.memmap(path, np.uint8, mode="r")
        (number,) = np.frombuffer(self._bytes[-8:], "<u8")
        self._index = np.frombuffer(self._bytes[-8 - 32 * int(number) : -8].tobytes(), "<u8").reshape(-1, 4)
        self._dtype, self._weighted = np.dtype(dtype), weighted

    def spans(self, low: int, high: int) -> Iterator[Span]:
        """Copies of the documents with low <= key < high, of each run that has any; high may be 1 << 64."""
        at = 0
        for documents, tokens, smallest, largest in self._index.tolist():
            begin = at + 16 * documents
            here, at = at, begin + tokens * (self._dtype.itemsize + self._weighted)
            if largest < low or smallest >= high:
                continue
            keys, ends = self._array(here, documents, "<u8"), self._array(here + 8 * documents, documents, "<i8")
            first = int(np.searchsorted(keys, np.uint64(low)))
            last = documents if high >> 64 else int(np.searchsorted(keys, np.uint64(high)))
            if first == last:
                continue
            start = int(ends[first - 1]) if first else 0
            size = int(ends[last - 1]) - start
            found = np.array(self._array(begin + start * self._dtype.itemsize, size, self._dtype))
            weights = None
            if self._weighted:
                weights = np.array(self._array(begin + tokens * self._dtype.itemsize + start, size, "u1"))
            yield Span(np.array(keys[first:last]), ends[first:last] - start, found, weights)

    def _array(self, offset: int, number: int, dtype) -> np.ndarray:
        # frombuffer takes any offset; a view of the mapped bytes would need an aligned one.
        return np.frombuffer(self._bytes, dtype, number, offset)


def documents_in_order(spans: Iterable[Span]) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray] | None]:
    """(keys, tokens of each document, weights of each or None), sorted by key.

    Stable: what no hash decides, the order of the spans and of the documents in them does.
    """
    keys, tokens, weights = [], [], []
    for span in spans:
        cuts = span.ends[:-1]
        keys.append(span.keys)
        tokens += np.split(span.tokens, cuts)
        weights += [] if span.weights is None else np.split(span.weights, cuts)
    if not tokens:
        return np.empty(0, np.uint64), [], None
    together = np.concatenate(keys)
    order = np.argsort(together, kind="stable")
    in_order = [weights[i] for i in order] if weights else None
    return together[order], [tokens[i] for i in order], in_order


def run_path(building: Path, piece: int) -> Path:
    """The runs of a piece."""
    return building / "pieces" / f"{piece:05d}.run"
