"""How one token cache is made, in steps that any number of workers can share, repeat and resume.

    plan         lists the source's pieces and fixes everything that the bytes depend on (plan.py)
    tokenise     one piece -> runs: its documents, sorted by the hash that orders the stream (runs.py)
    merge        runs of many pieces -> runs of parts of the hashes, from 65 pieces on (merge.py: how often files are opened)
    write_shard  the s-th part of the hashes, out of the runs that hold it -> one file of the cache
    finish       counts, manifest

    <building>/plan.json
               pieces/00003.json  00003.run           the runs of piece 3; the JSON says they are complete
               merged-1/00000.json  00000.run         a step of level 1, and what it wrote
               shards/00000.json                      file 0 of the cache is complete
               cache/                                 what becomes the cache, by one rename

Files appear under their names only when complete, and a step that is done does nothing. So a job may be killed at any
moment, steps may run twice and at the same time, and the cache has the same bytes: token_cache.py runs them in a loop,
job.py on Apache Beam. Workers meet in <building>, which must be one folder for all of them.
"""

import dataclasses
import hashlib
import heapq
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import seqio
import tqdm
from array_record.python import array_record_module

from dots_jax.config import UserError
from dots_jax.data.cache import token_format as fmt
from dots_jax.data.cache.merge import shard_spans
from dots_jax.data.cache.plan import Plan, read_json, write_json
from dots_jax.data.cache.runs import RunWriter, documents_in_order, run_path
from dots_jax.data.cache.source_rows import contents as source_rows_contents
from dots_jax.data.cache.source_rows import source_rows
from dots_jax.data.registry import get_task, task_vocabulary
from dots_jax.data.sources import chat_task
from dots_jax.data.sources.content import Content
from dots_jax.data.sources.documents import Document, Piece, Reading, commonest, documents_of, user_field
from dots_jax.data.sources.json_lines import ENDINGS, Malformed
from dots_jax.data.sources.split_files import plain_name
from dots_jax.data.tokenizers import vocabulary as vocabularies
from dots_jax.storage import atomic_path, atomic_write, write_text

RUN_TOKENS = 1 << 25  # tokenised documents in memory at a time; some 0.4 GB a worker


# --- step 1: a piece becomes runs -----------------------------------------------------------------------------------


def tokenise(building: Path, index: int, samples: int, bar: bool = False) -> None:
    """Writes the runs of piece `index`, and what was malformed or damaged in it. bar: draw a progress bar of documents."""
    done = building / "pieces" / f"{index:05d}.json"
    if done.exists():
        return
    plan = Plan.read(building)
    task = get_task(plan.task)
    lengths = _byte_lengths(task_vocabulary(task))
    piece = Piece(*plan.pieces[index])
    # The first part of a file has the order that the complete file would have.
    place = (plan.task, piece.name, piece.begin) if piece.begin else (plan.task, piece.name)
    malformed = _MalformedRecords(_hasher("malformed", *place), samples)
    reading = Reading(malformed.add)
    order = _hasher(plan.document_order_seed, *place)
    documents = num_tokens = num_bytes = 0
    keys, run, run_tokens = [], [], 0

    def flush():
        nonlocal keys, run, run_tokens, num_bytes
        if run:
            num_bytes += _write_run(writer, keys, run, plan.token_dtype, lengths)
            keys, run, run_tokens = [], [], 0

    stream = documents_of(task, plan.split, index, plan.pieces, reading)
    what = f"tokenising {plan.task} {plan.split}"
    with atomic_write(run_path(building, index), "wb") as file:
        writer = RunWriter(file)
        for document in tqdm.tqdm(stream, desc=what, unit=" docs", disable=None if bar else True):
            keys.append(_key(order, documents))
            run.append(document._replace(tokens=document.tokens.astype(plan.token_dtype, copy=False)))
            documents += 1
            num_tokens += len(document.tokens)
            run_tokens += len(document.tokens)
            if run_tokens >= RUN_TOKENS:
                flush()
        flush()
        writer.close()
    content, damage = reading.content, reading.damage
    said = {
        "span": list(piece.span or ()),
        "language": reading.language,
        "left_out": dict(sorted(reading.left_out.items())),
        "noted": dict(sorted(reading.noted.items())),
    }
    said |= {"damaged": damage.reason, "lost_bytes": damage.lost_bytes} if damage else {}
    write_json(done, {
        "name": piece.name, "size": content.size if content else piece.size, "modified": content.modified if content else 0,
        "sha256": content.sha256 if content else None, "documents": documents, "tokens": num_tokens,
        "bytes": None if lengths is None else num_bytes, "malformed": malformed.counts, "first": malformed.first,
        "samples": malformed.samples(),
    } | {key: value for key, value in said.items() if value or key == "lost_bytes"})  # fmt: skip


