"""The user's labels: JSON lines of text, label, language, and site or url.

Kind `document`: `label` is one label, a string or an integer. Kind `line`: `label` is a list with one label for each line of the
text. A row that cannot be used is refused by its place, since a label that is left out in silence changes what is measured.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from dots_jax.config import UserError
from dots_jax.curation.url import host_of
from dots_jax.data.sources.json_lines import Malformed, read_rows

KINDS = ("document", "line")
MOST_CLASSES = 200  # the report's


class Row(NamedTuple):
    """labels: of the document, or of each of its lines."""

    text: str
    labels: tuple[str, ...]
    language: str
    site: str


def read_labels(path: str, kind: str) -> list[Row]:
    """Raises UserError for the first row that cannot be used, and for fewer than 2 or more than 200 different labels."""
    rows = []
    for number, row in read_rows(path):
        rows.append(_row(row, kind, f"{path}:{number}"))
    classes = classes_of(rows)
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise UserError(
            f"{path} has {len(classes)} different labels in {len(rows):,} rows, but a head has 2 to {MOST_CLASSES}: label texts "
            "of every class."
        )
    return rows


def classes_of(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(sorted({label for row in rows for label in row.labels}))


def count(rows: Sequence[Row]) -> Counter:
    """How often each label stands."""
    return Counter(label for row in rows for label in row.labels)


def _row(row: object, kind: str, place: str) -> Row:
    if isinstance(row, Malformed):
        raise UserError(f"{place} is no JSON line ({row.reason}): correct or remove it.")
    if not isinstance(row, dict):
        raise UserError(
            f"{place} is no object: write a row as {{'text': ..., 'label': ..., 'language': ..., 'site': ...}}."
        )
    text, label, url = row.get("text"), row.get("label"), row.get("url")
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{place} has no text: give the field text, or remove the row.")
    site = row.get("site") or (host_of(url) if isinstance(url, str) else "")
    if not isinstance(site, str) or not site:
        raise UserError(f"{place} has neither site nor url, and folds must not share a site: give one of them.")
    language = row.get("language") or ""
    if not isinstance(language, str):
        raise UserError(f"{place} has the language {language!r}: write a code, as 'en'.")
    if kind == "document":
        return Row(text, (_label(label, place),), language, site)
    lines = text.count("\n") + 1
    if not isinstance(label, list) or len(label) != lines:
        found = f"{len(label)} labels" if isinstance(label, list) else "no list of labels"
        raise UserError(
            f"{place} has {lines} lines and {found}: with --kind=line the field label has one label a line."
        )
    return Row(text, tuple(_label(each, place) for each in label), language, site)


def _label(label: object, place: str) -> str:
    if isinstance(label, (str, int)) and str(label) != "":
        return str(label)
    raise UserError(f"{place} has the label {label!r}: write a string or an integer.")
