"""What the folds say of a head: report.json, its picture, and the lines that the command prints."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from dots_jax.curation_models.auc import Area, area, macro
from dots_jax.curriculum.picture import file_pyplot

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)  # kept, of which the thresholds are reported


class Measured(NamedTuple):
    """Of all examples, each by the head that did not see its fold. N: examples; C: classes."""

    classes: tuple[str, ...]
    score_NC: np.ndarray
    target_N: np.ndarray
    fold_N: np.ndarray
    group_N: np.ndarray
    language_N: np.ndarray  # of str
    size_N: np.ndarray  # characters of the document or line
    seed: int

    def area(self, chosen_N: np.ndarray | None = None) -> Area:
        return area(self.score_NC, self.target_N, self.fold_N, self.group_N, self.seed, chosen_N)


def make_report(found: Measured, about: dict) -> dict:
    """about: the settings of the run, which come first."""
    total = found.area()
    folds = [found.area(found.fold_N == fold)._asdict() for fold in np.unique(found.fold_N)]
    languages = {
        str(name) or "unknown": found.area(found.language_N == name)._asdict() for name in np.unique(found.language_N)
    }
    counts = np.bincount(found.target_N, minlength=len(found.classes))
    report = about | {
        "examples": len(found.target_N), "classes": dict(zip(found.classes, counts.tolist())), "auc": total._asdict(),
        "folds": folds, "languages": languages, "baseline_length_auc": length_baseline(found),
        "accuracy": float((found.score_NC.argmax(axis=1) == found.target_N).mean()),
        "majority": float(counts.max() / counts.sum()),
    }  # fmt: skip
    if len(found.classes) == 2:
        return report | {"score_of": found.classes[1], "thresholds": thresholds(found)}
    return report | {"class_auc": class_areas(found)}


def length_baseline(found: Measured) -> float | None:
    """The area of the number of characters alone, long or short, whichever is better: what a head must beat."""
    sizes_NC = np.repeat(found.size_N[:, None], len(found.classes), axis=1).astype(float)
    areas = []
    for label in range(len(found.classes)) if len(found.classes) > 2 else (1,):
        one_NC, target_N = np.stack([-sizes_NC[:, 0], sizes_NC[:, 0]], axis=1), (found.target_N == label).astype(int)
        (value,) = macro(one_NC, target_N, found.fold_N, np.ones((1, len(target_N))))
        if not np.isnan(value):
            areas.append(max(value, 1 - value))
    return float(np.mean(areas)) if areas else None


def class_areas(found: Measured) -> dict[str, float | None]:
    """The area of each class against all others."""
    areas = {}
    for number, label in enumerate(found.classes):
        score_NC = np.stack([-found.score_NC[:, number], found.score_NC[:, number]], axis=1)
        (value,) = macro(score_NC, (found.target_N == number).astype(int), found.fold_N, np.ones((1, len(score_NC))))
        areas[label] = None if np.isnan(value) else float(value)
    return areas


def thresholds(found: Measured) -> list[dict]:
    """For shares that are kept: the score from which on they are, and precision and recall of the second class there."""
    score_N, positive_N = found.score_NC[:, 1], found.target_N == 1
    rows = []
    for share in SHARES:
        limit = float(np.quantile(score_N, 1 - share))
        kept_N = score_N >= limit
        right = int((kept_N & positive_N).sum())
        precision, recall = right / kept_N.sum(), right / max(positive_N.sum(), 1)
        rows.append({"kept": share, "score": limit, "precision": float(precision), "recall": float(recall)})
    return rows


def table(report: dict) -> str:
    """A line each for all folds, every fold and every language."""
    lines = [f"{'':<16}{'examples':>10}{'groups':>8}  AUC (interval of 95 %)"]
    named = [("all folds", report["auc"]), *((f"fold {number}", row) for number, row in enumerate(report["folds"]))]
    for name, row in [*named, *report["languages"].items()]:
        found = Area(**row)
        note = "" if name == "all folds" or not found.at_chance else "  not above chance"
        lines.append(f"{name:<16}{found.rows:>10,}{found.groups:>8,}  {found}{note}")
    baseline = report["baseline_length_auc"]
    lines.append(f"{'length alone':<16}{'':>18}  {'none' if baseline is None else format(baseline, '.3f')}")
    return "\n".join(lines)


def draw(report: dict, found: Measured, path: str) -> None:
    """Areas with their intervals, and what the scores of each class are."""
    pyplot = file_pyplot()
    named = [("all folds", report["auc"]), *((f"fold {number}", row) for number, row in enumerate(report["folds"]))]
    rows = [(name, Area(**row)) for name, row in [*named, *report["languages"].items()]]
    rows = [(name, one) for name, one in rows if one.auc is not None][::-1]
    with pyplot.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (left, right) = pyplot.subplots(
            1, 2, figsize=(10, max(3.2, 0.3 * len(rows) + 1.6)), layout="constrained"
        )
        for place, (name, one) in enumerate(rows):
            colour = "#332288" if name == "all folds" else "#117733" if name.startswith("fold ") else "#CC6677"
            left.plot([one.low, one.high], [place, place], color=colour, linewidth=2)
            left.plot([one.auc], [place], "o", color=colour)
        left.set_yticks(range(len(rows)), [name for name, _ in rows])
        left.axvline(0.5, color="#888888", linestyle="--", linewidth=1)
        if report["baseline_length_auc"] is not None:
            left.axvline(
                report["baseline_length_auc"], color="#DDAA33", linestyle=":", linewidth=1.5, label="length alone"
            )
            left.legend(loc="lower left", frameon=False)
        left.set_xlabel("area under the curve, with the interval of 95 %")
        if len(found.classes) == 2:
            bins = np.linspace(0, 1, 26)
            for number, label in enumerate(found.classes):
                right.hist(found.score_NC[found.target_N == number, 1], bins, alpha=0.6, label=label, density=True)
            right.set_xlabel(f"score of {found.classes[1]}, by a head that did not see the site")
            right.set_ylabel("density")
            right.legend(frameon=False, title="label")
        else:
            areas = sorted((value, label) for label, value in report["class_auc"].items() if value is not None)
            right.plot([value for value, _ in areas], range(len(areas)), "o", color="#332288", markersize=4)
            if len(areas) <= 40:
                right.set_yticks(range(len(areas)), [label for _, label in areas])
            right.axvline(0.5, color="#888888", linestyle="--", linewidth=1)
            right.set_xlabel("area of each class against all others")
        figure.savefig(path, dpi=140, metadata={"Software": None})
        pyplot.close(figure)


def language_counts(languages) -> dict[str, int]:
    return dict(sorted(Counter(str(name) or "unknown" for name in languages).items()))
