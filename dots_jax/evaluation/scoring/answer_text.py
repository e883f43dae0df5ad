"""From a prediction to the part of it that answers this item."""

import re
import unicodedata

# What a base model writes when it goes on with an item of its own. Rows have stop strings; predictions of others may not.
NEXT_ITEM = re.compile(
    r"\n[ \t]*(?:Passage|Question|Q|Problem|Title|Context|问题|题目|例题|问)\s*\d*\s*[:：]|"
    r"\n[ \t]*(?:以下是|Follow the previous examples)|"
    r"<\|endoftext\|>|<\|endofresponse\|>|<\|im_end\|>|</s>"
)
MOST_BOXES = 40  # of a text, from its end: an endless row of open ones would cost quadratic time
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20, 0x2212: 0x2D, 0x2013: 0x2D}


def half_width(text: str) -> str:
    """Full-width Latin letters, digits and punctuation as ASCII: Ｂ -> B, （ -> (, ： -> :, － -> -; and the minus sign."""
    return text.translate(FULL_WIDTH)


def this_item(text: str) -> str:
    """Without the thoughts before `</think>` and without the next item that the model made up."""
    text = unicodedata.normalize("NFC", text).rpartition("</think>")[2]
    for found in NEXT_ITEM.finditer(text):
        if text[: found.start()].strip():
            return text[: found.start()]
    return text


def without_emphasis(text: str) -> str:
    """Without Markdown's bold and code marks."""
    return re.sub(r"\*\*|__|`", "", text)


def last_box(text: str) -> str | None:
    r"""What stands in the last balanced `\boxed{...}` (or `\fbox`, or `\boxed 5`), None without one.

    Boxes that follow each other with nothing but a comma or an `and` between them are one answer: `3,4`.
    """
    boxes = _boxes(text)
    if not boxes:
        return None
    start, _, answer = boxes[-1]
    for earlier_start, earlier_end, content in reversed(boxes[:-1]):
        if not re.fullmatch(r"[\s$]*(?:,|、|;|and|or|和|或|,\s*and)?[\s$]*", text[earlier_end:start]):
            break
        if content != answer:
            answer = f"{content},{answer}"
        start = earlier_start
    return answer.strip()


def _boxes(text: str) -> list[tuple[int, int, str]]:
    found = []
    for match in list(re.finditer(r"\\(?:boxed|fbox)\s*", text))[-MOST_BOXES:]:
        at = match.end()
        if at < len(text) and text[at] == "{":
            end = _closing(text, at)
            if end is not None and text[at + 1 : end].strip():
                found.append((match.start(), end + 1, text[at + 1 : end]))
        elif short := re.match(r"\\[a-z]+\{[^{}]*\}(?:\{[^{}]*\})?|[-+]?[\d.]*\d|[A-Za-z]", text[at:]):
            found.append((match.start(), at + short.end(), short[0]))
    inner = {n for n, box in enumerate(found) for other in found if other[0] < box[0] and box[1] < other[1]}
    return [(start, end, _without_boxes(text)) for n, (start, end, text) in enumerate(found) if n not in inner]


def _without_boxes(text: str) -> str:
    r"""`\boxed{\boxed{5}}` is 5."""
    inner = re.fullmatch(r"\s*\\(?:boxed|fbox)\s*\{(.*)\}\s*", text, re.DOTALL)
    return _without_boxes(inner[1]) if inner else text


def _closing(text: str, opening: int) -> int | None:
    depth, at = 0, opening
    while at < len(text):
        if text[at] == "\\":
            at += 1  # \{ and \} are no braces
        elif text[at] == "{":
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    return None
