r"""Answers of mathematics as text: where they stand in a solution, and when two are the same without any algebra.

Sources: hendrycks/math modeling/math_equivalence.py for the steps of `hendrycks_form`. It compares texts, `math_verifier` also
expressions.
"""

import re
from fractions import Fraction

from dots_jax.evaluation.scoring.answer_text import half_width, last_box, this_item, without_emphasis

WORDS = re.compile(r"(?:[A-Za-z]?[a-z]{2,}|[\u4e00-\u9fff]+)(?:[ -][A-Za-z]+)*")  # not expressions: Tuesday, 甲
MOST_LETTERS = 1000  # of an answer; longer ones are no answers, and algebra on them takes minutes
STATEMENT = re.compile(
    r"####\s*|(?i:\b(?:the |my )?(?:final |correct )?answer(?: to (?:this|the) (?:problem|question))?\s*"
    r"(?:(?:is|are|=|:|should be|must be)\s*)+)|"
    r"(?:最终|最后的?|正确)?答案\s*(?:应该|应|就)?\s*(?:(?:是|为|:|等于)\s*)+|(?:^|\n)[ \t]*答\s*:\s*"
)  # fmt: skip
UNITS = (
    r"(?:square |cubic )?(?:units?|degrees?|dollars?|cents?|cm|mm|km|meters?|metres?|feet|foot|inch(?:es)?|miles?|hours?|minutes?|"
    r"seconds?|days?|weeks?|years?|pounds?|grams?|kg|mph|points?|ways|people|students|percent|°)|"
    r"元|个|米|厘米|千米|千克|克|吨|人|天|小时|分钟|岁|本|页|只|辆|棵|度|平方米|平方厘米|立方米|立方厘米|种|次|升"
)


def find_answer(prediction: str) -> str | None:
    r"""What a solution gives as its answer: the last `\boxed{}`, else what follows the last "the answer is", ####, 答案是.

    A statement after the last box wins over it. None without any of them: a number somewhere is no answer.
    """
    text = half_width(this_item(prediction))
    box = last_box(text)
    statements = list(STATEMENT.finditer(text))
    place = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    for match in reversed(statements):
        if box is not None and place > match.start():
            break
        answer = _of_statement(text[match.end() :])
        if answer:
            return answer[:MOST_LETTERS]
    return box[:MOST_LETTERS] if box else None


def _of_statement(text: str) -> str:
    text = text.lstrip()[: 2 * MOST_LETTERS]
    if display := re.match(r"(\*{0,2})\s*(?:\$\$(.+?)\$\$|\\\[(.+?)\\\]|\$(.+?)\$|\\\((.+?)\\\))", text, re.DOTALL):
        rest = text[display.end() :]
        if not re.match(r"\s*(?:,|;|、|and|or|或|和)\s*\$", rest):
            return next(group for group in display.groups()[1:] if group is not None).strip()
    line = re.split(
        r"\n|。|;\s|(?<=[^\d\s])\.\s|(?<=\d)\.\s|,?\s+(?:so|since|because|which|where|as)\b|,?\s*(?:因为|所以)", text
    )[0]
    line = re.sub(r"\.?\s*I hope it is correct.*", "", line)
    return without_emphasis(line).strip().rstrip(".。,").strip()


def plain(answer: str) -> str:
    r"""Without dollar signs, `\text{}`, thousands' separators, spacing, units at the end, and `x =`."""
    text = re.sub(r"\$?\s*(?:、|或|和|\bor\b|,?\s*\band\b)\s*\$?", ",", half_width(answer))
    text = text.strip().strip("$").strip()
    text = re.sub(r"^\\[(\[]|\\[)\]]$", "", text).strip()
    text = re.sub(r"\\(?:left|right|bigl?|bigr?|Bigl?|Bigr?|displaystyle|,|!|;|:|quad|qquad)(?![a-zA-Z])", "", text)
    text = re.sub(r"(?<!\\)\\\s", " ", text)  # a space; behind another backslash it is the end of a row
    text = re.sub(r"(\d)\s*\{,\}\s*(?=\d{3})", r"\1,", text)
    if re.fullmatch(r"[-+]?\$?\d{1,3}(?:,\d{3})+(?:\.\d+)?\D*", text):
        text = text.replace(",", "")
    text = re.sub(r"\\(?:text|textbf|mathrm|mathbf|textrm|mbox|operatorname)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\\\$|\\?€|£|¥|￥", "", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\degree|°", "", text)
    text = re.sub(rf"(?<=[\d}}])\s*(?:{UNITS})(?:\^\{{?[23]\}}?)?\.?\s*$", "", text.strip(), flags=re.IGNORECASE)
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"^\s*[a-zA-Z]\s*\\in\s*", "", text)
    if named := re.fullmatch(r"\s*(?:[A-Za-z](?:_\w|_\{\w+\})?|[a-z]\([a-z]\)|[A-Z]{2,3})\s*=\s*([^=]+)", text):
        text = named[1]
    return " ".join(text.split()).rstrip(".")


