"""Random access to a token cache: any slice of the stream, reading only the chunks it lies in."""

import itertools
import os
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from array_record.python import array_record_module

from dots_jax.config import UserError
from dots_jax.data.cache import token_format as fmt
from dots_jax.data.sequences.conversation_layout import DEFAULT, Layout, LayoutRule, lay_out
from dots_jax.data.sequences.packing import Batch, num_sequences, pack, pack_weighted

# Files that all streams together hold open; the system's limit is often 1024 a process.
_MAX_OPEN = 256
_open_files: OrderedDict[tuple[int, int], array_record_module.ArrayRecordReader] = OrderedDict()  # least recent first
_open_lock = threading.Lock()
_stream_numbers = itertools.count()


def _stamp(directory: Path) -> tuple[int, int] | None:
    """Tells a cache from another one that takes its place."""
    try:
        found = os.stat(directory / fmt.MANIFEST)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


class TokenStream:
    """The documents of one split of one task, `d1 EOS d2 EOS ...`, as one indexable sequence of tokens.

    Safe to read from several threads. Opening reads the manifest only; memory does not grow with what is read.

    Attributes: num_tokens (end tokens included), num_documents, num_bytes (of text; None if unknown), eos_id,
      weighted (whether each token has a weight), manifest.
    """

    def __init__(self, directory: Path, manifest: fmt.Manifest | None = None):
        self.manifest = manifest or fmt.Manifest.read(directory)
        self.num_tokens = self.manifest.tokens
        self.num_documents = self.manifest.documents
        self.num_bytes = self.manifest.bytes
        self.eos_id = self.manifest.eos_id
        self.weighted = self.manifest.weighted
        self._directory, self._made = directory, _stamp(directory)
        self._layouts: dict[tuple[int, LayoutRule], Layout] = {}
        self._layout_lock = threading.Lock()
        self._number = next(_stream_numbers)
        # Where each file begins in the stream, and the end.
        self._starts = np.cumsum([0, *(file["tokens"] for file in self.manifest.files)], dtype=np.int64)
        self._lock = threading.Lock()

    def window(self, start: int, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [start, start + num_tokens) of the stream, which must lie inside it.

        Returns: int32 [num_tokens], and int64 [m] offsets into it of the tokens that close a document.
        """
        return self._read(start, num_tokens)[:2]

    def _read(self, start: int, num_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`window`, and weights uint8 [num_tokens]."""
        end = start + num_tokens
        if not 0 <= start < end <= self.num_tokens:
            raise ValueError(f"window [{start}, {end}) is not inside a stream of {self.num_tokens} tokens.")
        tokens, weights = np.empty(num_tokens, np.int32), np.ones(num_tokens, np.uint8)
        document_ends = []
        at = start
        while at < end:
            chunk_start, chunk_tokens, chunk_ends, chunk_weights = self._chunk_at(at)
            last = min(end, chunk_start + len(chunk_tokens))
            tokens[at - start : last - start] = chunk_tokens[at - chunk_start : last - chunk_start]
            if chunk_weights is not None:
                weights[at - start : last - start] = chunk_weights[at - chunk_start : last - chunk_start]
            ends = chunk_ends.astype(np.int64) + chunk_start
            document_ends.append(ends[(ends >= at) & (ends < last)] - start)
            at = last
        return tokens, np.concatenate(document_ends), weights

    def num_sequences(self, seq_len: int, rule: LayoutRule = DEFAULT) -> int:
        """Packed sequences of that length; the last may hold padding, and in a weighted stream any. rule: of a weighted one.

        Raises UserError if the rule leaves out every conversation."""
        return len(self.layout(seq_len, rule)) if self.weighted else num_sequences(self.num_tokens, seq_len)

    def sequences_of(self, start: int, end: int, seq_len: int, rule: LayoutRule = DEFAULT) -> list[int]:
        """The packed sequences that hold a token of [start, end) of the stream."""
        if not self.weighted:
            return list(range(start // seq_len, (end - 1) // seq_len + 1))
        layout = self.layout(seq_len, rule)
        pieces = np.flatnonzero((layout.starts < end) & (layout.starts + layout.lengths > start))
        return sorted(set((np.searchsorted(layout.rows, pieces, side="right") - 1).tolist()))

    def sequence(self, index: int, seq_len: int, rule: LayoutRule = DEFAULT) -> Batch:
        """Packed sequence `index` of the stream: packing.FEATURES, each [seq_len]."""
        if self.weighted:
            return self._weighted_sequence(self.layout(seq_len, rule), index, seq_len)
        start = index * seq_len
        num_targets = min(seq_len, self.num_tokens - start)
        if start == 0:  # nothing precedes the stream: the model reads EOS, as before any document
            tokens, document_ends = self.window(0, num_targets)
            return pack(np.concatenate([[self.eos_id], tokens]), document_ends, seq_len)
        tokens, document_ends = self.window(start - 1, num_targets + 1)
        return pack(tokens, document_ends[document_ends > 0] - 1, seq_len)

    def _weighted_sequence(self, layout: Layout, index: int, seq_len: int) -> Batch:
        here = slice(*layout.rows[index : index + 2])
        lengths = layout.lengths[here]
        parts = [self._read(int(start), int(length)) for start, length in zip(layout.starts[here], lengths)]
        for _, _, weights in parts:
            weights[0] = 0  # nothing comes before it
        tokens = np.concatenate([*(part[0] for part in parts), [self.eos_id]])
        weights = np.concatenate([*(part[2] for part in parts), [0]])
        return pack_weighted(tokens, weights, (np.cumsum(lengths) - 1)[layout.ends_segment[here]], seq_len)

    def layout(self, seq_len: int, rule: LayoutRule = DEFAULT) -> Layout:
        """Which conversations stand in which sequence of a weighted stream. Reads their lengths, and those that are longer."""
        with self._layout_lock:
            if (seq_len, rule) not in self._layouts:
                read = lambda start, length: self._read(start, length)[::2]  # noqa: E731  tokens and weights
                found = lay_out(self._document_ends(), seq_len, rule, read, self.manifest.question_id)
                if not len(found):
                    raise UserError(
                        f"Task {self.manifest.task!r}: all {self.num_documents:,} conversations of split {self.manifest.split!r} "
                        f"are longer than a sequence of {seq_len:,} tokens (Stage.too_long = {rule.too_long!r}): raise "
                        "seq_len."
                    )
                self._layouts[seq_len, rule] = found
            return self._layouts[seq_len, rule]

    def num_learned(self) -> int:
        """Tokens that are learned. Reads all of the stream, of a weighted one: about a second for 100M tokens."""
        learned, at = 0, 0
        while self.weighted and at < self.num_tokens:
            start, tokens, _, weights = self._chunk_at(at)
            learned += int(weights.sum(dtype=np.int64))
            at = start + len(tokens)
        return learned if self.weighted else self.num_tokens

    def longest_document(self) -> int:
        """Tokens of the longest document, its end token included."""
        return int(np.diff(self._document_ends(), prepend=0).max())

    def _document_ends(self) -> np.ndarray:
        """The place behind each document: from the lengths that the cache holds, or, of an older cache, from all of the stream."""
        lengths = fmt.read_lengths(self._directory, self.manifest)
        if lengths is not None:
            return np.cumsum(lengths)
        ends, at = [], 0
        while at < self.num_tokens:
            chunk_start, chunk_tokens, chunk_ends, _ = self._chunk_at(at)
            ends.append(chunk_ends.astype(np.int64) + chunk_start + 1)
            at = chunk_start + len(chunk_tokens)
        return np.concatenate(ends)

    def _chunk_at(self, token: int) -> tuple[int, np.ndarray, np.ndarray, np.ndarray | None]:
        """The chunk that holds a token of the stream: where it begins, its tokens, document ends, and weights if it has."""
        file = int(np.searchsorted(self._starts, token, side="right")) - 1
        file_start, file_tokens = int(self._starts[file]), self.manifest.files[file]["tokens"]
        size = self.manifest.chunk_tokens
        record = (token - file_start) // size
        try:
            with self._lock:
                (data,) = self._reader(file).read([record])
            tokens, document_ends, weights = fmt.decode_chunk(data, self.manifest.token_dtype, self.weighted)
            if len(tokens) != min(size, file_tokens - record * size):
                raise ValueError(f"chunk {record} holds {len(tokens)} tokens")
        except (RuntimeError, ValueError, IndexError) as error:
            name = self.manifest.files[file]["name"]
            raise UserError(
                f"The token cache {self._directory} is damaged: {name} cannot be read at chunk {record}: delete that "
                "folder and it is made again."
            ) from error
        return file_start + record * size, tokens, document_ends, weights

    def _reader(self, file: int) -> array_record_module.ArrayRecordReader:
        key = (self._number, file)
        with _open_lock:
            reader = _open_files.pop(key, None)
        if reader is None:
            path = str(self._directory / self.manifest.files[file]["name"])
            if _stamp(self._directory) != self._made:  # else tokens of two caches could meet in one sequence
                raise UserError(
                    f"The token cache {self._directory} was removed or made again while it was being read: start again."
                )
            reader = array_record_module.ArrayRecordReader(path, fmt.READER_OPTIONS)
        with _open_lock:
            _open_files[key] = reader
            if len(_open_files) > _MAX_OPEN:
                _open_files.popitem(last=False)  # closed when no reader uses it any more
        return reader
