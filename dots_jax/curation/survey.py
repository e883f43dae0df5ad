"""What report.html shows of a corpus: counted in one pass over its documents and its ledger, in bounded memory.

Documents and ledger are in the order of the documents' keys, which are hashes: so the rows of one document are found together,
and the first ones are a random sample, the same in every run. Sites and lines are counted by `Frequent`, which keeps a limited
number of names and says how wrong its counts can be.
"""

import heapq
import itertools
import re
from collections import Counter
from collections.abc import Iterator

from dots_jax.curation.corpus_files import read_documents, read_lines
from dots_jax.curation.record import Document, Removal, key_of, removal_of
from dots_jax.curation.url import host_of

NAMES = 20_000  # sites, and lines, in memory
SAMPLES = 3  # documents of each reason, and twice as many that stay
MEASURED = 500  # kept documents whose rules are measured again
BINS_PER_DECADE = 4  # of a histogram of lengths
UNKNOWN = "unknown"


class Frequent:
    """Counts of the most frequent names (Misra and Gries 1982): exact up to `limit` names, and `error` too low at most after."""

    def __init__(self, limit: int = NAMES):
        self._limit, self.counts, self.error = limit, Counter(), 0

    def add(self, name: str, number: int = 1) -> None:
        self.counts[name] += number
        if len(self.counts) >= 2 * self._limit:
            least = sorted(self.counts.values())[-self._limit]
            self.error += least
            self.counts = Counter({name: count - least for name, count in self.counts.items() if count > least})

    def top(self, number: int) -> list[tuple[str, int]]:
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[:number]


def bin_of(length: int) -> int:
    """The bin of a length in characters: equal steps of the logarithm."""
    at = 0
    while edge_of(at + 1) <= length:
        at += 1
    return at


def edge_of(bin: int) -> int:
    """The least length of a bin."""
    return 0 if bin == 0 else round(10 ** (bin / BINS_PER_DECADE))


class Survey:
    """Everything that is counted.

    before, after: documents by language and bin of their length, when they became text and in the corpus
    removed: rows of documents by (language, step, reason); records: rows of complete records by (step, reason)
    scores: by (step, reason, limit), scores of the rows as {rounded score: number}
    language_scores: of kept documents, in hundredths; samples: by reason; kept_samples: documents
    """

    def __init__(self, seed: int = 0):
        self.seed = seed
        self.before: dict[str, Counter] = {}
        self.after: dict[str, Counter] = {}
        self.removed, self.records, self.language_scores = Counter(), Counter(), Counter()
        self.scores: dict[tuple[str, str, str], Counter] = {}
        self.kept_sites, self.lost_sites, self.lines = Frequent(), Frequent(), Frequent()
        self.samples: dict[tuple[str, str], list[Removal]] = {}
        self.kept_samples: list[Document] = []
        self.measured: list[Document] = []

    def group(self, documents: list[Document], rows: list[Removal]) -> None:
        """All documents and rows of one id: one document, unless two records had the same id."""
        parts = sum(row.characters for row in rows if row.kind in ("line", "part"))
        for row in rows:
            if row.kind in ("page", "document"):
                self._record(row, row.characters + parts)
                parts = 0
            elif row.kind == "line":
                self.lines.add(row.text)
            if row.kind != "file":
                self._sample(row)
        for document in documents:
            self._document(document, len(document.text) + parts)
            parts = 0

    def _document(self, document: Document, before: int) -> None:
        language = document.language or UNKNOWN
        self.before.setdefault(language, Counter())[bin_of(before)] += 1
        self.after.setdefault(language, Counter())[bin_of(len(document.text))] += 1
        self.kept_sites.add(host_of(document.url) or "(no address)")
        if document.language:
            self.language_scores[int(document.language_score * 100 + 1e-9)] += 1
        if len(self.kept_samples) < 2 * SAMPLES:
            self.kept_samples.append(document._replace(text=document.text[:400]))
        if len(self.measured) < MEASURED:
            self.measured.append(document)

    def _record(self, row: Removal, before: int) -> None:
        language = row.language or (row.detail if row.reason == "other language" else UNKNOWN)
        self.records[row.step, row.reason] += 1
        if row.kind == "document":
            self.removed[language, row.step, row.reason] += 1
            self.before.setdefault(language, Counter())[bin_of(before)] += 1
        if row.step != "read":
            self.lost_sites.add(host_of(row.url) or "(no address)")

    def _sample(self, row: Removal) -> None:
        if row.score is not None:
            limit = row.detail if row.step == "rules" else ""
            self.scores.setdefault((row.step, row.reason, limit), Counter())[float(f"{row.score:.3g}")] += 1
        found = self.samples.setdefault((row.step, row.reason), [])
        if len(found) < SAMPLES:
            found.append(row)


def survey(output: str, seed: int) -> Survey:
    """Of the corpus in this folder."""
    found = Survey(seed)
    for documents, rows in groups(output, seed):
        found.group(documents, rows)
    return found


def groups(output: str, seed: int) -> Iterator[tuple[list[Document], list[Removal]]]:
    """(documents, rows of the ledger) of each id, in the order of the keys."""
    for _, items in itertools.groupby(in_order(output, seed), key=lambda item: item[0]):
        documents, rows = [], []
        for _, item in items:
            (documents if isinstance(item, Document) else rows).append(item)
        yield documents, rows


def in_order(output: str, seed: int) -> Iterator[tuple[tuple[int, str], Document | Removal]]:
    """((key, id), document or row), by key."""
    return heapq.merge(_documents(output, seed), _removed(output, seed), key=lambda item: item[0])


def _documents(output: str, seed: int) -> Iterator[tuple[tuple[int, str], Document]]:
    last = (-1, "")
    for document in read_documents(output):
        # The second document of an id stands behind the first, under its key, with a number behind the id.
        numbered = re.fullmatch(r"(.*)~\d+", document.id, re.DOTALL)
        if not (numbered and numbered[1] == last[1]):
            last = (key_of(seed, document.id), document.id)
        yield last, document


def _removed(output: str, seed: int) -> Iterator[tuple[tuple[int, str], Removal]]:
    for line in read_lines(output, "removed"):
        row = removal_of(line)
        yield (key_of(seed, row.id), row.id), row
