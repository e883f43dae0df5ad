"""What travels through the steps: a page, the document that it becomes, and the ledger's row of what was removed.

Standard library only. All are NamedTuples: a step returns `record._replace(...)` and never changes one in place.
"""

import hashlib
import json
from typing import Literal, NamedTuple

SAMPLE = 200  # characters of a removed text that the ledger keeps

Kind = Literal["file", "page", "document", "line", "part"]


class Page(NamedTuple):
    """What a web server answered. `html` is set by decoding.

    id: of the user, or the WARC-Record-ID, or the file's name, or a hash of the content; never of its place in the input,
    so that the corpus does not depend on how the input is cut into files. content_type: the header, as it was sent.
    """

    id: str
    url: str
    body: bytes
    content_type: str = ""
    date: str = ""  # ISO 8601, as archived
    html: str | None = None
    encoding: str = ""  # a Python codec; set by decoding


class Document(NamedTuple):
    """A text on its way into the corpus. Fields stand in the output under these names."""

    id: str
    url: str
    text: str
    date: str = ""
    crawl: str = ""
    encoding: str = ""  # of the page; empty for what came as text
    extractor: str = ""  # `trafilatura` or `resiliparse`; empty for what came as text
    language: str = ""  # ISO 639-1 or -3, as fastText writes it
    language_score: float = 0.0  # probability, 4 decimals
    scores: tuple[tuple[str, float], ...] = ()  # (step, score) of the steps that score


Record = Page | Document


class Removal(NamedTuple):
    """One row of the ledger. `pages`, `documents`, `lines` and `characters` say what left the corpus with it: the books add
    them up.

    kind: `file` for input that is no record, as the lost end of a truncated file: it counts as no page; `part` for characters
    of a document that were replaced: `characters` is how much shorter it is. other: the id of the document that is kept
    instead. text: a removed line, or the beginning of a removed text.
    """

    kind: Kind
    step: str
    reason: str
    id: str
    url: str = ""
    score: float | None = None
    other: str = ""
    lines: int = 0
    characters: int = 0
    text: str = ""
    detail: str = ""  # what a library or the reader said
    language: str = ""  # of a document, once it is known

    def short(self) -> "Removal":
        """With no more text than a sample."""
        return self._replace(text=self.text[:SAMPLE], detail=self.detail[:SAMPLE])


class Read(NamedTuple):
    """What a reader yields: a record, or the row of one that it cannot use, and where it stands."""

    record: Page | Document | Removal
    file: str
    offset: int  # bytes from the beginning of the file, of the gzip member in a .gz; the number of a row or line


def count_lines(text: str) -> int:
    """Lines of a text; an empty one has none."""
    return text.count("\n") + 1 if text else 0


def removal(record: Record, step: str, reason: str, *, score: float | None = None, other: str = "", detail: str = ""):
    """The row for a complete page or document."""
    if isinstance(record, Page):
        return Removal("page", step, reason, record.id, record.url, score, other, detail=detail).short()
    text, lines = record.text, count_lines(record.text)
    row = Removal(
        "document", step, reason, record.id, record.url, score, other, lines, len(text), text, detail, record.language
    )
    return row.short()


def key_of(seed: int, id: str) -> int:
    """64 bits that order documents: uniform, and a function of (seed, id) alone."""
    digest = hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8, key=seed.to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "big")


def digest_of(line: bytes) -> int:
    """64 bits of a document as it is written: tells two documents of one id apart."""
    return int.from_bytes(hashlib.blake2b(line, digest_size=8).digest(), "big")


def content_id(prefix: str, *parts: str | bytes) -> str:
    """An id for a record without one, from its content: the same wherever it stands."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "little") + data)
    return f"{prefix}:{hasher.hexdigest()}"


def to_line(row: Document | Removal) -> bytes:
    """One line of JSON in UTF-8. A ledger's row goes without the fields that have their default value."""
    fields = row._asdict()
    if isinstance(row, Document):
        fields["scores"] = dict(row.scores)
    else:
        fields = {name: value for name, value in fields.items() if value != row._field_defaults.get(name, row)}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def clean(text: str) -> str:
    """Text that can be written: lone surrogates become `?`, and NUL goes."""
    return text.encode("utf-8", "replace").decode().replace("\0", "") if text else text


def document_of(line: bytes) -> Document:
    fields = json.loads(line)
    fields["scores"] = tuple(fields.get("scores", {}).items())
    return Document(**fields)


def removal_of(line: bytes) -> Removal:
    return Removal(**json.loads(line))
