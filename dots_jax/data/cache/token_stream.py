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
from dots_jax.data.sequences.packing import Batch, num_sequences, pack, pack_weighted, whole_document_starts

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
        self._cuts_of: dict[int, np.ndarray] = {}
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

    def num_sequences(self, seq_len: int) -> int:
        """Packed sequences of that length; the last may hold padding, and in a weighted stream any."""
        if self.weighted:
            return len(self._cuts(seq_len)) - 1
        return num_sequences(self.num_tokens, seq_len)

    def sequence(self, index: int, seq_len: int) -> Batch:
        """Packed sequence `index` of the stream: packing.FEATURES, each [seq_len]."""
        if self.weighted:
            return self._weighted_sequence(index, seq_len)
        start = index * seq_len
        num_targets = min(seq_len, self.num_tokens - start)
        if start == 0:  # nothing precedes the stream: the model reads EOS, as before any document
            tokens, document_ends = self.window(0, num_targets)
            return pack(np.concatenate([[self.eos_id], tokens]), document_ends, seq_len)
        tokens, document_ends = self.window(start - 1, num_targets + 1)
        return pack(tokens, document_ends[document_ends > 0] - 1, seq_len)

    def _weighted_sequence(self, index: int, seq_len: int) -> Batch:
        start, end = (int(place) for place in self._cuts(seq_len)[index : index + 2])
        after = min(end + 1, self.num_tokens)
        tokens, document_ends, weights = self._read(start, after - start)
        if after == end:  # nothing follows the stream
            tokens, weights = np.append(tokens, self.eos_id), np.append(weights, 0)
        return pack_weighted(tokens, weights, document_ends[document_ends < end - start], seq_len)

    def _cuts(self, seq_len: int) -> np.ndarray:
        """Where the sequences of a weighted stream begin. Reads all of the stream once: conversations are few next to text."""
        if seq_len not in self._cuts_of:
            ends, at = [], 0
            while at < self.num_tokens:
                chunk_start, chunk_tokens, chunk_ends, _ = self._chunk_at(at)
                ends.append(chunk_ends.astype(np.int64) + chunk_start)
                at = chunk_start + len(chunk_tokens)
            self._cuts_of[seq_len] = whole_document_starts(np.concatenate(ends), seq_len)
        return self._cuts_of[seq_len]

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
