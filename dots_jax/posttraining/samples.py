"""The file of samples, which `dots rft sample` or another engine writes: JSON lines, k of them for each question.

    {"id": "q1", "sample": 0, "text": "#### 4", "finish_reason": "stop"}

id: of the question. sample: a number that differs within the question. finish_reason: `stop`; `length` for an answer that was cut
at the limit of new tokens; as OpenAI's interface names them. `dots rft verify` adds `verdict`.
"""

import collections
import dataclasses
from collections.abc import Sequence

from dots_jax.config import UserError
from dots_jax.data.sources import json_lines
from dots_jax.evaluation.scoring.math_verifier import VERDICTS
from dots_jax.posttraining.questions import Question, is_id


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One answer. fields: the row as it stands in the file. verdict: one of VERDICTS, "" before `verify`."""

    question: Question
    number: int
    text: str
    finish_reason: str | None
    verdict: str
    fields: dict


def read_samples(
    path: str, questions: Sequence[Question], *, verified: bool = False, uneven: bool = False
) -> list[Sample]:
    """In the order of the file.

    verified: each must have a verdict. uneven: whether questions may have different numbers of samples, or none.

    Raises:
      UserError: naming the line, for the first that is no sample, is of no question, or stands twice; or naming the question
        that has fewer samples than others.
    """
    by_id, found, seen = {one.id: one for one in questions}, [], {}
    for number, fields in json_lines.read_rows(path):
        at = f"{path} line {number}"
        if isinstance(fields, json_lines.Malformed):
            raise UserError(f"{at} is {fields.reason}.")
        sample = _sample(at, fields, by_id, verified)
        key = (sample.question.id, sample.number)
        if key in seen:
            raise UserError(
                f"{at} has the id {key[0]!r} and the sample {key[1]} of line {seen[key]}: give each its number."
            )
        seen[key] = number
        found.append(sample)
    if not found:
        raise UserError(f"{path} has no samples.")
    if not uneven:
        _check_even(path, found, questions)
    return found


def _sample(at: str, fields: object, by_id: dict, verified: bool) -> Sample:
    if not isinstance(fields, dict):
        raise UserError(f"{at} is no JSON object: each line is one sample with id, sample and text.")
    name, number, text = fields.get("id"), fields.get("sample"), fields.get("text")
    if not is_id(name) or name not in by_id:
        raise UserError(
            f"{at} is of the question {name!r}, which is not among --questions: give the file that was sampled."
        )
    if not isinstance(number, int) or isinstance(number, bool) or not isinstance(text, str):
        raise UserError(f"{at} needs `sample`, an integer, and `text`, a text.")
    if not _is_text(text):
        raise UserError(f"{at} has half of a surrogate pair in its text, which is no character.")
    question = by_id[name]
    if fields.get("prompt_sha256", question.prompt_sha256) != question.prompt_sha256:
        raise UserError(
            f"{at}: question {name!r} had another prompt when it was sampled: give the questions of that time, or sample again."
        )
    reason, verdict = fields.get("finish_reason"), fields.get("verdict", "")
    if not isinstance(reason, (str, type(None))):
        raise UserError(f"{at} has the finish_reason {reason!r}: it is a text, as `stop` or `length`.")
    if verified and verdict not in VERDICTS:
        raise UserError(f"{at} has no verdict, one of {', '.join(VERDICTS)}: give what `dots rft verify` wrote.")
    return Sample(question, number, text, reason, verdict, fields)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_even(path: str, samples: Sequence[Sample], questions: Sequence[Question]) -> None:
    counts = collections.Counter(sample.question.id for sample in samples)
    most = max(counts.values())
    for question in questions:
        if counts[question.id] < most:
            raise UserError(
                f"{path}: question {question.id!r} has {counts[question.id]} samples where others have {most}: finish the "
                "sampling, or add --uneven."
            )
