"""Line-wise deduplication across documents: of a line that begins or ends many documents, the first 200 occurrences stay.

1. The first 5 and last 5 lines of each document count, among those with a letter or a number; with 10 or fewer, each once.
2. Equal lines have equal keys: NFC, white space squeezed and stripped; case is kept.
3. The occurrences of a key are ordered by (crawl, key of the document, place in it), over the complete corpus and all crawls
   before; from the 201st on, a document loses that line at that place. The same words in its middle stay.
4. All other bytes of a document stay. One without any text after that is removed as `lines`.
The report gives 5, 5 and 200; the rest is our reading.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from dots_jax.config import CurateConfig, LineConfig
from dots_jax.curation.exchange import DECISION
from dots_jax.curation.protocol import Outcome
from dots_jax.curation.record import Document, Removal, removal

# An occurrence; in the state of a crawl, all those of a line in one row.
ROW = np.dtype(
    [("line", "<u8"), ("crawl", "<u4"), ("key", "<u8"), ("digest", "<u8"), ("position", "<i8"), ("count", "<u8")]
)
_LETTER_OR_NUMBER, _SPACE = re.compile(r"[^\W_]"), re.compile(r"\s+")


def line_key(line: str) -> int:
    """64 bits of a line."""
    return int.from_bytes(hashlib.blake2b(_bare(line).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _bare(line: str) -> str:
    line = line.strip()
    if not line.isascii():
        line = unicodedata.normalize("NFC", line)
    return _SPACE.sub(" ", line)


def ends(text: str, config: LineConfig) -> list[tuple[int, str]]:
    """(place among all lines, line) of the lines that count, in order."""
    lines = text.split("\n")
    head = _some(enumerate(lines), config.head)
    after = head[-1][0] if head else -1
    backwards = ((place, lines[place]) for place in range(len(lines) - 1, after, -1))
    return head + _some(backwards, config.tail)[::-1]


def _some(lines, number: int) -> list[tuple[int, str]]:
    found = []
    if number:
        for place, line in lines:
            if _LETTER_OR_NUMBER.search(line):
                found.append((place, line))
                if len(found) == number:
                    break
    return found


def rows(documents: Sequence[Document], keys: np.ndarray, digests: np.ndarray, config: CurateConfig) -> np.ndarray:
    """A row for every line that counts."""
    lines, places, owners = [], [], []
    for number, document in enumerate(documents):
        for place, line in ends(document.text, config.lines):
            lines.append(line_key(line))
            places.append(place)
            owners.append(number)
    found = np.zeros(len(lines), ROW)
    found["line"], found["position"], found["count"] = np.array(lines, np.uint64), places, 1
    owners = np.array(owners, np.int64)
    found["key"], found["digest"] = keys[owners], digests[owners]
    return found


def _groups(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(where each line's rows begin, occurrences of the same line before each row)."""
    first = np.concatenate([[True], rows["line"][1:] != rows["line"][:-1]])
    before = np.cumsum(rows["count"]) - rows["count"]
    starts = np.flatnonzero(first)
    return starts, before - before[starts][np.cumsum(first) - 1]


def decide(rows: np.ndarray, config: CurateConfig) -> np.ndarray:
    """A verdict for each occurrence after the first `keep`; its score is the number of the occurrence, from 1."""
    if len(rows) == 0:
        return np.empty(0, DECISION)
    _, before = _groups(rows)
    lost = before >= config.lines.keep
    found = np.zeros(int(lost.sum()), DECISION)
    for field in ("key", "digest", "position"):
        found[field] = rows[field][lost]
    found["score"] = before[lost] + 1
    return found


def condense(rows: np.ndarray, config: CurateConfig) -> np.ndarray:
    """What later crawls need: the number of occurrences of each line."""
    if len(rows) == 0:
        return rows
    starts, _ = _groups(rows)
    found = np.zeros(len(starts), ROW)
    found["line"], found["crawl"] = rows["line"][starts], rows["crawl"][starts]
    found["count"] = np.add.reduceat(rows["count"], starts)
    return found


def apply(document: Document, decisions: np.ndarray, id_of: Callable[[int], str], config: CurateConfig) -> Outcome:
    """The document without these lines, and a row of the ledger for each."""
    if len(decisions) == 0:
        return Outcome([document], [])
    scores = dict(zip(decisions["position"].tolist(), decisions["score"].tolist()))
    lines = document.text.split("\n")
    text = "\n".join(line for place, line in enumerate(lines) if place not in scores)
    if not text.strip():
        return Outcome([], [removal(document, "lines", "lines")])
    gone = [
        line_row(document, place, lines[place], "lines", "frequent line", scores[place]) for place in sorted(scores)
    ]
    return Outcome([document._replace(text=text)], gone)


def line_row(document: Document, place: int, line: str, step: str, reason: str, score: float | None = None) -> Removal:
    """The ledger's row of one line, counted from 0. Its characters count the line end that goes with it."""
    detail = f"line {place + 1}"
    row = Removal("line", step, reason, document.id, document.url, score, "", 1, len(line) + 1, line, detail)
    return row.short()
