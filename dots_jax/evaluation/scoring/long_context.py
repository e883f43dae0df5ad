"""RULER: NVIDIA/RULER scripts/eval/synthetic/constants.py and evaluate.py."""

import re
from collections.abc import Sequence

from dots_jax.evaluation.scoring.score import Score


def _tidy(prediction: str) -> str:
    return re.sub(r"[\x00-\x1f]", "\n", prediction.strip()).strip()


def score_all(prediction: str, gold: Sequence[str]) -> Score:
    """The share of references that the prediction holds: niah, variable tracking, common and frequent words."""
    text = _tidy(prediction)
    return Score(text or None, sum(each.lower() in text.lower() for each in gold) / len(gold))


def score_any(prediction: str, gold: Sequence[str]) -> Score:
    """1 if the prediction holds any reference: the two question answering tasks."""
    text = _tidy(prediction)
    return Score(text or None, float(any(each.lower() in text.lower() for each in gold)))