def _hasher(*parts) -> "hashlib.blake2b":
    return hashlib.blake2b(repr(parts).encode(), digest_size=8)


def _key(hasher: "hashlib.blake2b", number: int) -> int:
    """64 bits for the number-th document of a piece."""
    one = hasher.copy()
    one.update(number.to_bytes(8, "little"))
    return int.from_bytes(one.digest(), "little")


def _write_run(
    writer: RunWriter, keys: list[int], documents: list[Document], dtype: str, lengths: np.ndarray | None
) -> int:
    """Writes documents sorted by key; returns their bytes of text."""
    order = np.argsort(np.array(keys, np.uint64), kind="stable")
    weights = None if documents[0].weights is None else [documents[i].weights for i in order]
    writer.add(np.array(keys, np.uint64)[order], [documents[i].tokens for i in order], weights, dtype)
    return 0 if lengths is None else sum(int(lengths[document.tokens].sum()) for document in documents)


def _byte_lengths(vocabulary: seqio.Vocabulary) -> np.ndarray | None:
    try:
        return vocabularies.token_byte_lengths(vocabulary)
    except UserError:  # trains all the same; only bits per byte need it, and say so
        return None


class _MalformedRecords:
    """Counts by reason, and a sample: the records with the smallest hashes, so that it is the same every time."""

    def __init__(self, hasher, samples: int):
        self.counts: Counter[str] = Counter()
        self.first: dict[str, int] = {}  # reason -> number of the first such record
        self._hasher, self._samples, self._kept = hasher, samples, []

    def add(self, record: Malformed) -> None:
        number = self.counts.total()
        self.counts[record.reason] += 1
        self.first.setdefault(record.reason, record.number)
        heapq.heappush(self._kept, (-_key(self._hasher, number), number, record))
        if len(self._kept) > self._samples:
            heapq.heappop(self._kept)

    def samples(self) -> list[list]:
        """[hash, reason, beginning of the record, its number], sorted."""
        return sorted([-key, record.reason, record.shown, record.number] for key, _, record in self._kept)


# --- step 2: all runs become the files of the cache -----------------------------------------------------------------


def write_shard(building: Path, shard: int) -> None:
    """Writes file `shard` of the cache; none if no document falls into it."""
    done = building / "shards" / f"{shard:05d}.json"
    if done.exists():
        return
    plan = Plan.read(building)
    name = f"tokens-{shard:05d}.array_record"
    documents = _shard_documents(building, plan, shard)
    row = {
        "name": name,
        "tokens": sum(len(d.tokens) for d in documents),
        "documents": len(documents),
        "size": 0,
        "sha256": "",
    }
    if documents:
        row |= write_file(building / "cache" / name, documents, plan.token_dtype, plan.chunk_tokens)
        hashes = [fmt.document_hash(d.tokens, plan.token_dtype) for d in documents]
        for column, values, dtype in (
            (fmt.lengths_name(name), [len(d.tokens) for d in documents], "<u4"), (fmt.hashes_name(name), hashes, "<u8"),
        ):  # fmt: skip
            with atomic_write(building / "cache" / column, "wb") as file:
                file.write(np.array(values, dtype).tobytes())
    write_json(done, row)


def _shard_documents(building: Path, plan: Plan, shard: int) -> list[Document]:
    """The shard's documents in the order of the stream."""
    _, tokens, weights = documents_in_order(shard_spans(building, plan, shard))
    return list(map(Document, tokens)) if weights is None else list(map(Document, tokens, weights))


