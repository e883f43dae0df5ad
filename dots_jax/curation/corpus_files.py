"""The files of a corpus: `documents/` as JSON lines or Parquet, `removed/` and `places/` as JSON lines, one file a partition.

    documents/00003-of-00008.jsonl.zst    or documents/00003-of-00008.parquet
    removed/00003-of-00008.jsonl.zst

A Parquet file has the fields of a document as columns, `scores` as a map from the step to its score, and zstd inside.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import zstandard

from dots_jax.curation.record import Document, document_of, to_line
from dots_jax.storage import atomic_write

ROWS = 1000  # of a row group in memory


def file_of(output: str, name: str, part: int, parts: int, form: str = "jsonl") -> Path:
    ending = "parquet" if form == "parquet" else "jsonl.zst"
    return Path(output) / name / f"{part:05d}-of-{parts:05d}.{ending}"


@contextlib.contextmanager
def write_lines(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Gives the function that writes a line. One frame of zstd, so that every reader reads all of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "wb") as file, zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False) as out:
        yield lambda line: out.write(line + b"\n")


@contextlib.contextmanager
def write_documents(path: Path) -> Iterator[Callable[[Document], None]]:
    """Gives the function that writes a document."""
    if path.suffix != ".parquet":
        with write_lines(path) as write:
            yield lambda document: write(to_line(document))
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [name for name in Document._fields if name not in ("language_score", "scores")]
    types = {
        **dict.fromkeys(texts, pa.string()),
        "language_score": pa.float64(),
        "scores": pa.map_(pa.string(), pa.float64()),
    }
    schema = pa.schema([(name, types[name]) for name in Document._fields])
    path.parent.mkdir(parents=True, exist_ok=True)
    batch: list[dict] = []
    with atomic_write(path, "wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:

        def flush() -> None:
            if batch:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch.clear()

        def write(document: Document) -> None:
            batch.append(document._asdict())
            if len(batch) >= ROWS:
                flush()

        yield write
        flush()


def read_documents(output: str, part: int | None = None) -> Iterator[Document]:
    """Of all files, or of one partition, in the order of the keys."""
    for path in _files(output, "documents", part):
        if path.suffix != ".parquet":
            yield from map(document_of, _lines(path))
            continue
        import pyarrow.parquet as pq

        with open(path, "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(ROWS):
                for row in batch.to_pylist():
                    yield Document(**{**row, "scores": tuple(map(tuple, row["scores"] or ()))})


def read_lines(output: str, name: str, part: int | None = None) -> Iterator[bytes]:
    """Lines of JSON of `removed` or `places`."""
    for path in _files(output, name, part):
        yield from _lines(path)


def _files(output: str, name: str, part: int | None) -> list[Path]:
    start = "*" if part is None else f"{part:05d}-of-*"
    return sorted([*(Path(output) / name).glob(f"{start}.jsonl.zst"), *(Path(output) / name).glob(f"{start}.parquet")])


def _lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
        rest = b""
        while block := reader.read(1 << 20):
            *found, rest = (rest + block).split(b"\n")
            yield from found
