"""One numbered unit of a stage: the part of a run that any number of workers share, repeat and resume.

records   a piece of the input, or a partition of documents: through the local steps of a phase, into sorted runs
score     a partition of documents: the verdicts of a step with a model (scoring.py); embed, cluster, assign, compare: embedding.py
decide    a range of a global step's rows: its verdicts; and the ids of a partition of documents, to name the winners
write     a partition of the output: documents, ledger, places in the input
"""

import contextlib
import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import numpy as np

from dots_jax.config import InputConfig
from dots_jax.curation import embedding, exchange, models, scoring, state, streams
from dots_jax.curation.books import Books
from dots_jax.curation.corpus_files import file_of, write_documents, write_lines
from dots_jax.curation.ids import IdTable, write_ids
from dots_jax.curation.inputs import Piece, read_piece
from dots_jax.curation.merged import merged, records_of
from dots_jax.curation.plan import Run, Stage, read_pieces
from dots_jax.curation.protocol import EmbeddingStep, GlobalStep, ModelStep, Outcome, WithModel
from dots_jax.curation.record import (
    Document,
    Page,
    Record,
    Removal,
    digest_of,
    document_of,
    key_of,
    removal,
    to_line,
)

BATCH_RECORDS, BATCH_BYTES = 64, 8 << 20  # of records that steps see at a time; no result depends on it
ROW_BYTES = 64 << 20  # of rows in memory before they become a file
STREAMS = ("docs", "removed", "places")


Tick = Callable[[int, int], None]  # (records that went through, bytes of the unit's input that are behind them)


def run_unit(run: Run, stage: Stage, unit: int, tick: Tick = lambda records, position: None) -> None:
    """Does one unit unless it is done."""
    if run.done(stage.name, unit) is None:
        run.stem(stage.name, unit).parent.mkdir(parents=True, exist_ok=True)
        KINDS[stage.kind](run, stage, unit, tick)


# --- records ----------------------------------------------------------------------------------------------------------


class _Writer:
    """The sorted runs of one unit, and its rows for a global step."""

    def __init__(self, run: Run, stage: str, unit: int, closing: GlobalStep | None):
        self._run, self._stem, self._closing = run, run.stem(stage, unit), closing
        names = [self._stem.with_name(f"{self._stem.name}-{name}") for name in (*STREAMS, "ids")]
        self._streams = [streams.RunWriter(name, run.config.partitions) for name in names]
        self._rows: list[np.ndarray] = []
        self._row_files: list[tuple[str, list]] = []

    def documents(self, documents: Sequence[Document]) -> None:
        docs, _, _, ids = self._streams
        lines = [to_line(document) for document in documents]
        keys = [key_of(self._run.config.seed, document.id) for document in documents]
        for document, key, line in zip(documents, keys, lines):
            docs.add(key, line)
            if self._closing:
                ids.add(key, json.dumps(document.id).encode())
        if self._closing and documents:
            digests = np.array([digest_of(line) for line in lines], np.uint64)
            arrays = np.array(keys, np.uint64), digests
            rows = self._closing.rows(documents, *arrays, self._run.config)
            rows["crawl"] = self._run.crawl_number
            self._rows.append(rows)
            if sum(block.nbytes for block in self._rows) >= ROW_BYTES:
                self._flush_rows()

    def removed(self, rows: Sequence[Removal]) -> None:
        for row in rows:
            self._streams[1].add(key_of(self._run.config.seed, row.id), to_line(row))

    def place(self, id: str, file: str, offset: int) -> None:
        line = json.dumps({"id": id, "file": file, "offset": offset}, ensure_ascii=False).encode()
        self._streams[2].add(key_of(self._run.config.seed, id), line)

    def close(self) -> dict:
        about = {name: stream.close() for name, stream in zip((*STREAMS, "ids"), self._streams)}
        if self._closing:
            self._flush_rows()
            about["rows"] = self._row_files
        return about

    def _flush_rows(self) -> None:
        if self._rows:
            rows, self._rows = np.concatenate(self._rows), []
            name = f"{self._stem.name}-rows-{len(self._row_files):03d}.npy"
            slices = exchange.write_rows(self._stem.with_name(name), rows, self._run.config.partitions)
            self._row_files.append((name, slices))


