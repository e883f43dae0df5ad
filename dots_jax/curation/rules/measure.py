"""Every number of a text that a rule compares with a limit, in one pass over its words and lines.

Ratios are computed as Gopher's and FineWeb's reference implementations do. The tokens decide about words: ours have no
punctuation, and others may be passed in to compare.
"""

import functools
import re
from collections.abc import Sequence

import numpy as np

from dots_jax.config import RuleThresholds
from dots_jax.curation.rules import ngrams
from dots_jax.curation.words import HAN, words

_PARAGRAPHS = re.compile(r"\n{2,}")
_BULLETS, _ELLIPSES = ("\u2022", "-"), ("...", "\u2026")
_SPACE = re.compile(r"\s+")


def measure(text: str, limits: RuleThresholds, tokens: Sequence[str] | None = None) -> dict[str, float]:
    """Names as the ledger writes them, in the order in which `judge` looks at them. An empty text gives {"words": 0}."""
    if not text or text.isspace():
        return {"words": 0}
    own = tokens is None  # then every token is a word
    tokens = words(text) if own else tokens
    unique = list(dict.fromkeys(tokens))
    number_of = dict(zip(unique, range(len(unique))))
    ids = np.fromiter(map(number_of.__getitem__, tokens), np.int64, len(tokens))
    lengths = np.fromiter(map(len, unique), np.int64, len(unique))[ids]
    spoken = np.ones(len(ids), bool) if own else np.array(list(map(_has_word_character, unique)), bool)[ids]
    return {
        **_of_words(text, ids, unique, lengths, spoken, limits),
        **_of_lines(text, len(ids), limits),
        **_of_repetition(text, ids, lengths, limits),
    }


def _of_words(text: str, ids, unique: list[str], lengths, spoken, limits: RuleThresholds) -> dict[str, float]:
    total = len(ids) or 1
    letters = np.array([token.isalpha() or any(map(str.isalpha, token)) for token in unique], bool)
    count = int(spoken.sum())
    return {
        "characters": len(text),
        "words": count,
        "mean word length": float(lengths[spoken].sum()) / count if count else 0.0,
        "hashes": text.count("#") / total,
        "ellipses": sum(map(text.count, _ELLIPSES)) / total,
        "words with a letter": float(letters[ids].sum()) / total,
        "stop words": len(_stop_words(limits.stop_words).intersection(unique)),
        "newlines": text.count("\n") / total,
        **({"Han characters": _han(text)} if limits.min_han is not None else {}),
    }


_stop_words = functools.cache(frozenset)


def _has_word_character(token: str) -> bool:
    return token.isalnum() or any(map(str.isalnum, token))


def _han(text: str) -> float:
    return len(HAN.findall(text)) / (len(_SPACE.sub("", text)) or 1)


def _of_lines(text: str, num_words: int, limits: RuleThresholds) -> dict[str, float]:
    lines = text.splitlines()
    filled = [line for line in text.split("\n") if line and not line.isspace()]
    ends = tuple(limits.terminal_punctuation)
    number, size = len(filled), sum(map(len, filled))
    punctuated = [line for line in filled if line.endswith(ends)]
    short = limits.short_line
    return {
        "bullet lines": sum(line.lstrip().startswith(_BULLETS) for line in lines) / len(lines),
        "ellipsis lines": sum(line.rstrip().endswith(_ELLIPSES) for line in lines) / len(lines),
        "lines with punctuation": len(punctuated) / number,
        "characters with punctuation": sum(map(len, punctuated)) / size,
        "short lines": sum(len(line) <= short for line in filled) / number,
        "mean line length": size / number,
        "repeated line characters": _duplicates(filled)[1] / (len(text) - text.count("\n")),
    }


def _of_repetition(text: str, ids, lengths, limits: RuleThresholds) -> dict[str, float]:
    size = len(text)
    bare = text.strip()
    paragraphs = _PARAGRAPHS.split(bare) if "\n\n\n" in bare else bare.split("\n\n")
    # What `\n+` splits, without a regular expression: an empty part stands at an end that is a line end.
    lines = [*[""][: text[0] == "\n"], *filter(None, text.split("\n")), *[""][: text[-1] == "\n"]]
    of_paragraphs, of_lines = _duplicates(paragraphs), _duplicates(lines)
    found = {
        "duplicate paragraphs": of_paragraphs[0] / len(paragraphs),
        "duplicate paragraph characters": of_paragraphs[1] / size,
        "duplicate lines": of_lines[0] / len(lines),
        "duplicate line characters": of_lines[1] / size,
    }
    top, duplicate = ([n for n, _ in pairs] for pairs in (limits.top_ngrams, limits.duplicate_ngrams))
    repeated = ngrams.repetition(ids, lengths, top, duplicate)
    for kind, sizes in (("top", top), ("duplicate", duplicate)):
        found |= {f"{kind} {n}-gram": repeated.get((kind, n), 0) / size for n in sizes}
    return found


def _duplicates(parts: Sequence[str]) -> tuple[int, int]:
    """(parts, characters) that stood before."""
    if len(set(parts)) == len(parts):
        return 0, 0
    seen, number, characters = set(), 0, 0
    for part in parts:
        if part in seen:
            number += 1
            characters += len(part)
        else:
            seen.add(part)
    return number, characters
