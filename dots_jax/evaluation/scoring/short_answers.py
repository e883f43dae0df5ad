"""Answers of a few words: TriviaQA, Natural Questions, DROP, LAMBADA, BBH.

Sources: mandarjoshi90/triviaqa evaluation/triviaqa_evaluation.py, SQuAD's normalisation as in google-research's orqa, AllenNLP's
drop_eval.py (with its two known defects: "23.5%" becomes 235, and a token with a newline stays one token), BIG-Bench Hard.
"""

import re
import string
import unicodedata
from collections.abc import Sequence

from dots_jax.evaluation.scoring.answer_text import half_width, this_item, without_emphasis
from dots_jax.evaluation.scoring.score import Score

ARTICLES = re.compile(r"\b(a|an|the)\b")
ANSWER_LINE = re.compile(r"(?im)^[^\w\n]*(?:final |short )?answer[^\w\n:]*:[ \t*]*([^\n]+)")
ANSWER_IS = re.compile(r"(?is)^\s*(?:so|therefore|thus)?,?\s*the (?:correct |final )?answer is:?\s+(.+)")


def short_answer(prediction: str) -> str:
    """The answer itself, of a base model's continuation or of a chat reply with an `Answer:` line (its last)."""
    text = this_item(prediction).strip()
    if lines := ANSWER_LINE.findall(text):
        return lines[-1].strip().strip("*").strip()
    found = ANSWER_IS.match(text)
    return found[1].strip() if found else text


def composed(text: str) -> str:
    """Predictions come in this form (`this_item`), so that published answers must have it too."""
    return unicodedata.normalize("NFC", text)


def normalize_triviaqa(text: str) -> str:
    exclude = set(string.punctuation + "‘’´`")
    text = composed(text).replace("_", " ").lower()
    text = "".join(" " if letter in exclude else letter for letter in text)
    return " ".join(ARTICLES.sub(" ", text).split())