def _records(run: Run, stage: Stage, unit: int, tick: Tick) -> None:
    phase, books, others = run.phases()[stage.phase], Books(), Counter()
    writer = _Writer(run, stage.name, unit, phase.closing if isinstance(phase.closing, GlobalStep) else None)
    piece = read_pieces(run.work)[unit] if stage.phase == 0 else None
    position = [0]
    if piece is not None:
        source = _read(piece, writer, books, others, run.config.input, position)
    else:
        source = _carry_out(run, stage.phase, unit, phase.opening, writer, books)
    with contextlib.ExitStack() as stack:
        steps = [(step.name, stack.enter_context(step.open(run.config))) for step in phase.local]
        for batch in _batches(source):
            number = len(batch)
            for name, apply in steps:
                outcome = apply(batch)
                books.add(name, batch, outcome.kept, outcome.removed)
                writer.removed(outcome.removed)
                batch = outcome.kept
            documents, undone = _documents(batch, run.crawl)
            if stage.phase == 0 and "extraction" not in dict(steps):
                books.add("text", batch, documents, undone)
            writer.removed(undone)
            writer.documents(documents)
            tick(number, position[0])
    run.finish(stage.name, unit, {**writer.close(), "books": books.to_dict(), "others": dict(sorted(others.items()))})


def _documents(batch: Sequence[Record], crawl: str) -> tuple[list[Document], list[Removal]]:
    """A page that no step turned into a document, since extraction is not among the steps, has a row of its own."""
    documents = [record._replace(crawl=crawl) for record in batch if isinstance(record, Document)]
    pages = [removal(record, "text", "not extracted") for record in batch if isinstance(record, Page)]
    return documents, pages


def _read(
    piece: Piece, writer: _Writer, books: Books, others: Counter, config: InputConfig, position: list[int]
) -> Iterator[Record]:
    """position: gets the bytes that are read, as far as offsets are bytes."""
    starts = dict(zip((file.path for file in piece.files), accumulate((file.size for file in piece.files), initial=0)))
    in_bytes = piece.files[0].kind in ("warc", "arc", "page")
    for record, file, offset in read_piece(piece, config, others):
        position[0] = starts[file] + offset if in_bytes else 0
        writer.place(record.id, file, offset)
        if not (isinstance(record, Removal) and record.kind == "file"):
            books.came("read", 1)
        if isinstance(record, Removal):
            books.went("read", [record])
            writer.removed([record])
        else:
            books.stayed("read", [record])
            yield record


def _batches(source: Iterator[Record]) -> Iterator[list[Record]]:
    batch, size = [], 0
    for record in source:
        batch.append(record)
        size += len(record.body) if isinstance(record, Page) else len(record.text)
        if len(batch) >= BATCH_RECORDS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _carry_out(
    run: Run, number: int, unit: int, step: GlobalStep | WithModel, writer: _Writer, books: Books
) -> Iterator[Record]:
    """The documents of a partition, in order, after the verdicts of the step between the phases."""
    decisions, apply = _verdicts(run, number - 1, unit, step)
    before = Stage("records", number - 1, run.config.partitions if number > 1 else run.num_pieces)
    for key, line in merged(run, before, unit, "docs"):
        document = document_of(line)
        sides = (np.searchsorted(decisions["key"], np.uint64(key), side=side) for side in ("left", "right"))
        mine = decisions[slice(*sides)]
        if len(mine):
            mine = mine[mine["digest"] == digest_of(line)]
        outcome: Outcome = apply(document, mine)
        books.add(step.name, [document], outcome.kept, outcome.removed)
        writer.removed(outcome.removed)
        yield from outcome.kept


