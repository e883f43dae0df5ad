"""The right letter of a multiple choice item, as each published file tells it."""

import ast
from collections.abc import Mapping, Sequence

from dots_jax.config import UserError
from dots_jax.evaluation.scoring.answer_text import half_width
from dots_jax.evaluation.scoring.letters import score_letter, score_letters
from dots_jax.evaluation.scoring.numbers import score_number
from dots_jax.evaluation.scoring.score import Score

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ANSWER_FIELDS = ("answer_letter", "answerKey", "answer", "label", "gold", "Answer", "correct_answer")


def letter_of(gold, first: int = 0) -> str:
    """The letter of a letter, a number (`first` is that of A), or an item. Raises UserError for anything else."""
    if isinstance(gold, Mapping):
        value = next((gold[name] for name in ANSWER_FIELDS if gold.get(name) is not None), None)
        options = options_of(gold)
        if options and isinstance(value, str) and value not in ALPHABET and value.strip() in options:
            return ALPHABET[options.index(value.strip())]
        gold = value
    text = half_width(str(gold)).strip().strip("().")
    if len(text) == 1 and text.upper() in ALPHABET:
        return text.upper()
    if text.isdecimal() and 0 <= int(text) - first < len(ALPHABET):
        return ALPHABET[int(text) - first]
    raise UserError(
        f"{str(gold)[:80]!r} is no letter and no number of an option: give the item with its options as gold."
    )


def options_of(item: Mapping) -> list[str]:
    """In the forms of C3 (choice), MMLU-Redux (a Python list as text), Xiezhi (lines), ARC (question.choices), and csv files."""
    found = next((item[name] for name in ("choices", "choice", "options", "endings") if item.get(name)), None)
    if found is None and isinstance(item.get("question"), Mapping):
        found = item["question"].get("choices")
    if isinstance(found, Mapping):
        found = found.get("text")
    if isinstance(found, str):
        text = found.strip()
        found = ast.literal_eval(text) if text.startswith("[") else text.strip('"').strip().split("\n")
    if not found:
        found = [item[letter] for letter in "ABCDE" if item.get(letter) is not None]
    return [str(each["text"] if isinstance(each, Mapping) else each).strip() for each in found]


def letters_for(gold, at_least: int) -> str:
    """As many letters as the item has options, which differs from item to item; at_least without options."""
    count = len(options_of(gold)) if isinstance(gold, Mapping) else 0
    return ALPHABET[: count or at_least]


def choice_scorer(number: int, first: int = 0):
    """A scorer of `number` options, or as many as the item has."""

    def score(prediction, gold, tools) -> Score:
        wanted = letter_of(gold, first)
        letters = letters_for(gold, max(number, ALPHABET.index(wanted) + 1))
        return score_letter(str(prediction), wanted, letters)

    return score


def score_cluewsc(prediction, gold, tools) -> Score:
    """A is yes (the label "true"), B is no."""
    label = str(gold["label"] if isinstance(gold, Mapping) else gold).strip().lower()
    if label not in ("true", "false", "a", "b", "1", "0"):
        raise UserError(f"CLUEWSC's label is true or false, but is {label!r}.")
    return score_letter(str(prediction), "A" if label in ("true", "a", "1") else "B", "AB")


def score_redux(prediction, gold, tools) -> Score:
    """Items without a fault count; those with a wrong key count with the corrected one; others are left out by name."""
    if not isinstance(gold, Mapping):
        return score_letter(str(prediction), letter_of(gold))
    fault = str(gold.get("error_type") or "ok").strip().lower().replace(" ", "_")
    options = options_of(gold)
    if fault == "ok":
        return score_letter(str(prediction), letter_of(gold))
    corrected = str(gold.get("correct_answer") or "").strip()
    if fault == "wrong_groundtruth" and corrected:
        if corrected in options:
            return score_letter(str(prediction), ALPHABET[options.index(corrected)])
        if corrected.isdecimal() or corrected.upper() in tuple("ABCD"):
            return score_letter(str(prediction), letter_of(corrected))
    return Score(None, None, {"left_out": fault})


def score_agieval(prediction, gold, tools) -> Score:
    """One letter, several letters (jec-qa: a list, or `AC`), or the answer of a cloze task."""
    label = gold
    if isinstance(gold, Mapping):
        label = gold.get("label") if gold.get("label") else gold.get("answer")
    letters = letters_for(gold, 5)
    if isinstance(label, str) and label.startswith("["):
        label = ast.literal_eval(label)
    if isinstance(label, Sequence) and not isinstance(label, str):
        return score_letters(str(prediction), [str(each) for each in label], letters)
    if isinstance(label, str) and label.strip() and set(label.strip()) <= set("ABCDE"):
        label = label.strip()
        return (
            score_letter(str(prediction), label, letters)
            if len(label) == 1
            else score_letters(str(prediction), label, letters)
        )
    return _score_cloze(str(prediction), str(label), tools)


def _score_cloze(prediction: str, answer: str, tools) -> Score:
    from dots_jax.evaluation.scoring.math_text import find_answer
    from dots_jax.evaluation.scoring.math_verifier import score_math

    if find_answer(prediction) is None and "\n" not in prediction.strip():
        prediction = f"\\boxed{{{prediction.strip()}}}"  # a cloze answer alone
    if find_answer(prediction) is None:
        return score_number(prediction, answer) if any(map(str.isdecimal, answer)) else Score(None, 0.0)
    return score_math(prediction, answer, tools.verifier)