def normalize_squad(text: str) -> str:
    """With every accent as a letter of its own, as orqa's evaluation has it."""
    text = unicodedata.normalize("NFD", text).lower()
    text = "".join(letter for letter in text if letter not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", text).split())


def triviaqa_aliases(gold) -> list[str]:
    """gold: a text, a list of them, or TriviaQA's Answer in the official spelling or that of Hugging Face."""
    if isinstance(gold, dict):
        gold = gold.get("Answer", gold.get("answer", gold)) if not _aliases(gold) else gold
        return _aliases(gold) if isinstance(gold, dict) else triviaqa_aliases(gold)
    return [gold] if isinstance(gold, str) else list(gold)


def _aliases(gold: dict) -> list[str]:
    names = ("NormalizedAliases", "normalized_aliases", "Aliases", "aliases", "HumanAnswers", "Value", "value")
    found = [gold[name] for name in names if gold.get(name)]
    return [text for each in found for text in ([each] if isinstance(each, str) else each)]


def _any_equal(prediction: str, golds: Sequence[str], normalize) -> Score:
    """The first line is the answer; a line break inside an answer is white space, as it is officially."""
    text = short_answer(prediction)
    wanted = {normalize(gold) for gold in golds}
    for candidate in dict.fromkeys((text.partition("\n")[0], text)):
        if normalize(candidate) in wanted and candidate.strip():
            return Score(candidate.strip(), 1.0)
    return Score(text.partition("\n")[0].strip() or None, 0.0)


def score_triviaqa(prediction: str, gold) -> Score:
    return _any_equal(prediction, triviaqa_aliases(gold), normalize_triviaqa)


def score_nq(prediction: str, gold: str | Sequence[str]) -> Score:
    return _any_equal(prediction, [gold] if isinstance(gold, str) else gold, normalize_squad)


def score_lambada(prediction: str, gold: str) -> Score:
    """The first word of the continuation is the last word of the passage."""
    words = prediction.split()
    found = words[0].strip(string.punctuation + "“”‘’") if words else None
    return Score(found or None, float(found == gold.strip().strip(string.punctuation)))


# --- DROP ----------------------------------------------------------------------------------------------------------------


def _is_number(text: str) -> bool:
    try:
        float(text)
        return True
    except ValueError:
        return False


def normalize_drop(text: str) -> str:
    parts = []
    for token in re.split(" |-", composed(text)):
        token = token.lower()
        if not _is_number(token):
            token = "".join(letter for letter in token if letter not in string.punctuation)
        token = str(float(token)) if _is_number(token) else token
        token = " ".join(ARTICLES.sub(" ", token).split())
        if token.strip():
            parts.append(token)
    return " ".join(parts).strip()


def drop_metrics(predicted: str | Sequence[str], gold: str | Sequence[str]) -> tuple[float, float]:
    """Exact match, and F1 over the best assignment of spans, rounded to two decimals as the official script does."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    spans = [[each] if isinstance(each, str) else list(each) for each in (predicted, gold)]
    predicted_spans, gold_spans = ([normalize_drop(span) for span in each] for each in spans)
    exact = set(predicted_spans) == set(gold_spans) and len(predicted_spans) == len(gold_spans)
    scores = np.array([[_bag_f1(set(p.split()), set(g.split())) for p in predicted_spans] for g in gold_spans])
    rows, columns = linear_sum_assignment(-scores)
    best = np.zeros(max(len(gold_spans), len(predicted_spans)))
    for row, column in zip(rows, columns):
        best[row] = max(best[row], scores[row, column])
    return float(exact), round(float(np.mean(best)), 2)


def _bag_f1(predicted: set[str], gold: set[str]) -> float:
    numbers = {word for word in gold if _is_number(word)}
    if numbers and not numbers & {word for word in predicted if _is_number(word)}:
        return 0.0
    common = len(gold & predicted)
    precision = common / len(predicted) if predicted else 1.0
    recall = common / len(gold) if gold else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def drop_answers(gold) -> list[tuple[str, ...]]:
    """Each accepted answer as its spans. gold: a text, a list of texts, an answer, a qa_pair with validated_answers, or
    simple-evals' ref_text, whose answers stand between bars."""
    if isinstance(gold, str):
        return [(each,) for each in gold.split("|")]
    if isinstance(gold, dict):
        if "ref_text" in gold:
            return drop_answers(gold["ref_text"])
        if "answer" in gold:
            return [_drop_spans(each) for each in [gold["answer"], *(gold.get("validated_answers") or [])]]
        return [_drop_spans(gold)]
    return [_drop_spans(each) if isinstance(each, dict) else (each,) for each in gold]


def _drop_spans(answer: dict) -> tuple[str, ...]:
    if answer.get("number"):
        return (str(answer["number"]),)
    if answer.get("spans"):
        return tuple(answer["spans"])
    date = answer.get("date") or {}
    return (" ".join(str(date.get(part, "")) for part in ("day", "month", "year")),)


def score_drop(prediction: str | Sequence[str], gold) -> Score:
    """`value` is F1, the report's figure; `details` has the exact match."""
    found = prediction
    if isinstance(prediction, str):
        found = short_answer(prediction)
        found = re.split(r"\n\s*\n", found)[0].strip() if found else found
    results = [drop_metrics(found, spans) for spans in drop_answers(gold) if spans[0].strip()]
    exact, f1 = (max(values) for values in zip(*results)) if results and found else (0.0, 0.0)
    return Score(found or None, f1, {"em": exact, "f1": f1})


# --- BIG-Bench Hard --------------------------------------------------------------------------------------------------------


def find_bbh(prediction: str) -> str | None:
    """What follows "the answer is" to the end of its line, without the full stop."""
    text = without_emphasis(this_item(prediction))
    if text.startswith("\n\n"):
        text = text.lstrip("\n")
    found = re.findall(r"(?i)\banswer is:?[ \t]+([^\n]*)", half_width(text).partition("\n\nQ:")[0])
    answer = found[-1] if found else (text.strip() if "\n" not in text.strip() else None)
    return None if answer is None else answer.strip().removesuffix(".").strip() or None


def score_bbh(prediction: str, gold: str) -> Score:
    found = find_bbh(prediction)
    if found is None:
        return Score(None, 0.0)
    same = found == gold or found.lower() == gold.lower()
    choice = re.fullmatch(r"\(([A-Z])\)", gold)
    if choice and not re.search(r"\([A-Z]\).*\([A-Z]\)", found):  # "(A) or (B)" settles on nothing
        same = same or re.match(rf"\(?{choice[1]}(?:\)|\.|:|$)", found) is not None
    return Score(found, float(same))
