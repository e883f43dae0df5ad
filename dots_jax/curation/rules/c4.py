"""C4's rules: lines without an end of sentence, too short or about scripts and cookies go, and so do pages of code."""

import re

from dots_jax.curation.rules.clutter import Line

_END = (".", "?", "!", '"', "'")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_SENTENCE = re.compile(r"[.!?]+[\"')\]]*(?:\s|$)")
_MIN_WORDS, _MAX_WORD = 3, 1000


def find(text: str) -> list[Line]:
    """The lines that C4 removes."""
    found = []
    for number, line in enumerate(text.split("\n")):
        bare = line.strip()
        reason = _reason(bare) if bare else ""
        if reason:
            found.append(Line(number, line, f"c4 {reason}"))
    return found


def _reason(line: str) -> str:
    parts = line.split()
    if len(line) > _MAX_WORD and max(map(len, parts)) > _MAX_WORD:
        return "long word"
    if not line.endswith(_END) or line.endswith("..."):
        return "no end"
    if len(parts) < _MIN_WORDS:
        return "few words"
    lower = line.lower()
    if "javascript" in lower:
        return "javascript"
    return "policy" if any(phrase in lower for phrase in _POLICY) else ""


def page_reason(text: str) -> str:
    """Why C4 removes the page, or an empty string."""
    if "{" in text:
        return "c4 curly bracket"
    return "c4 lorem ipsum" if "lorem ipsum" in text.lower() else ""


def sentences(text: str) -> int:
    """Ends of sentences; C4's own count is of NLTK's sentences."""
    return sum(max(len(_SENTENCE.findall(line)), 1) for line in text.split("\n") if line.strip())
