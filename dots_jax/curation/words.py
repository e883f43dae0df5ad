"""The words of a text, once for all rules and shingles: without punctuation; Han characters are cut by jieba.

Outside Han text a word is letters and digits, joined by apostrophes, hyphens and points inside it. Languages that are written
without spaces and without Han characters, such as Thai, are not cut.
"""

import re
from collections.abc import Iterator

import rjieba

HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_WORD = re.compile(r"[^\W_]+(?:['\u2019.\-_][^\W_]+)*")


def words(text: str) -> list[str]:
    """In order, as they stand in the text."""
    if not HAN.search(text):
        return _WORD.findall(text)
    return list(_cut(text))


def _cut(text: str) -> Iterator[str]:
    for run in _WORD.findall(text):
        if HAN.search(run):
            yield from rjieba.cut(run)
        else:
            yield run