def _verdicts(run: Run, phase: int, unit: int, step: GlobalStep | WithModel) -> tuple[np.ndarray, Callable]:
    """(rows of DECISION on the documents of a partition, by key; what carries those of a document out)."""
    parts, config = run.config.partitions, run.config
    if isinstance(step, ModelStep):
        classes = models.about(step, config).classes
        rows = scoring.read_verdicts(run, Stage("score", phase, parts), unit, step)
        return rows, lambda document, mine: step.apply(document, mine, classes, config)
    kind, named = ("compare", "embed") if isinstance(step, EmbeddingStep) else ("decide", "decide")
    decide = f"{kind}-{phase}"
    decisions = exchange.read_rows(
        [(run.stem(decide, n).with_name(f"{n:05d}-decisions.npy"), run.done(decide, n)["decisions"][unit])
         for n in range(parts)], exchange.DECISION,
    )  # fmt: skip
    stems = [run.stem(f"{named}-{phase}", n) for n in range(parts)]
    ids = IdTable(stems, parts, state.id_stems(run.previous, parts))
    return decisions, lambda document, mine: step.apply(document, mine, ids.get, config)


# --- decide -----------------------------------------------------------------------------------------------------------


def _decide(run: Run, stage: Stage, unit: int, tick: Tick) -> None:
    step, stem = run.phases()[stage.phase].closing, run.stem(stage.name, unit)
    before = records_of(run, stage.phase)
    files = []
    for n in range(before.units):
        for name, slices in run.done(before.name, n)["rows"]:
            files.append((run.stem(before.name, n).with_name(name), slices[unit]))
    earlier = state.read_part(run.previous, step.name, unit) if run.previous else None
    rows = exchange.read_rows(files, step.dtype, earlier)
    decisions = step.decide(rows, run.config)
    slices = exchange.write_rows(stem.with_name(f"{stem.name}-decisions.npy"), decisions, run.config.partitions)
    kept = state.write_part(run.output, step.name, unit, step.condense(rows, run.config))
    write_ids(stem, ((key, json.loads(line)) for key, line in merged(run, before, unit, "ids")))
    if stage == next(each for each in run.stages() if each.kind == "decide"):
        state.copy_ids(stem, run.output, unit, run.crawl_number, run.previous)
    tick(len(rows), 0)
    about = {"rows": len(rows), "removed": len(decisions), "decisions": slices, "state": kept}
    run.finish(stage.name, unit, about)


# --- write ------------------------------------------------------------------------------------------------------------


def _write(run: Run, stage: Stage, unit: int, tick: Tick) -> None:
    """Counts what it writes, for the other side of the books."""
    records = [each for each in run.stages() if each.kind == "records"]
    counts = {"documents": Counter(), "rows": Counter(), "languages": Counter(), "renumbered": 0}
    last, copies = None, 0
    parts = run.config.partitions
    with write_documents(file_of(run.output, "documents", unit, parts, run.config.output_format)) as write:
        for _, line in merged(run, records[-1], unit, "docs"):
            document = document_of(line)
            copies = copies + 1 if document.id == last else 1
            last = document.id
            if copies > 1:  # two records of one id: both stay, and the later one by content gets a number
                document = document._replace(id=f"{document.id}~{copies}")
                counts["renumbered"] += 1
            write(document)
            counts["documents"].update(records=1, lines=document.text.count("\n") + 1, characters=len(document.text))
            counts["languages"][document.language or "unknown"] += 1
            tick(1, 0)
    with write_lines(file_of(run.output, "removed", unit, parts)) as write:
        for line in _in_order(run, records, unit, "removed"):
            write(line)
            row = json.loads(line)
            counts["rows"][f"{row['kind']}/{row['step']}/{row['reason']}"] += 1
    with write_lines(file_of(run.output, "places", unit, parts)) as write:
        for line in _in_order(run, records[:1], unit, "places"):
            write(line)
    run.finish("write", unit, counts)


def _in_order(run: Run, stages: Sequence[Stage], unit: int, stream: str) -> Iterator[bytes]:
    return (line for _, line in heapq.merge(*(merged(run, stage, unit, stream) for stage in stages)))


KINDS: dict[str, Callable[[Run, Stage, int, Tick], None]] = {
    "records": _records, "score": scoring.score, "decide": _decide, "write": _write, "embed": embedding.embed,
    "cluster": embedding.cluster, "assign": embedding.assign, "compare": embedding.compare,
}  # fmt: skip
