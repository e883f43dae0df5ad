"""What the pieces of a cache say about its source files: one row a file, whose parts several workers may have read."""

import itertools
from collections import Counter

from dots_jax.config import UserError
from dots_jax.data.sources.content import Content, combined

_FIELDS = (
    "name",
    "size",
    "sha256",
    "documents",
    "tokens",
    "malformed",
    "left_out",
    "language",
    "damaged",
    "lost_bytes",
)


def source_rows(pieces: list[dict]) -> list[dict]:
    """Rows of the manifest, in the order of the pieces: of one piece as it stands; of several their sums, the checksum that
    `combined` makes of theirs, and their `spans`. Raises UserError for a file that changed between two of its pieces."""
    rows = []
    for name, group in itertools.groupby(pieces, key=lambda piece: piece["name"]):
        parts = list(group)
        _check_unchanged(name, parts)
        row = {field: parts[0][field] for field in _FIELDS if field in parts[0]}
        if len(parts) > 1:
            row["sha256"] = combined([part["sha256"] for part in parts])
            for field in ("documents", "tokens"):
                row[field] = sum(part[field] for part in parts)
            for field in ("malformed", "left_out"):
                counts = sum((Counter(part.get(field, {})) for part in parts), Counter())
                if counts or field in row:
                    row[field] = dict(sorted(counts.items()))
            damaged = [part for part in parts if "damaged" in part]
            if damaged:
                row["damaged"], row["lost_bytes"] = damaged[0]["damaged"], sum(part["lost_bytes"] for part in damaged)
            row["spans"] = [part["span"] for part in parts]
        rows.append(row)
    return rows


def contents(pieces: list[dict]) -> dict[str, Content]:
    """Of each source file, by its name, what was read."""
    modified = {}
    for piece in pieces:  # 0, unknown, if it is for any part
        modified[piece["name"]] = min(piece["modified"], modified.get(piece["name"], piece["modified"]))
    return {row["name"]: content_of(row, modified[row["name"]]) for row in source_rows(pieces) if row["sha256"]}


def content_of(row: dict, modified: float = 0) -> Content:
    return Content(row["size"], modified, row["sha256"], tuple((begin, end) for begin, end in row.get("spans", ())))


def _check_unchanged(name: str, parts: list[dict]) -> None:
    times = {part["modified"] for part in parts} - {0}
    if len({part["size"] for part in parts}) > 1 or len(times) > 1:
        raise UserError(f"{name} changed while it was read: start again when nothing writes to it any more.")
