"""Fenced blocks of the README and the pages, and the shell commands in them."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/pod_notes.md")
PAGES = [ROOT / name for name in TOP if (ROOT / name).exists()] + sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.S | re.M)


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks(language: str) -> list[Block]:
    """All blocks of this language; '' are those without one."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in FENCE.finditer(text):
            line = text[: match.start()].count("\n") + 1
            found.append(Block(str(page.relative_to(ROOT)), line, match[2], match[3]))
    return [block for block in found if block.language == language]


def commands(text: str) -> list[list[str]]:
    """The words of each simple command; loops are opened, comments and assignments dropped."""
    lines = text.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        line = re.sub(r"\$'((?:[^'\\]|\\.)*)'", lambda m: shlex.quote(m[1].encode().decode("unicode_escape")), line)
        words = shlex.split(line, comments=True)
        if words and words[0] not in ("for", "done") and not re.match(r"\w+=", words[0]):
            found.append(words)
    return found


def options(words: list[str]) -> set[str]:
    return {word[2:].split("=")[0] for word in words if word.startswith("--")}
