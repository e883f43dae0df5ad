"""The steps `web_type`, `clutter`, `quality` and `classes`: what becomes of the probabilities of a model.

Pure functions, numpy alone. Probabilities are rounded to 4 decimals before they are compared, so that the last bits of another
machine decide nothing.
"""

from collections.abc import Sequence

import numpy as np

from dots_jax.config import CurateConfig, UserError
from dots_jax.curation import balance
from dots_jax.curation.lines import line_row
from dots_jax.curation.protocol import ModelStep, Outcome
from dots_jax.curation.record import Document, removal

Rows = list[tuple[int, int, float]]  # (position, other, score)


def rounded(probability: float) -> float:
    return round(float(probability), 4)


def _require_labels(labels: Sequence[str], classes: Sequence[str], where: str) -> None:
    unknown = [label for label in labels if label not in classes]
    if unknown:
        raise UserError(f"{where} names the label {unknown[0]!r}, but the model has {', '.join(classes)}.")


# --- web_type ---------------------------------------------------------------------------------------------------------


def check_type(classes: Sequence[str], config: CurateConfig) -> None:
    _require_labels(config.web_type.keep, classes, "WebTypeConfig.keep")


def type_verdicts(probabilities_NC: np.ndarray, classes: Sequence[str], config: CurateConfig) -> Rows:
    """The likeliest type, as its number in the place of the other's key."""
    chosen = int(probabilities_NC[0].argmax())
    return [(-1, chosen, rounded(probabilities_NC[0, chosen]))]


def apply_type(document: Document, decisions: np.ndarray, classes: Sequence[str], config: CurateConfig) -> Outcome:
    """The score stands in the corpus as `web_type/LABEL`."""
    label, score = classes[int(decisions["other"][0])], float(decisions["score"][0])
    if config.web_type.keep and label not in config.web_type.keep:
        return Outcome([], [removal(document, "web_type", f"type {label}", score=score)])
    return Outcome([with_score(document, f"web_type/{label}", score)], [])


def with_score(document: Document, name: str, score: float) -> Document:
    return document._replace(scores=(*document.scores, (name, score)))


# --- clutter ----------------------------------------------------------------------------------------------------------


def check_clutter(classes: Sequence[str], config: CurateConfig) -> None:
    _require_labels((config.clutter.label,), classes, "ClutterConfig.label")


def clutter_verdicts(probabilities_NC: np.ndarray, classes: Sequence[str], config: CurateConfig) -> Rows:
    """A row for each line that goes."""
    scores = [rounded(value) for value in probabilities_NC[:, classes.index(config.clutter.label)]]
    return [(place, 0, score) for place, score in enumerate(scores) if score >= config.clutter.min_score]


def apply_clutter(document: Document, decisions: np.ndarray, classes: Sequence[str], config: CurateConfig) -> Outcome:
    """The other lines keep their bytes. A document without text after that goes."""
    if len(decisions) == 0:
        return Outcome([document], [])
    scores = dict(zip(decisions["position"].tolist(), decisions["score"].tolist()))
    lines = document.text.split("\n")
    text = "\n".join(line for place, line in enumerate(lines) if place not in scores)
    if not text.strip():
        return Outcome([], [removal(document, "clutter", "all clutter", score=min(scores.values()))])
    gone = [line_row(document, place, lines[place], "clutter", "clutter", scores[place]) for place in sorted(scores)]
    return Outcome([document._replace(text=text)], gone)


# --- quality ----------------------------------------------------------------------------------------------------------


def check_quality(classes: Sequence[str], config: CurateConfig) -> None:
    _require_labels((config.quality.label,) if config.quality.label else (), classes, "QualityConfig.label")


def quality_verdicts(probabilities_NC: np.ndarray, classes: Sequence[str], config: CurateConfig) -> Rows:
    """The probability of the label that means quality."""
    label = config.quality.label or classes[-1]
    return [(-1, 0, rounded(probabilities_NC[0, classes.index(label)]))]


def apply_quality(document: Document, decisions: np.ndarray, classes: Sequence[str], config: CurateConfig) -> Outcome:
    """The score stands in the corpus as `quality`."""
    score, least = float(decisions["score"][0]), config.quality.min_score
    if score < least:
        return Outcome([], [removal(document, "quality", "low quality", score=score, detail=f"at least {least:g}")])
    return Outcome([with_score(document, "quality", score)], [])


# --- classes ----------------------------------------------------------------------------------------------------------


def check_classes(classes: Sequence[str], config: CurateConfig) -> None:
    _require_labels([label for label, _ in config.classes.shares], classes, "ClassesConfig.shares")


def apply_class(document: Document, decisions: np.ndarray, classes: Sequence[str], config: CurateConfig) -> Outcome:
    """The score stands in the corpus as `classes/LABEL`."""
    (row,) = decisions
    label, score, place = classes[int(row["other"])], float(row["score"]), int(row["position"])
    if place >= 0:
        detail = f"document {place + 1:,} of the class"
        return Outcome([], [removal(document, "classes", f"over the share of {label}", score=score, detail=detail)])
    return Outcome([with_score(document, f"classes/{label}", score)], [])


MODEL_STEPS = (
    ModelStep(
        "web_type", "type of the page, by a model of yours", "document", lambda config: config.web_type,
        check_type, type_verdicts, apply_type,
    ),
    ModelStep(
        "clutter", "lines of clutter, by a model of yours", "line", lambda config: config.clutter,
        check_clutter, clutter_verdicts, apply_clutter,
    ),
    ModelStep(
        "quality", "quality of the text, by a model of yours", "document", lambda config: config.quality,
        check_quality, quality_verdicts, apply_quality,
    ),
    ModelStep(
        "classes", "documents over the share of their class, by a model of yours", "document", lambda config: config.classes,
        check_classes, type_verdicts, apply_class, balance.settle,
    ),
)  # fmt: skip