def write_file(path: Path, documents: Iterable[Document], token_dtype: str, chunk_tokens: int) -> dict:
    """Writes one file of a cache; returns its size and sha256. documents: all of them with weights, or none."""
    with atomic_path(path) as unfinished_path:
        writer = array_record_module.ArrayRecordWriter(unfinished_path, fmt.WRITER_OPTIONS)
        try:
            for tokens, ends, weights in _chunks(documents, token_dtype, chunk_tokens):
                writer.write(fmt.encode_chunk(tokens, ends, weights))
        finally:
            writer.close()
        with open(unfinished_path, "rb") as file:
            return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _chunks(documents: Iterable[Document], dtype: str, chunk_tokens: int) -> Iterator[tuple]:
    """The documents, end to end, cut into chunks (tokens, document ends, weights or None); the arrays are reused."""
    tokens, weights, ends, filled = np.empty(chunk_tokens, dtype), None, [], 0
    for document in documents:
        taken, length = 0, len(document.tokens)
        if document.weights is not None and weights is None:
            weights = np.empty(chunk_tokens, np.uint8)
        while taken < length:
            n = min(length - taken, chunk_tokens - filled)
            tokens[filled : filled + n] = document.tokens[taken : taken + n]
            if weights is not None:
                weights[filled : filled + n] = document.weights[taken : taken + n]
            filled, taken = filled + n, taken + n
            if taken == length:
                ends.append(filled - 1)
            if filled == chunk_tokens:
                yield tokens, np.array(ends), weights
                ends, filled = [], 0
    if filled:
        yield tokens[:filled], np.array(ends), None if weights is None else weights[:filled]


# --- the end --------------------------------------------------------------------------------------------------------


def check_pieces(building: Path, max_malformed: float, max_damaged_files: int = 0, expected: int = 0) -> None:
    """Raises UserError if there is nothing to learn from, too much was malformed, or something is missing: files that could
    not be read to their end, or records, of which there must be `expected` (0: any number). Leaves samples in the folder."""
    plan = Plan.read(building)
    pieces = _pieces(building, plan)
    what = f"Task {plan.task!r}"
    documents, tokens = (sum(piece[name] for piece in pieces) for name in ("documents", "tokens"))
    damaged = list({piece["name"]: piece["damaged"] for piece in pieces if "damaged" in piece}.items())
    if len(damaged) > max_damaged_files:
        raise damaged_files(what, plan.split, len({piece["name"] for piece in pieces}), damaged)
    counts = _malformed_counts(pieces)
    bad = sum(counts.values())
    if bad > max_malformed * (documents + bad):
        _write_samples(building / fmt.MALFORMED, plan, pieces)
        raise UserError(
            f"{what}: {bad} of {documents + bad} records of split {plan.split!r} are malformed, more than "
            f"CacheConfig.max_malformed = {max_malformed:.6g} allows: {commonest(counts)} ({_example(pieces, counts)}); "
            f"{building / fmt.MALFORMED} shows some: fix the files, or raise the limit."
        )
    left_out = left_out_counts(pieces)
    check_expected(what, plan.split, documents + bad + sum(left_out.values()), expected)
    if not documents and left_out:
        raise UserError(
            f"{what}: the settings of its source leave out all {sum(left_out.values()):,} usable records of split "
            f"{plan.split!r} ({commonest(left_out)}): loosen them."
        )
    if tokens == documents:
        found = "no documents" if not documents else "only empty documents"
        raise UserError(f"{what} has {found} in its split {plan.split!r}: there is nothing to learn from.")


def damaged_files(what: str, split: str, files: int, damaged: list[tuple[str, str]]) -> UserError:
    """damaged: (name, reason) of each."""
    shown = [f"{name} ({reason})" for name, reason in damaged[:5]]
    shown += [f"{len(damaged) - 5} more"] if len(damaged) > 5 else []
    return UserError(
        f"{what}: {len(damaged)} of {files} files of split {split!r} cannot be read to their end: {', '.join(shown)}: bring them "
        f"again, or take what can be read of them with CacheConfig.max_damaged_files = {len(damaged)}."
    )


