"""Lines that are no text: RefinedWeb's line rules, and for Chinese those of them that make sense there.

A text whose removed lines hold more than a share of its words is no document. All other lines keep their bytes.
"""

import re
import string
from typing import NamedTuple

from dots_jax.curation.words import HAN, words

_COUNTED = (
    "likes?|shares?|comments?|retweets?|reposts?|quotes?|bookmarks?|upvotes?|downvotes?|downloads?|views?|followers?"
)
_COUNTER = re.compile(rf"\W*\d[\d,.]*\s?[kmb]?\+?\s+(?:{_COUNTED})\W*", re.IGNORECASE)
_HAN_COUNTED = "阅读|閱讀|评论|評論|点赞|點贊|赞|讚|收藏|分享|转发|轉發|浏览|瀏覽|播放|粉丝|粉絲|回复|回覆|下载|下載"
_HAN_COUNTER = re.compile(
    rf"\W*(?:(?:{_HAN_COUNTED})(?:数|數|量|次数)?[\s:：(（]*\d[\d,.]*[万萬亿]?|\d[\d,.]*[万萬亿]?\s*(?:次|人|个|條|条)?(?:{_HAN_COUNTED}))\W*"
)
_HAN_PROMPTS = ("展开", "展開", "更多", "展开全文", "阅读全文", "閱讀全文", "查看更多")
_LETTER_OR_HAN = re.compile(r"[^\W\d_]")
_UPPER = string.ascii_uppercase.encode()
_PROMPT_WORDS, _LONG = 10, 200


class Line(NamedTuple):
    """A line that goes. number: from 0."""

    number: int
    text: str
    reason: str


def find(text: str, latin: bool = True) -> list[Line]:
    """The clutter of a text, by line. Lines without any character but white space stay. latin: see
    RuleThresholds.clutter_latin."""
    found = []
    for number, line in enumerate(text.split("\n")):
        bare = line.strip()
        if not bare:
            continue
        long = len(bare) >= _LONG  # a line of prose, which the other patterns cannot match
        reason = ("capitals" if latin and _capitals(bare) else "") if long else _reason(bare, latin)
        if reason:
            found.append(Line(number, line, f"clutter {reason}"))
    return found


def _reason(line: str, latin: bool) -> str:
    if not _LETTER_OR_HAN.search(line):
        return "digits" if any(map(str.isdigit, line)) else ""
    if HAN.search(line):
        if _HAN_COUNTER.fullmatch(line):
            return "counter"
        return "prompt" if line.rstrip(".>» …").endswith(_HAN_PROMPTS) and len(line) <= 20 else ""
    parts = line.split(None, _PROMPT_WORDS)
    if latin and len(parts) == 1:
        return "one word"
    if line[0].isdigit() or not line[0].isalnum():
        if _COUNTER.fullmatch(line):
            return "counter"
    if latin and _capitals(line):
        return "capitals"
    if len(parts) <= _PROMPT_WORDS:
        lower = line.lower()
        if "items in cart" in lower or lower.endswith(("read more...", "read more\u2026")) or _signs_in(lower):
            return "prompt"
    return ""


def _signs_in(lower: str) -> bool:
    return lower.startswith(("sign-in", "sign in", "log in", "login"))


def _capitals(line: str) -> bool:
    """More than half of all characters are A to Z. Bytes, since counting characters would cost as much as all other rules."""
    data = line.encode("utf-8", "replace")
    return len(data) - len(data.translate(None, _UPPER)) > len(line) / 2


def without(text: str, lines: list[Line]) -> str:
    """The text without these lines and their line ends."""
    if not lines:
        return text
    gone = {line.number for line in lines}
    return "\n".join(line for number, line in enumerate(text.split("\n")) if number not in gone)


def count_words(lines: list[Line]) -> int:
    return sum(len(words(line.text)) for line in lines)
