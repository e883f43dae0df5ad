"""The books of a run: what went into each step, what came out and what the ledger has of it, each counted on its own.

Nothing here is computed by subtraction. `check` compares the two sides: a step that loses a page without a row is a defect,
and ends the run.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from dots_jax.curation.record import Document, Page, Record, Removal, count_lines

SIDES = ("in", "kept", "removed")


def measure(records: Iterable[Record]) -> Counter:
    """records, pages, documents, and lines and characters of the documents."""
    count = Counter()
    for record in records:
        count["records"] += 1
        if isinstance(record, Document):
            count["documents"] += 1
            count["lines"] += count_lines(record.text)
            count["characters"] += len(record.text)
        else:
            count["pages"] += 1
    return count


def measure_rows(rows: Iterable[Removal]) -> Counter:
    """What these rows of the ledger took with them. A line's row takes no record."""
    count = Counter()
    for row in rows:
        count["rows"] += 1
        count["records"] += row.kind in ("page", "document")
        count["lines"] += row.lines
        count["characters"] += row.characters
    return count


class Books:
    """Per step: {"in": counts, "kept": counts, "removed": counts, "reasons": rows by reason}."""

    def __init__(self, steps: dict[str, dict[str, Counter]] | None = None):
        self.steps = steps or {}

    def add(self, step: str, came_in: Sequence[Record], kept: Sequence[Record], removed: Sequence[Removal]) -> None:
        sides = self._sides(step)
        counts = (measure(came_in), measure(kept), measure_rows(removed))
        for side, count in zip(SIDES, counts):
            sides[side].update(count)
        sides["reasons"].update(row.reason for row in removed)
        turned = any(isinstance(record, Page) for record in came_in)  # extraction: characters begin there
        for unit in ("records",) if turned else ("records", "lines", "characters"):
            came, stayed, went = (count[unit] for count in counts)
            if came != stayed + went:
                raise RuntimeError(f"The step {step} got {came} {unit}, kept {stayed}, and its ledger has {went}.")

    def came(self, step: str, number: int) -> None:
        """Records that came to a step whose other sides are added one by one."""
        self._sides(step)["in"]["records"] += number

    def stayed(self, step: str, records: Sequence[Record]) -> None:
        self._sides(step)["kept"].update(measure(records))

    def went(self, step: str, rows: Sequence[Removal]) -> None:
        sides = self._sides(step)
        sides["removed"].update(measure_rows(rows))
        sides["reasons"].update(row.reason for row in rows)

    def merge(self, other: dict[str, dict[str, dict[str, int]]]) -> None:
        for step, sides in other.items():
            for side, count in sides.items():
                self._sides(step)[side].update(count)

    def to_dict(self) -> dict:
        return {
            step: {side: dict(sorted(count.items())) for side, count in sides.items()}
            for step, sides in self.steps.items()
        }

    def _sides(self, step: str) -> dict[str, Counter]:
        return self.steps.setdefault(step, {side: Counter() for side in (*SIDES, "reasons")})
