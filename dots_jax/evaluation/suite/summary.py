"""What a row's answers add up to: the score with its standard error, and counts of all that went another way."""

import collections
import dataclasses
from collections.abc import Iterable

from dots_jax.evaluation.suite.requests import RANKING
from dots_jax.evaluation.tasks.table import TASKS

SAMPLES = 8  # right and wrong ones each that a report shows


class Scores:
    """Scores of groups: their number, sum, and sum of squares."""

    def __init__(self):
        self.groups: dict[str, list[float]] = {}

    def add(self, group: str, value: float) -> None:
        sums = self.groups.setdefault(group, [0, 0.0, 0.0])
        sums[0], sums[1], sums[2] = sums[0] + 1, sums[1] + value, sums[2] + value * value

    @property
    def items(self) -> int:
        return int(sum(count for count, _, _ in self.groups.values()))

    def means(self) -> dict[str, float]:
        """The score of each group, in percent."""
        return {name: 100 * total / count for name, (count, total, _) in self.groups.items()}

    def mean(self, of_groups: bool) -> tuple[float, float] | None:
        """The score and its standard error, in percent: over items, or over groups of unequal sizes; None without items."""
        if not self.items:
            return None
        groups = list(self.groups.values())
        if not of_groups:
            groups = [[sum(column) for column in zip(*groups)]]
        means = [total / count for count, total, _ in groups]
        # Of a mean with its n - 1; a group of one item says nothing about its own error.
        variances = [
            max(0.0, squares / n - mean * mean) / (n - 1) if n > 1 else 0.0
            for (n, _, squares), mean in zip(groups, means)
        ]
        return 100 * sum(means) / len(means), 100 * sum(variances) ** 0.5 / len(means)


@dataclasses.dataclass
class RowSummary:
    """One row of a report. missing: why it has no items; empty if it has."""

    name: str
    missing: str = ""
    generated: Scores = dataclasses.field(default_factory=Scores)
    ranked: Scores = dataclasses.field(default_factory=Scores)
    unparsed: int = 0  # answers in which nothing was found; they are wrong
    cut_off: int = 0  # answers that reached the limit of tokens
    cut_prompts: int = 0
    dropped_shots: int = 0
    shots: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # in the prompt -> items
    left_out: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # reason -> items
    right: list[dict] = dataclasses.field(default_factory=list)
    wrong: list[dict] = dataclasses.field(default_factory=list)

    @property
    def of_groups(self) -> bool:
        return self.name in TASKS and TASKS[self.name].mean_of_groups

    @property
    def score(self) -> tuple[float, float] | None:
        return self.generated.mean(self.of_groups)

    @property
    def ranking(self) -> tuple[float, float] | None:
        return self.ranked.mean(self.of_groups)

    def add(self, line: dict) -> None:
        if line["mode"] == RANKING:
            self.ranked.add(line["group"], line["score"])
            return
        self.shots[line["shots"]] += 1
        self.cut_off += line["ended"] == "length"
        self.cut_prompts += line["cut"] > 0
        self.dropped_shots += line["dropped_shots"]
        if line["score"] is None:
            self.left_out[str(line.get("details", {}).get("left_out", "not understood"))] += 1
            return
        self.unparsed += line["extracted"] is None
        self.generated.add(line["group"], line["score"])
        kept = self.right if line["score"] == 1 else self.wrong
        if len(kept) < SAMPLES:
            kept.append(line)

    def line(self) -> str:
        if self.missing:
            return f"{self.name}: {self.missing}"
        if self.score is None:
            return f"{self.name}: no items" + "".join(f", {n} left out ({why})" for why, n in self.left_out.items())
        parts = [f"{self.name}: {self.score[0]:.2f} +- {self.score[1]:.2f} of {self.generated.items} items"]
        if self.ranking:
            parts.append(f"ranked {self.ranking[0]:.2f}")
        parts += [f"{count} {name}" for name, count in self.counts().items() if count]
        return ", ".join(parts)

    def counts(self) -> dict[str, int]:
        """All counts by name, zeros too."""
        counts = {"without an answer": self.unparsed, "cut off": self.cut_off, "prompts cut": self.cut_prompts,
                  "shots dropped": self.dropped_shots}  # fmt: skip
        missing = sum((TASKS[self.name].shots - n) * items for n, items in self.shots.items()) if self.shots else 0
        counts["shots without data"] = max(0, missing - self.dropped_shots) if self.name in TASKS else 0
        return counts | {f"left out ({why})": count for why, count in self.left_out.items()}

    def as_json(self) -> dict:
        if self.missing:
            return {"missing": self.missing}
        shown = lambda pair: None if pair is None else {"score": round(pair[0], 4), "standard_error": round(pair[1], 4)}
        groups = {name: {"items": int(n), "score": round(100 * total / n, 4)} for name, (n, total, _) in
                  self.generated.groups.items()}  # fmt: skip
        found = {"generated": shown(self.score), "ranked": shown(self.ranking), "items": self.generated.items}
        return found | {"mean_of_groups": self.of_groups, "counts": self.counts(), "groups": groups}


def summarise(rows: Iterable[tuple[str, str]], lines: Iterable[dict]) -> list[RowSummary]:
    """rows: (name, why it has no items)."""
    found = {name: RowSummary(name, missing) for name, missing in rows}
    for line in lines:
        found[line["row"]].add(line)
    return list(found.values())
