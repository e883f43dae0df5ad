"""Word problems whose answer is a number: GSM8K and CMath."""

import re
from fractions import Fraction

from dots_jax.evaluation.scoring.answer_text import half_width, last_box, this_item, without_emphasis
from dots_jax.evaluation.scoring.score import Score

MOST_LETTERS = 20_000  # of a prediction, from its end
MOST_STATEMENTS = 20  # of them, likewise
NUMBER = re.compile(
    r"(?<![\w.])-?\d+(?:,\d{3})+(?:\.\d+)?(?!\d)|-?(?:\d+\.?\d*|\.\d+)(?:\s*/\s*\d+(?:\.\d+)?(?![\d/]))?"
)
STATEMENT = re.compile(
    r"####|\b(?:final |correct |total )?answer(?:\s+(?:here|to (?:this|the) (?:question|problem)))?\s*"
    r"(?:is|:|=|would be|should be|must be)+|"
    r"(?:^|\n)[ \t]*A\s*:|答案\s*(?:应该|应|就)?(?:是|为|:)+|(?:^|\n)[ \t]*答\s*:",
    re.IGNORECASE,
)


def plain_numbers(text: str) -> str:
    r"""`9{,}500` and `1\,000` as 9,500 and 1,000, without currency, `\text{}` and emphasis; `\frac{1}{2}` as 1/2."""
    text = without_emphasis(half_width(text))
    text = re.sub(r"(\d)\s*(?:\{,\}|\\,|\\!|\\;|,\\!|\u2009|\u202f|\u00a0)\s*(?=\d{3}(?!\d))", r"\1,", text)
    text = re.sub(r"(?<=\d),,(?=\d{3})", ",", text)
    text = re.sub(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}", r"\1/\2", text)
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"(?<![\d.,])(\d{1,3}) (?=000(?!\d))", r"\1,", text)
    mixed = lambda m: f"{int(m[1]) * int(m[3]) + int(m[2])}/{m[3]}"
    text = re.sub(r"(?<![\d/.,])(\d{1,9}) (\d{1,4})/(\d{1,4})(?![\d/.])", mixed, text)
    text = re.sub(r"-\s*[$€£¥]\s*(?=\d)", "-", text)
    return re.sub(r"\\\$|[$€£¥]|\\[()\[\]]", "", text)


def to_number(text: str) -> Fraction | None:
    """3,600 | -2.50 | 3/4, exactly; None for anything else."""
    parts = text.replace(",", "").replace(" ", "").split("/")
    try:
        value = Fraction(parts[0].rstrip("."))
        return value / Fraction(parts[1]) if len(parts) == 2 else value
    except (ValueError, ZeroDivisionError, IndexError):
        return None


def find_number(prediction: str) -> str | None:
    r"""The number an answer settles on: of the last `####`, "answer is", `A:`, 答案是 or box, else the last one of the text."""
    text = this_item(prediction)[-MOST_LETTERS:]
    box = last_box(half_width(text))
    text = plain_numbers(re.sub(r"<<[^<>]*>>", "", text))
    statements = list(STATEMENT.finditer(text))
    for match in reversed(statements[-MOST_STATEMENTS:]):
        if box is not None and text.rfind("boxed") > match.start():
            break
        end = re.search(r"\n|(?<=[^\d])\.\s|。", text[match.end() :].lstrip()) if text[match.end() :].strip() else None
        rest = text[match.end() :].lstrip()
        sentence = (rest[: end.start()] if end else rest)[:1000]
        if (found := _of_statement(sentence)) is not None:
            return found
    if box is not None and (numbers := NUMBER.findall(plain_numbers(box))):
        return _tidy(numbers[-1])
    numbers = NUMBER.findall(text)
    return _tidy(numbers[-1]) if numbers else None


def _of_statement(sentence: str) -> str | None:
    """The first number; of an equation, the one after its last sign."""
    if re.search(r"=\s*-?\s*[\d.]", sentence):
        sentence = sentence.rpartition("=")[2]
    found = NUMBER.search(sentence)
    return _tidy(found[0]) if found else None


def _tidy(number: str) -> str:
    return number.replace(",", "").replace(" ", "").rstrip(".")


def gsm8k_gold(gold: str | float) -> str:
    """The number after #### of the published answer, or a plain one."""
    found = re.search(r"####\s*(-?[\d.,/]+)", str(gold))
    return _tidy(found[1] if found else str(gold).strip())


def score_number(prediction: str, gold: str | float) -> Score:
    """gold: GSM8K's answer, "... #### 18", or a number. Equal as numbers: 29.00 is 29."""
    found, wanted = find_number(prediction), to_number(gsm8k_gold(gold))
    value = None if found is None else to_number(found)
    return Score(found, float(value is not None and value == wanted))


# --- CMath: XiaoMi/cmath utils.py --------------------------------------------------------------------------------------

HAN = "\u4e00-\u9fa5"
CMATH = tuple(
    re.compile(pattern)
    for pattern in (
        rf"^(\d{{1,40}}[./]?\d{{0,40}}%?) ?(?=[{HAN},，。°℃$])",
        rf"(?<=[{HAN}$:：，＝≈=->{{]) ?(\d{{1,40}}[./]?\d{{0,40}}%?) ?(?:[{HAN},，。°℃$}}（]|\([^\d\s]|\.$)",
        r"(\d{1,40})分之(\d{1,40})",
        rf"(?<=[{HAN}$:：，＝≈=\->]) ?(\d{{1,40}}[./]?\d{{0,40}}%?)$",
        r"^\d{1,40}[./]?\d{0,40}%?$",
    )
)


def cmath_candidates(prediction: str) -> list[str]:
    """The numbers that the authors find, in order; they accept either of the last two."""
    text = re.sub(r"\\frac{([^}]+)}{([^}]+)}", r"\1/\2", prediction)
    text = re.sub(r"(?<=\d)[, ](?=\d)", "", text)
    found = []
    for line in text.splitlines():
        for number, pattern in enumerate(CMATH):
            matches = pattern.findall(line)
            found += [f"{b}/{a}" for a, b in matches] if number == 2 else [match.strip() for match in matches]
    return [each for each in found if not each.startswith("/") and not each.endswith("/")]


def cmath_value(text: str) -> float | int:
    """A percentage is a hundredth; raises ValueError."""
    text = text.strip()
    if text.endswith("%"):
        return float(text.replace("%", "")) / 100
    if "/" in text:
        parts = text.split("/")
        return float(parts[0]) / float(parts[1]) if len(parts) == 2 and float(parts[1]) else 0
    return float(text) if "." in text else int(text)


def score_cmath(prediction: str, gold: str) -> Score:
    """Right if either of the last two numbers agrees: integers exactly, others within one percent."""
    text = half_width(without_emphasis(this_item(prediction)))
    candidates = (cmath_candidates(text) or ([found] if (found := find_number(prediction)) else []))[-2:]
    wanted = cmath_value(str(gold))

    def agrees(text: str) -> bool:
        try:
            value = cmath_value(text)
        except ValueError:
            return False
        if isinstance(value, int) and isinstance(wanted, int):
            return value == wanted
        return abs(value - wanted) / (min(abs(value), abs(wanted)) + 1e-6) < 1e-2

    return Score(candidates[::-1] or None, float(any(map(agrees, candidates))))
