"""Replies of a judge model: SimpleQA, AlpacaEval, Arena-Hard. What cannot be read is asked again and never scored."""

import re
from collections.abc import Sequence

from dots_jax.evaluation.scoring.score import Score

SIMPLEQA = {"A": "CORRECT", "B": "INCORRECT", "C": "NOT_ATTEMPTED"}
ARENA = {"A>>B": 3, "A>B": 1, "A=B": 0, "B=A": 0, "B>A": -1, "B>>A": -3, "A<B": -1, "A<<B": -3, "B<A": 1, "B<<A": 3}


def parse_simpleqa(reply: str) -> str | None:
    """CORRECT, INCORRECT or NOT_ATTEMPTED of a grader's reply: a letter that stands alone, or one of the words."""
    text = reply.strip().upper().replace("NOT ATTEMPTED", "NOT_ATTEMPTED")
    # Not the article: "A good reply".
    letters = set(re.findall(r"(?<![A-Za-z0-9_'])([ABC])(?![A-Za-z0-9_'])(?! (?!or\b|and\b)[a-z])", reply))
    words = set(re.findall(r"\b(NOT_ATTEMPTED|INCORRECT|CORRECT)\b", text))
    found = {SIMPLEQA[letter] for letter in letters} | words
    return found.pop() if len(found) == 1 else None


def score_simpleqa(reply: str) -> Score:
    grade = parse_simpleqa(reply)
    if grade is None:
        return Score(None, None)
    return Score(grade, float(grade == "CORRECT"), {"attempted": grade != "NOT_ATTEMPTED"})


def alpaca_win(preference: float | None) -> float | None:
    """1 is the baseline's answer, 2 the model's, between them a weighted judge; 0 and 1.5 are ties. None is no verdict."""
    if preference is None or preference != preference:
        return None
    if preference in (0, 1.5):
        return 0.5
    return preference - 1 if 1 <= preference <= 2 else None


def alpaca_win_rate(preferences: Sequence[float | None]) -> tuple[float, int]:
    """Raw win rate in percent over the verdicts, and how many have none."""
    wins = [win for win in map(alpaca_win, preferences) if win is not None]
    return (100 * sum(wins) / len(wins) if wins else float("nan")), len(preferences) - len(wins)


def parse_alpaca(reply: str, model_is: str = "M") -> float | None:
    """2.0 if the judge names the model's answer (m or M), 1.0 for the other; model_is: the label of the model's answer."""
    found = re.findall(r"(?<![A-Za-z])([mM])(?![A-Za-z])", reply)
    labels = set(found[-1:]) if found else set()
    return None if not labels else 2.0 if labels == {model_is} else 1.0


def parse_arena(reply: str) -> str | None:
    """The one verdict of [[A>>B]] [[A>B]] [[A=B]] [[B>A]] [[B>>A]]; None without one, or with different ones."""
    found = {match.replace(" ", "") for match in re.findall(r"\[\[\s*([AB]\s*[<>=]{1,2}\s*[AB])\s*\]\]", reply)}
    found &= ARENA.keys()
    return found.pop() if len(found) == 1 else None


def arena_battles(first: str | None, second: str | None) -> list[float] | None:
    """Outcomes for the model: 1, 0.5 or 0 a battle, a strong verdict counted three times as the original counts it.

    In the first game the baseline is A and the model B; in the second the seats are exchanged. None if either has no verdict.
    """
    if first is None or second is None:
        return None
    battles = []
    for verdict, sign in ((first, -1), (second, 1)):
        margin = ARENA[verdict] * sign
        battles += [0.5] if margin == 0 else [float(margin > 0)] * abs(margin)
    return battles


def arena_win_rate(battles: Sequence[Sequence[float]], rounds: int = 100, seed: int = 0) -> tuple[float, float, float]:
    """Win rate against the baseline in percent, and the 2.5 and 97.5 percentiles of a bootstrap over battles.

    With two players a Bradley-Terry fit is the share of battles won, so that no regression is needed.
    """
    import numpy as np

    values = np.array([value for each in battles for value in each])
    if not len(values):
        return (float("nan"),) * 3
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(rounds)]
    low, high = np.percentile(means, [2.5, 97.5])
    return 100 * float(values.mean()), 100 * float(low), 100 * float(high)
