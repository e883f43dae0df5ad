"""The files of a token cache: what one chunk and the manifest hold.

    <cache_dir>/tokens/<task>/<source>/<split>/manifest.json
                                               tokens-00000.array_record ...

A record of a file is one chunk: the next `chunk_tokens` tokens of the stream (fewer only in the very last), with the
places in it where documents end and, in a weighted cache, a bit for each token: whether it is learned. Chunk c is record
c % CHUNKS_PER_FILE of file c // CHUNKS_PER_FILE, so any token is found by arithmetic. ArrayRecord hashes every record and
refuses a damaged one when it is read.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

from dots_jax.config import UserError

FORMAT = 1
CHUNK_TOKENS = 8192  # what one random read costs; a few training sequences
CHUNKS_PER_FILE = 16384  # 134M tokens a file
MANIFEST = "manifest.json"
# One chunk a record, so that one can be read alone; uncompressed reads are six times faster (12 us against 70).
WRITER_OPTIONS = "group_size:1,uncompressed"
READER_OPTIONS = "readahead_buffer_size:0"


def encode_chunk(tokens: np.ndarray, document_ends: np.ndarray, weights: np.ndarray | None = None) -> bytes:
    """tokens: [n] in the cache's dtype. document_ends: offsets in 0..n-1 of tokens that close a document.
    weights: [n], 0 or 1, of a weighted cache."""
    header = np.array([len(tokens), len(document_ends)], "<u4")
    bits = b"" if weights is None else np.packbits(weights.astype(bool)).tobytes()
    return header.tobytes() + document_ends.astype("<u4").tobytes() + tokens.tobytes() + bits


def decode_chunk(
    record: bytes, token_dtype: str, weighted: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(tokens [n], document_ends [m]), views of the record, and weights uint8 [n] if the cache is weighted."""
    num_tokens, num_ends = (int(n) for n in np.frombuffer(record, "<u4", 2))
    document_ends = np.frombuffer(record, "<u4", num_ends, offset=8)
    tokens = np.frombuffer(record, token_dtype, num_tokens, offset=8 + 4 * num_ends)
    if not weighted:
        return tokens, document_ends, None
    bits = np.frombuffer(record, np.uint8, -(-num_tokens // 8), offset=8 + 4 * num_ends + tokens.nbytes)
    return tokens, document_ends, np.unpackbits(bits, count=num_tokens)


def token_dtype(vocab_size: int) -> str:
    """The smallest unsigned numpy dtype, little-endian, that holds every id."""
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a cache holds. tokens: end tokens included; bytes: of text, None if the vocabulary cannot say;
    files: name, chunks, size in bytes and sha256 of each; weighted: whether each token has a weight, 0 or 1."""

    format: int
    task: str
    split: str
    source: str
    vocabulary: str
    eos_id: int
    token_dtype: str
    chunk_tokens: int
    chunks_per_file: int
    document_order_seed: int
    documents: int
    tokens: int
    bytes: int | None
    files: list[dict]
    weighted: bool = False  # manifests from before there were weights do not say

    def write(self, directory: Path) -> None:
        (directory / MANIFEST).write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """Raises UserError unless the directory holds a whole cache of this format."""
        mend = "delete that folder and it is made again"
        try:
            manifest = cls(**json.loads((directory / MANIFEST).read_text()))
        except FileNotFoundError:
            raise UserError(f"The token cache {directory} has no {MANIFEST}, so it is not whole: {mend}.") from None
        except (ValueError, TypeError) as error:
            raise UserError(f"The token cache {directory} has a damaged {MANIFEST} ({error}): {mend}.") from error
        if manifest.format != FORMAT:
            raise UserError(
                f"The token cache {directory} is of format {manifest.format}, and this version reads {FORMAT}: {mend}."
            )
        for file in manifest.files:
            path = directory / file["name"]
            size = path.stat().st_size if path.exists() else None
            if size != file["size"]:
                found = "is missing" if size is None else f"has {size} bytes instead of {file['size']}"
                raise UserError(f"The token cache {directory} is damaged, since {file['name']} {found}: {mend}.")
        return manifest
