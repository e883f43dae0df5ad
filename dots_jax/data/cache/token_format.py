"""The files of a token cache: what one chunk and the manifest hold.

    <cache_dir>/tokens/<task>/<source>/<split>/manifest.json        what is in it, and of which files, with checksums
                                               malformed.jsonl      samples of records that were left out, if any
                                               tokens-00000.array_record ...
                                               lengths-00000.u4 ... tokens of each document, in their order
                                               documents-00000.u8 ... a hash of each document's tokens: what takedown.py looks up

The stream of a split is the tokens of its files one after the other. A record of a file is one chunk: the file's next
`chunk_tokens` tokens (fewer only in its last), with the places in it where documents end and, in a weighted cache, a
bit for each token: whether it is learned. No document crosses files. So any token is found from the manifest by a
binary search and a division. ArrayRecord hashes every record and refuses a damaged one when it is read.

Documents stand in the order of a hash of (task, source file, number in it), behind the first part of a file that was read in
several parts (sources/parts.py) of (task, source file, first byte of the part, number in the part). File s of n holds the s-th
n-th part of the hashes: the stream does not depend on how many files there are, nor on who wrote them.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from dots_jax.config import UserError
from dots_jax.storage import file_sizes, open_file

FORMAT = 3
FORMAT_OF_PARTS = 4  # of a cache with source files that were read in several parts: its rows of sources have `spans`
CHUNK_TOKENS = 8192  # what one random read costs; a few training sequences
MANIFEST, MALFORMED = "manifest.json", "malformed.jsonl"
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


def lengths_name(tokens_name: str) -> str:
    """The file with the lengths of the documents of a file of tokens: uint32, in their order."""
    return f"lengths-{tokens_name.removeprefix('tokens-').partition('.')[0]}.u4"


def hashes_name(tokens_name: str) -> str:
    """The file with `document_hash` of the documents of a file of tokens: uint64, in their order."""
    return f"documents-{tokens_name.removeprefix('tokens-').partition('.')[0]}.u8"


def document_hash(tokens: np.ndarray, token_dtype: str) -> int:
    """64 bits of the tokens of a document, its end token included. One in 2**64 / documents has another one's by chance."""
    content = tokens.astype(token_dtype, copy=False).tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def read_lengths(directory: Path, manifest: "Manifest") -> np.ndarray | None:
    """Tokens of each document, int64; None if the cache does not say, as one that was made earlier."""
    found = []
    for file in manifest.files:
        lengths = _read_column(directory / lengths_name(file["name"]), "<u4", file["documents"])
        if lengths is None or lengths.sum(dtype=np.int64) != file["tokens"]:
            return None
        found.append(lengths.astype(np.int64))
    return np.concatenate(found) if found else None


def read_hashes(directory: Path, file: dict) -> np.ndarray | None:
    """`document_hash` of each document of a file of the manifest, uint64; None if the cache does not say."""
    return _read_column(directory / hashes_name(file["name"]), "<u8", file["documents"])


def _read_column(path: Path, dtype: str, length: int) -> np.ndarray | None:
    try:
        with open_file(str(path)) as opened:
            column = np.frombuffer(opened.read(), dtype)
    except (OSError, ValueError, UserError):
        return None
    return column if len(column) == length else None


def token_dtype(vocab_size: int) -> str:
    """The smallest unsigned numpy dtype, little-endian, that holds every id."""
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a cache holds. tokens: end tokens included; bytes: of text, None if the vocabulary cannot say;
    fingerprint: of the names and checksums of the source files, None if it has none; code: of the preprocessors, hashed;
    malformed: reason -> records that cannot be used; left_out: setting of the source -> records it leaves out;
    revision: Source.revision when it was made; noted: what is not learned of conversations, or not as it stood -> conversations;
    question_id: the token that opens a message of the user, of a cache of conversations, else -1;
    weighted: whether each token has a weight, 0 or 1; files: name, tokens, documents,
    size in bytes and sha256 of each; sources: of each source file the name, size, sha256, documents, tokens, malformed
    records, and, if it could not be read to its end, `damaged`, the reason, and `lost_bytes`; `spans`: bytes (begin, end) of
    its parts if there are several: then sha256 is content.combined of the parts' own."""

    format: int
    task: str
    split: str
    source: str
    fingerprint: str | None
    vocabulary: str
    eos_id: int
    token_dtype: str
    chunk_tokens: int
    document_order_seed: int
    weighted: bool
    documents: int
    tokens: int
    bytes: int | None
    malformed: dict[str, int]
    files: list[dict]
    code: str = ""
    sources: list[dict] = dataclasses.field(default_factory=list)
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    revision: str = ""
    noted: dict[str, int] = dataclasses.field(default_factory=dict)
    question_id: int = -1

    def write(self, directory: Path) -> None:
        # One line a file: some 80 000 files hold the report's 11T tokens, and people read these.
        fields = dataclasses.asdict(self)
        lists = ("files", "sources")
        lines = [f" {json.dumps(name)}: {json.dumps(fields[name])}" for name in fields if name not in lists]
        for name in lists:
            rows = ",\n  ".join(json.dumps(row) for row in fields[name])
            lines.append(f" {json.dumps(name)}: [\n  {rows}\n ]")
        (directory / MANIFEST).write_text("{\n" + ",\n".join(lines) + "\n}\n")

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """Raises UserError unless the directory holds a complete cache of this format."""
        fix = "delete that folder and it is made again"
        try:
            fields = json.loads((directory / MANIFEST).read_text())
        except FileNotFoundError:
            raise UserError(f"The token cache {directory} has no {MANIFEST}, so it is not complete: {fix}.") from None
        except ValueError as error:
            raise UserError(f"The token cache {directory} has a damaged {MANIFEST} ({error}): {fix}.") from error
        found = fields.get("format") if isinstance(fields, dict) else None
        if isinstance(found, int) and found not in (FORMAT, FORMAT_OF_PARTS):
            raise UserError(
                f"The token cache {directory} is of format {found}, and this version reads {FORMAT} and {FORMAT_OF_PARTS}: "
                f"{fix}."
            )
        try:
            manifest = cls(**fields)
        except TypeError as error:
            raise UserError(f"The token cache {directory} has a damaged {MANIFEST} ({error}): {fix}.") from error
        sizes = file_sizes(directory)
        for file in manifest.files:
            name, size = file["name"], sizes.get(file["name"])
            if size != file["size"]:
                found = "is missing" if size is None else f"has {size} bytes instead of {file['size']}"
                raise UserError(f"The token cache {directory} is damaged, since {name} {found}: {fix}.")
        return manifest