def check_expected(what: str, split: str, records: int, expected: int) -> None:
    if expected and records != expected:
        raise UserError(
            f"{what} has {records:,} records in its split {split!r}, but Source.documents says {expected:,}: "
            "look for files that are missing or double, or correct that number."
        )


def _example(pieces: list[dict], counts: dict[str, int]) -> str:
    reason = max(counts, key=counts.get)
    piece = max(pieces, key=lambda piece: piece["malformed"].get(reason, 0))
    behind = f" from byte {piece['span'][0]:,} on" if place_of(piece["name"]) == "line" and "span" in piece else ""
    return f"the first of these in {piece['name']} is {place_of(piece['name'])} {piece['first'][reason]}{behind}"


def place_of(name: str) -> str:
    """What the number of a record counts."""
    return "line" if plain_name(name).endswith(ENDINGS) else "record"


def finish(building: Path, samples: int) -> fmt.Manifest:
    """Completes <building>/cache from what the steps wrote: the manifest last."""
    plan = Plan.read(building)
    pieces, cache = _pieces(building, plan), building / "cache"
    files = [read_json(building / "shards" / f"{shard:05d}.json") for shard in range(plan.shards)]
    _write_samples(cache / fmt.MALFORMED, plan, pieces, samples)
    sources = source_rows(pieces)
    contents = [(row["name"], row["sha256"]) for row in sources]
    known = all(checksum for _, checksum in contents)
    fixed = {name: value for name, value in dataclasses.asdict(plan).items() if name not in ("shards", "pieces")}
    fixed["format"] = fmt.FORMAT_OF_PARTS if any("spans" in row for row in sources) else fmt.FORMAT
    manifest = fmt.Manifest(
        **fixed,
        fingerprint=hashlib.sha256(repr(contents).encode()).hexdigest()[:16] if known else None,
        documents=sum(piece["documents"] for piece in pieces),
        tokens=sum(piece["tokens"] for piece in pieces),
        bytes=None if any(piece["bytes"] is None for piece in pieces) else sum(piece["bytes"] for piece in pieces),
        malformed=_malformed_counts(pieces),
        left_out=left_out_counts(pieces),
        noted=_summed(pieces, "noted"),
        question_id=chat_task.question_id(get_task(plan.task)),
        revision=getattr(get_task(plan.task).source, "revision", ""),
        files=[file for file in files if file["documents"]],
        sources=sources,
    )
    manifest.write(cache)
    return manifest


def contents(building: Path) -> dict[str, Content]:
    """Of each source file, by its name, what was read."""
    return source_rows_contents(_pieces(building, Plan.read(building)))


def _pieces(building: Path, plan: Plan) -> list[dict]:
    return [read_json(building / "pieces" / f"{index:05d}.json") for index in range(len(plan.pieces))]


def _malformed_counts(pieces: list[dict]) -> dict[str, int]:
    return _summed(pieces, "malformed")


def left_out_counts(pieces: list[dict]) -> dict[str, int]:
    """Setting of the source -> records that it leaves out."""
    return _summed(pieces, "left_out")


def _summed(pieces: list[dict], name: str) -> dict[str, int]:
    counts = sum((Counter(piece.get(name, {})) for piece in pieces), Counter())
    return dict(sorted(counts.items()))


def _write_samples(path: Path, plan: Plan, pieces: list[dict], samples: int | None = None) -> None:
    rows = sorted(
        [*sample, piece["name"], piece.get("span", [0])[0]] for piece in pieces for sample in piece["samples"]
    )[:samples]
    field = user_field(get_task(plan.task))
    if rows:
        lines = [
            json.dumps(
                {"file": name, place_of(name): number, "field": field, "reason": why, "begins": begins}
                | ({"from_byte": begin} if begin and place_of(name) == "line" else {})
            )
            for _, why, begins, number, name, begin in rows
        ]
        write_text(path, "\n".join(lines) + "\n")
