"""`dots curate --compare OUT1 OUT2`: what another setting changed, document by document, in one pass over both outputs."""

import heapq
import itertools
from collections import Counter
from collections.abc import Sequence

from dots_jax.config import UserError
from dots_jax.curation.record import Document, Removal
from dots_jax.curation.state import read_about
from dots_jax.curation.survey import in_order

SAMPLES = 3


def compare(outputs: Sequence[str]) -> str:
    """Raises UserError unless there are two complete runs of one seed."""
    if len(outputs) != 2:
        raise UserError(f"--compare takes two output folders, but got {len(outputs)}: --compare OUT1 OUT2.")
    first, second = (read_about(output, "--compare") for output in outputs)
    seeds = [about["config"]["seed"] for about in (first, second)]
    if seeds[0] != seeds[1]:
        raise UserError(
            f"--compare: CurateConfig.seed is {seeds[0]} and {seeds[1]}, so that documents stand in another order."
        )
    counts, reasons, samples = Counter(), Counter(), {}
    streams = [_numbered(output, seeds[0], number) for number, output in enumerate(outputs)]
    merged = heapq.merge(*streams, key=lambda row: row[0])
    for _, rows in itertools.groupby(merged, key=lambda row: row[0]):
        sides: list[tuple[list[Document], list[Removal]]] = [([], []), ([], [])]
        for _, number, item in rows:
            sides[number][isinstance(item, Removal)].append(item)
        _one(sides, counts, reasons, samples)
    lines = _settings(first["config"], second["config"])
    lines += [
        f"{'in both, same text':<28}{counts['same']:>10,}",
        f"{'in both, other text':<28}{counts['other text']:>10,}",
    ]
    for number, output in enumerate(outputs):
        lines += ["", f"{counts[number]:,} documents are only in {output}. The other run removed them:"]
        for (of, reason), count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
            if of == number:
                lines.append(f"{count:>10,}  {reason}")
                lines += [f"{'':<12}{sample}" for sample in samples[of, reason]]
    return "\n".join(lines)


def _numbered(output: str, seed: int, number: int):
    return ((key, number, item) for key, item in in_order(output, seed))


def _one(sides, counts: Counter, reasons: Counter, samples: dict) -> None:
    """All documents and rows of one id in both runs."""
    texts = [Counter(document.text for document in documents) for documents, _ in sides]
    here, there = (texts[0] - texts[1]).total(), (texts[1] - texts[0]).total()
    counts["same"] += (texts[0] & texts[1]).total()
    changed = min(here, there)
    counts["other text"] += changed
    for number, alone in ((0, here - changed), (1, there - changed)):
        if alone:
            counts[number] += alone
            row = next((row for row in sides[1 - number][1] if row.kind in ("page", "document")), None)
            reason = f"{row.step}: {row.reason}" if row else "not read"
            reasons[number, reason] += alone
            found = samples.setdefault((number, reason), [])
            if len(found) < SAMPLES:
                found.append(_sample(sides[number][0][0], row))


def _sample(document: Document, row: Removal | None) -> str:
    facts = [document.url or document.id]
    if row:
        facts += [f"score {row.score:g}"] if row.score is not None else []
        facts += [row.detail] if row.detail else []
        facts += [f"instead {row.other}"] if row.other else []
    return "; ".join(facts)


def _settings(first: dict, second: dict) -> list[str]:
    """Every setting that differs, by its path."""
    found = []

    def walk(path: str, left, right) -> None:
        if isinstance(left, dict) and isinstance(right, dict):
            for name in sorted({*left, *right}):
                walk(f"{path}.{name}", left.get(name), right.get(name))
        elif left != right:
            found.append(f"{path}: {left} and {right}")

    walk("CurateConfig", first, second)
    return [*(found or ["The settings are the same."]), ""]
