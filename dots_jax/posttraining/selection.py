"""Which samples become data: pure functions of the verdicts and the settings."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from dots_jax.posttraining.answer_path import answer_path
from dots_jax.posttraining.questions import Question
from dots_jax.posttraining.samples import Sample

# Why a sample is left out, in the order in which the reasons are looked for.
CONTAMINATED = "its question shares n-grams with an evaluation file"
ALWAYS = "its question is always answered right"
CONTAMINATED_ANSWER = "the answer shares n-grams with an evaluation file"
CUT = "cut at the limit of new tokens"
EMPTY = "empty"
SAME = "the same path as an earlier answer"
CAP = "above the cap of its question"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """cap: samples of a question at most. always_right: whether questions that every sample answers stay. unverified: whether
    samples are taken whatever their verdict, as a control of what the verifier is worth."""

    cap: int = 4
    always_right: bool = False
    unverified: bool = False


class LeftOut(NamedTuple):
    sample: Sample
    reason: str


class Selection(NamedTuple):
    """shares: of each question, in the order of the file, the share of its samples that are right."""

    kept: list[Sample]
    left_out: list[LeftOut]
    shares: dict[str | int, float]

    def counts(self) -> dict[str, int]:
        """Samples left out by reason, the commonest first."""
        return dict(collections.Counter(reason for _, reason in self.left_out).most_common())


def select(
    questions: Sequence[Question], samples: Iterable[Sample], rules: Rules, is_contaminated: Callable[[str], bool]
) -> Selection:
    """Questions in their order, the samples of each by their numbers: the order of the file of samples does not matter.

    is_contaminated: of a text, the question's or the sample's.
    """
    groups: dict[str | int, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.question.id, []).append(sample)
    found = Selection([], [], {})
    for question in questions:
        group = sorted(groups.get(question.id, ()), key=lambda sample: sample.number)
        if not group:
            continue
        share = sum(sample.verdict == "correct" for sample in group) / len(group)
        found.shares[question.id] = share
        always = share == 1 and not rules.always_right and not rules.unverified
        reason = CONTAMINATED if is_contaminated(text_of(question)) else ALWAYS if always else ""
        if reason:
            found.left_out.extend(LeftOut(sample, reason) for sample in group)
        else:
            _select_of_question(group, rules, is_contaminated, found)
    return found


def text_of(question: Question) -> str:
    return "\n".join(message["content"] for message in question.messages)


def _select_of_question(group: Sequence[Sample], rules: Rules, is_contaminated, found: Selection) -> None:
    paths: set[str] = set()
    for sample in group:
        reason, path = _reason(sample, rules) or (CONTAMINATED_ANSWER if is_contaminated(sample.text) else ""), ""
        if not reason:
            path = answer_path(sample.text, sample.fields.get("extracted") if sample.question.tests else None)
            reason = SAME if path in paths else CAP if len(paths) >= rules.cap else ""
        if reason:
            found.left_out.append(LeftOut(sample, reason))
        else:
            paths.add(path)
            found.kept.append(sample)


def _reason(sample: Sample, rules: Rules) -> str:
    if sample.finish_reason not in ("stop", None):
        return CUT if sample.finish_reason == "length" else f"finish_reason {sample.finish_reason}"
    if not rules.unverified and sample.verdict != "correct":
        return sample.verdict
    return "" if sample.text.strip() else EMPTY