def to_number(text: str) -> Fraction | None:
    r"""12, -1.5, 3/4, \frac{3}{4}, 1\frac{1}{2}, 50\%, exactly; None for what is not written as one number."""
    text = text.replace(" ", "").replace("\\%", "%")
    sign, scale = 1, 1
    if text[:1] in ("-", "+"):
        sign, text = (-1 if text[0] == "-" else 1), text[1:]
    if text.endswith("%"):
        text, scale = text[:-1], 100
    if found := re.fullmatch(r"(\d*)\\frac(?:\{(\d+)\}|(\d))(?:\{(\d+)\}|(\d))", text):
        integer, top, bottom = found[1], found[2] or found[3], found[4] or found[5]
        if int(bottom) == 0:
            return None
        return sign * (Fraction(integer or 0) + Fraction(int(top), int(bottom))) / scale
    if found := re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)(?:/(\d+(?:\.\d+)?))?", text):
        if len(text) > 200 or (found[2] and float(found[2]) == 0):
            return None
        return sign * Fraction(found[1]) / (Fraction(found[2]) if found[2] else 1) / scale
    return None


def same_text(answer: str, gold: str) -> bool | None:
    """True and False where it takes no algebra: the same text in hendrycks' form, or two plain numbers. Else None."""
    if hendrycks_form(answer) == hendrycks_form(gold) or hendrycks_form(plain(answer)) == hendrycks_form(plain(gold)):
        return True
    found, wanted = to_number(plain(answer)), to_number(plain(gold))
    if WORDS.fullmatch(plain(gold)):
        return plain(answer).casefold() == plain(gold).casefold()
    if found is not None and wanted is not None:
        percent = "%" in answer and "%" not in gold
        return found == wanted or (percent and found * 100 == wanted)
    return None


def hendrycks_form(text: str) -> str:
    """The normal form of the data set's own script; two answers are equal if their forms are."""
    try:
        return _hendrycks_form(text)
    except (IndexError, ValueError, AssertionError):
        return text


def _hendrycks_form(text: str) -> str:
    text = text.replace("\n", "").replace("\\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac").replace("\\left", "").replace("\\right", "")
    text = text.replace("^{\\circ}", "").replace("^\\circ", "").replace("\\$", "")
    if "\\text{ " in text:
        text, _ = text.split("\\text{ ")  # a unit; raises for two
    text = text.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    text = "0" + text if text[0] == "." else text
    sides = text.split("=")
    text = sides[1] if len(sides) == 2 and len(sides[0]) <= 2 else text
    text = _brace_roots(text).replace(" ", "")
    text = _brace_fractions(text)
    text = "\\frac{1}{2}" if text == "0.5" else text
    parts = text.split("/")
    if len(parts) == 2 and all(re.fullmatch(r"-?\d+", part) and str(int(part)) == part for part in parts):
        text = f"\\frac{{{parts[0]}}}{{{parts[1]}}}"
    return text


def _brace_roots(text: str) -> str:
    first, *rest = text.split("\\sqrt")
    return first + "".join("\\sqrt" + (each if each[0] == "{" else f"{{{each[0]}}}{each[1:]}") for each in rest)


def _brace_fractions(text: str) -> str:
    first, *rest = text.split("\\frac")
    for each in rest:
        if each[0] != "{":
            if len(each) < 2:
                return text
            bottom = each[1] if each[1] == "{" else f"{{{each[1]}}}"
            each = f"{{{each[0]}}}{bottom}{each[2:]}"
        first += "\\frac" + each
    return first
