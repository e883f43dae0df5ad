"""What a token cache takes, from the sizes of its source files: pieces, opens, bytes, core-hours, disk. Nothing is read.

The figures behind it are the constants below; a source whose bytes a token are known from `dots inspect_source` fits better.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from dots_jax.config import UserError
from dots_jax.data.cache import merge
from dots_jax.data.sources.parts import number_of_parts
from dots_jax.human import human

BYTES_PER_TOKEN = 4.4  # of text: 4.36 Chinese, 4.56 English, 4.06 Python with the tokenizer of Qwen2
TOKENS_PER_CORE_SECOND = 1e6  # of such a tokenizer, the cache's own work included
# Text of a byte of file, roughly: JSON lines with few fields, Parquet with snappy, gzip and zstd.
TEXT_OF_A_BYTE = {".jsonl": 0.95, ".parquet": 1.63, ".gz": 2.8, ".zst": 3.2, ".zstd": 3.2, ".xz": 3.8}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """files, pieces, shards: numbers of each. opens: of run files. source_bytes: on the disk. core_hours: of tokenising.
    cache_bytes: when it is complete. peak_bytes: at most at any time while it is made, the cache included."""

    files: int
    pieces: int
    shards: int
    opens: int
    source_bytes: int
    tokens: float
    core_hours: float
    cache_bytes: float
    peak_bytes: float


def estimate(
    files: Sequence[tuple[str, int]], shards: int, pieces: int = 0, token_bytes: int = 4, per_token: float = 0.0
) -> Estimate:
    """files: (name, bytes). pieces: 0: as their sizes say. per_token: bytes of text a token; 0: BYTES_PER_TOKEN."""
    pieces = pieces or sum(number_of_parts(name, size) for name, size in files)
    tokens = sum(size * _text(name) for name, size in files) / (per_token or BYTES_PER_TOKEN)
    cache_bytes = tokens * token_bytes
    return Estimate(
        len(files), pieces, shards, merge.run_file_opens(pieces, shards), sum(size for _, size in files), tokens,
        tokens / TOKENS_PER_CORE_SECOND / 3600, cache_bytes, 2 * cache_bytes,
    )  # fmt: skip


def _text(name: str) -> float:
    return next((factor for ending, factor in TEXT_OF_A_BYTE.items() if name.endswith(ending)), 1.0)


def read_listing(lines: Iterable[str], name: str) -> list[tuple[str, int]]:
    """(name, bytes) of lines `BYTES NAME`, or `BYTES DATE NAME` as `gcloud storage ls --long` writes them; its total is left
    out. Raises UserError for other lines, and for none."""
    files = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0] == "TOTAL:":
            continue
        if len(words) < 2 or not words[0].isdecimal():
            raise UserError(f"{name}, line {number}: expected `BYTES NAME`, but it is {line.strip()[:80]!r}.")
        files.append((words[-1], int(words[0])))
    if not files:
        raise UserError(f"{name} lists no file: write a line `BYTES NAME` for each.")
    return files


HEAD = (
    f"{'task':<28}{'split':<14}{'files':>10}{'pieces':>10}{'GB':>11}{'M tokens':>13}{'shards':>9}{'opens':>11}{'core-hours':>12}"
    f"{'cache GB':>11}{'peak GB':>11}"
)


def row(task: str, split: str, found: Estimate) -> str:
    numbers = f"{found.files:>10,}{found.pieces:>10,}{found.source_bytes / 1e9:>11,.3f}{found.tokens / 1e6:>13,.1f}"
    disk = f"{found.cache_bytes / 1e9:>11,.2f}{found.peak_bytes / 1e9:>11,.2f}"
    return f"{task:<28}{split:<14}{numbers}{found.shards:>9,}{found.opens:>11,}{found.core_hours:>12,.2f}{disk}"


def assumptions() -> str:
    return (
        f"Estimated from sizes: {BYTES_PER_TOKEN:g} bytes of text a token (1 with a vocabulary of bytes), "
        f"{human(TOKENS_PER_CORE_SECOND).strip()} tokens a second and core; opens of run files."
    )
