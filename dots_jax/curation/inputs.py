"""The files that --input names, as numbered pieces; and the records of one piece.

A file's kind is found by its content: WARC, ARC, Parquet, else JSON lines by name, else one page of HTML. Every file of a
folder is read: one that is no page gets its reason in the ledger. Names that begin with a dot are left out, as in a shell.
"""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dots_jax.config import InputConfig, UserError
from dots_jax.curation.feed import Damage, Feed, blocks
from dots_jax.curation.record import Page, Read, Removal
from dots_jax.curation.rows import read_jsonl, read_parquet
from dots_jax.curation.warc import read_arc, read_warc
from dots_jax.data.sources.json_lines import ENDINGS
from dots_jax.storage import find_files, in_bucket, open_file

FILES_A_PIECE = 256  # pages that are files of their own


class File(NamedTuple):
    """name: as seen from the folder that was named; the id of a page that is a file."""

    path: str
    name: str
    size: int
    modified: float
    kind: str  # warc, arc, jsonl, parquet, page


class Piece(NamedTuple):
    """One container, or some pages."""

    files: tuple[File, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def find_pieces(inputs: Sequence[str]) -> list[Piece]:
    """In the order of paths. Raises UserError for an input that names nothing."""
    files: dict[str, File] = {}
    for given in inputs:
        found = list(_files(given))
        if not found:
            raise UserError(f"--input={given} names no file: give a file, a folder or a glob.")
        files.update((file.path, file) for file in found)
    found = sorted(files.values())
    pages = [file for file in found if file.kind == "page"]
    pieces = [Piece((file,)) for file in found if file.kind != "page"]
    pieces += [Piece(tuple(pages[at : at + FILES_A_PIECE])) for at in range(0, len(pages), FILES_A_PIECE)]
    return pieces


def _files(given: str) -> Iterator[File]:
    if not in_bucket(given) and os.path.isdir(given):
        pattern, start = os.path.join(glob.escape(given), "**"), given
    else:
        pattern, start = given, ""
        if not in_bucket(given) and os.path.exists(given):
            pattern = glob.escape(given)
    for found in find_files(pattern):
        name = os.path.relpath(found.path, start).replace(os.sep, "/") if start else os.path.basename(found.path)
        yield File(found.path, name, found.size, found.modified, kind_of(found.path))


def kind_of(path: str) -> str:
    """By content; JSON lines by name."""
    if path.endswith(ENDINGS):
        return "jsonl"
    with open_file(path) as file:
        if file.read(4) == b"PAR1":
            return "parquet"
    if path.endswith((".zst", ".zip", ".xz", ".bz2")):
        return "page"  # which decoding refuses by its content
    feed = Feed(blocks(path))
    start = feed.peek(10)
    return "warc" if start.startswith(b"WARC/") else "arc" if start.startswith(b"filedesc:") else _by_name(path)


def _by_name(path: str) -> str:
    """What a broken or empty file says that it is."""
    name = path.removesuffix(".gz")
    endings = {".warc": "warc", ".wet": "warc", ".wat": "warc", ".arc": "arc", ".parquet": "parquet"}
    return next((kind for ending, kind in endings.items() if name.endswith(ending)), "page")


def read_piece(piece: Piece, config: InputConfig, others: Counter) -> Iterator[Read]:
    """Every record of the piece, or the row of one that cannot be used. others: records that are no pages, by type."""
    for file in piece.files:
        if file.kind == "jsonl":
            yield from read_jsonl(file.path, config)
        elif file.kind == "parquet":
            yield from read_parquet(file.path, config)
        elif file.kind == "page":
            yield from _page(file, config)
        elif file.size == 0:
            yield Read(Removal("file", "read", "empty file", file.name), file.path, 0)
        else:
            reader = read_warc if file.kind == "warc" else read_arc
            yield from reader(file.path, Feed(blocks(file.path)), config, others)


def _page(file: File, config: InputConfig) -> Iterator[Read]:
    """A file of HTML, also in gzip. Of a damaged one, the part that is there, and a row that says so."""
    parts, size, damage = [], 0, None
    for block in blocks(file.path):
        if isinstance(block, Damage):
            damage = block
            break
        parts.append(block.data)
        size += len(block.data)
        if size > config.max_bytes:
            break
    body = b"".join(parts)
    reason = "too large" if size > config.max_bytes else "" if body.strip() else "empty body"
    if damage and reason != "too large":
        kind = "file" if body.strip() else "page"
        yield Read(Removal(kind, "read", damage.reason, file.name, detail=damage.detail), file.path, 0)
        if kind == "page":
            return
    if reason:
        yield Read(Removal("page", "read", reason, file.name), file.path, 0)
    else:
        yield Read(Page(file.name, "", body), file.path, 0)
