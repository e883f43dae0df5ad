"""Random access to a token cache: any slice of the stream, reading only the chunks it lies in."""

import threading
from pathlib import Path

import numpy as np
from array_record.python import array_record_module

from dots_jax.config import UserError
from dots_jax.data import token_format as fmt
from dots_jax.data.packing import Batch, num_sequences, pack, pack_weighted, whole_document_starts


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
        self._directory = directory
        self._starts: dict[int, np.ndarray] = {}
        self._readers = {}
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
        size = self.manifest.chunk_tokens
        tokens, weights = np.empty(num_tokens, np.int32), np.ones(num_tokens, np.uint8)
        document_ends = []
        for chunk in range(start // size, (end - 1) // size + 1):
            chunk_tokens, chunk_ends, chunk_weights = self._chunk(chunk)
            first, last = max(start, chunk * size), min(end, (chunk + 1) * size)
            tokens[first - start : last - start] = chunk_tokens[first - chunk * size : last - chunk * size]
            if chunk_weights is not None:
                weights[first - start : last - start] = chunk_weights[first - chunk * size : last - chunk * size]
            ends = chunk_ends.astype(np.int64) + chunk * size
            document_ends.append(ends[(ends >= first) & (ends < last)] - start)
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
        """Where the sequences of a weighted stream begin. Reads the whole stream once: conversations are few beside text."""
        if seq_len not in self._starts:
            size = self.manifest.chunk_tokens
            chunks = range(num_sequences(self.num_tokens, size))
            ends = [self._chunk(chunk)[1].astype(np.int64) + chunk * size for chunk in chunks]
            self._starts[seq_len] = whole_document_starts(np.concatenate(ends), seq_len)
        return self._starts[seq_len]

    def _chunk(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        file, record = divmod(index, self.manifest.chunks_per_file)
        name = self.manifest.files[file]["name"]
        try:
            with self._lock:
                if file not in self._readers:
                    path = str(self._directory / name)
                    self._readers[file] = array_record_module.ArrayRecordReader(path, fmt.READER_OPTIONS)
                (data,) = self._readers[file].read([record])
            tokens, document_ends, weights = fmt.decode_chunk(data, self.manifest.token_dtype, self.weighted)
            if len(tokens) != min(self.manifest.chunk_tokens, self.num_tokens - index * self.manifest.chunk_tokens):
                raise ValueError(f"chunk {index} holds {len(tokens)} tokens")
        except (RuntimeError, ValueError, IndexError) as error:
            raise UserError(
                f"The token cache {self._directory} is damaged: {name} cannot be read at chunk {record}: delete that "
                "folder and it is made again."
            ) from error
        return tokens, document_ends, weights
