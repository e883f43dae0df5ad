"""`dots curate --explain=URL`: one page's way through all steps, with every number that a step compares.

The page is read from --input and goes through the local steps again. What compares documents is answered from the state and
the ledger of --output, if a complete run is there: occurrences of its lines, the document with its text, bands that it shares.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dots_jax.config import CurateConfig, UserError
from dots_jax.curation import decode, identity, lines, minhash, pii, sandbox, scoring, state
from dots_jax.curation.corpus_files import read_documents, read_lines
from dots_jax.curation.extract import ENGINES
from dots_jax.curation.ids import IdTable
from dots_jax.curation.inputs import Piece, read_piece
from dots_jax.curation.protocol import EmbeddingStep, GlobalStep, ModelStep, Outcome
from dots_jax.curation.record import Document, Page, Record, Removal, key_of, removal_of
from dots_jax.curation.rules import sites
from dots_jax.curation.rules.step import rule, thresholds
from dots_jax.curation.state import read_about
from dots_jax.curation.steps import chosen
from dots_jax.curation.streams import partition_of
from dots_jax.curation.url import host_of, without_credentials

SHOWN = 200  # characters of a text


class Corpus:
    """A complete run: its state as rows, its ledger and documents of one key."""

    def __init__(self, output: str):
        self.output, self.about = output, read_about(output)
        self.config = self.about["config"]
        self.parts = self.config["partitions"]
        self.number = self.about["crawl_number"]
        self.ids = IdTable(state.id_stems(output, self.parts)[0], self.parts, state.id_stems(output, self.parts)[1:])

    def find(self, step: str, first: np.ndarray) -> list[np.void | None]:
        """The first row of the state whose first field is each of these uint64."""
        found, tables = [], {}
        for value in first:
            part = partition_of(int(value), self.parts)
            if part not in tables:
                tables[part] = state.read_part(self.output, step, part)
            rows = tables[part]
            keys = rows[rows.dtype.names[0]]
            at = int(np.searchsorted(keys, value))
            found.append(rows[at] if at < len(rows) and keys[at] == value else None)
        return found

    def rows_of(self, id: str) -> tuple[list[Removal], Document | None]:
        """What the ledger and the corpus have of a document."""
        part = partition_of(key_of(self.config["seed"], id), self.parts)
        rows = [row for row in map(removal_of, read_lines(self.output, "removed", part)) if row.id == id]
        return rows, next((document for document in read_documents(self.output, part) if document.id == id), None)


def explain(address: str, pieces: Sequence[Piece], config: CurateConfig, output: str | None) -> str:
    """address: a URL or an id. Raises UserError if no record has it."""
    corpus = Corpus(output) if output and (state.folder_of(output) / "run.json").exists() else None
    found = list(_records(address, pieces, config))
    if not found:
        raise UserError(f"--explain={address}: no record of --input has this address or id.")
    said = [f"{len(found)} records have this address; each is explained."] if len(found) > 1 else []
    if corpus is None:
        said.append("No complete run in --output: what compares documents is not known.")
    elif changed := _changed(corpus.config, config):
        said.append(
            f"--output was made with other {', '.join(changed)}; local steps are explained with the settings of now."
        )
    for record, place in found:
        said += ["", place, *_way(record, config, corpus)]
    return "\n".join(said).strip()


def _changed(was: dict, config: CurateConfig) -> list[str]:
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    return [f"CurateConfig.{name}" for name in now if name != "beam" and was.get(name) != now[name]]


def _records(address: str, pieces: Sequence[Piece], config: CurateConfig) -> Iterator[tuple[Record | Removal, str]]:
    for piece in pieces:
        for record, file, offset in read_piece(piece, config.input, Counter()):
            if address in (record.id, record.url, without_credentials(record.url)):
                yield record, f"{file}, {offset:,}: {record.id} {record.url}".rstrip()


def _way(record: Record | Removal, config: CurateConfig, corpus: Corpus | None) -> Iterator[str]:
    yield _line("read", _verdict(record))
    if isinstance(record, Removal):
        return
    rows, kept = corpus.rows_of(record.id) if corpus else ([], None)
    for step in chosen(config, None):
        yield from (f"{'':<17}{fact}" for fact in _facts(step.name, record, config, corpus))
        if isinstance(step, ModelStep):
            outcome = scoring.judge(step, record, config) if isinstance(record, Document) else Outcome([record], [])
            removed, record = outcome.removed, outcome.kept[0] if outcome.kept else None
            yield from (f"{'':<17}{name} {score:g}" for name, score in _new_scores(step.name, record))
        elif isinstance(step, GlobalStep | EmbeddingStep):
            removed, record = _from_ledger(step.name, record, rows)
        else:
            with step.open(config) as apply:
                outcome = apply([record])
            removed, record = outcome.removed, outcome.kept[0] if outcome.kept else None
        for row in removed:
            yield _line(step.name, _verdict(row))
        if record is None:
            yield f"{'removed':<17}by {step.name}"
            return
        if not removed:
            yield _line(
                step.name, "stays" if corpus or not isinstance(step, GlobalStep | EmbeddingStep) else "not compared"
            )
    if isinstance(record, Page):
        yield f"{'removed':<17}no step turned the page into text"
    else:
        same = "as in the corpus" if kept and kept.text == record.text else "the corpus has another text, or none"
        yield f"{'kept':<17}{len(record.text):,} characters" + (f"; {same}" if corpus else "")


def _new_scores(step: str, record: Record | None) -> Iterator[tuple[str, float]]:
    scores = record.scores if isinstance(record, Document) else ()
    return ((name, score) for name, score in scores if name.split("/")[0] == step)


def _line(step: str, said: str) -> str:
    return f"{step:<17}{said}"


def _verdict(row: Record | Removal) -> str:
    if isinstance(row, Page):
        return f"a page of {len(row.body):,} bytes, {row.content_type}"
    if isinstance(row, Document):
        return f"a text of {len(row.text):,} characters"
    facts = [f"score {row.score:g}"] if row.score is not None else []
    facts += [row.detail] if row.detail else []
    facts += [f"instead stays {row.other}"] if row.other else []
    facts += [json.dumps(row.text, ensure_ascii=False)] if row.kind == "line" else []
    kind = {"line": "loses a line", "part": "changed"}.get(row.kind, "REMOVED")
    return f"{kind}: {row.reason}" + (f" ({'; '.join(facts)})" if facts else "")


def _from_ledger(step: str, record: Document, rows: list[Removal]) -> tuple[list[Removal], Document | None]:
    """The verdicts of a global step, carried out."""
    mine = [row for row in rows if row.step == step]
    if any(row.kind == "document" for row in mine):
        return mine, None
    gone = {int(row.detail.split()[1]) - 1 for row in mine}
    kept = [line for place, line in enumerate(record.text.split("\n")) if place not in gone]
    return mine, record._replace(text="\n".join(kept)) if gone else record


# --- the numbers of each step -----------------------------------------------------------------------------------------


def _facts(step: str, record: Record, config: CurateConfig, corpus: Corpus | None) -> Iterator[str]:
    if step in FACTS and (isinstance(record, Document) or step in ("url", "decoding", "extraction")):
        yield from FACTS[step](record, config, corpus)


def _url(record: Record, config: CurateConfig, corpus: Corpus | None) -> Iterator[str]:
    yield f"host {host_of(record.url) or 'none'}"


def _decoding(record: Record, config: CurateConfig, corpus: Corpus | None) -> Iterator[str]:
    if isinstance(record, Page):
        declared = decode.declared_codecs(record.body, record.content_type)
        text, codec, bad = decode.decode(record.body, record.content_type)
        limit = max(decode.FEW, config.decoding.max_undecodable * len(text))
        yield f"declared {', '.join(declared) or 'nothing'}; read as {codec}; {bad} undecodable characters, at most {limit:g}"


def _extraction(record: Record, config: CurateConfig, corpus: Corpus | None) -> Iterator[str]:
    if isinstance(record, Page):
        limits = f"{config.extract.seconds} s and {config.extract.memory} MiB at most"
        yield f"{len(record.html or ''):,} characters of HTML; {limits}"
        box = sandbox.of_this_thread(config.extract)
        for engine in ENGINES[ENGINES.index(config.extract.engine) :]:
            answer = box.run(record.html or "", engine)
            if isinstance(answer, sandbox.Text):
                rescued = "" if answer.engine == engine else f", by {answer.engine}"
                yield f"{engine}: {len(answer.text):,} characters{rescued}" + (
                    f" ({answer.wrong})" if answer.wrong else ""
                )
            else:
                yield f"{engine}: {answer.reason} ({answer.detail})"


def _language(record: Document, config: CurateConfig, corpus: Corpus | None) -> Iterator[str]:
    from dots_jax.curation.language import identify

    yield f"begins {json.dumps(record.text[:SHOWN], ensure_ascii=False)}"
    code, score = identify(record.text, config.language.characters, config.language.model)
    yield f"{code} {score:g}, at least {config.language.min_score:g}"


def _identity(record: Document, config: CurateConfig, corpus: Corpus | None) -> Iterator[str]:
    digest = identity.fingerprint(record.text)
    (row,) = corpus.find("identity", np.array([int(digest[:16], 16)], np.uint64)) if corpus else (None,)
    first = f"; first in {_name(corpus, row, record)}" if row is not None else ""
    yield f"MD5 {digest}{first}"


def _lines(record: Document, config: CurateConfig, corpus: Corpus | None) -> Iterator[str]:
    counted = lines.ends(record.text, config.lines)
    keys = np.array([lines.line_key(line) for _, line in counted], np.uint64)
    rows = corpus.find("lines", keys) if corpus else [None] * len(keys)
    for (place, line), row in zip(counted, rows):
        times = f"{row['count']:,} times, {config.lines.keep} stay" if row is not None else "not counted"
        yield f"line {place + 1}: {times}: {json.dumps(line[:80], ensure_ascii=False)}"


def _rules(record: Document, config: CurateConfig, corpus: Corpus | None) -> Iterator[str]:
    site = sites.site_of(record.url, sites.read_sites(config.rules.sites))
    limits = thresholds(record.language, config.rules)
    if limits is None:
        yield f"no thresholds for {record.language}"
        return
    for finding in rule(record.text, limits, site).findings:
        yield f"{'ok' if finding.passed else 'FAILS':<6}{finding.reason}: {finding.score:.4g}, {finding.limit}"


def _minhash(record: Document, config: CurateConfig, corpus: Corpus | None) -> Iterator[str]:
    keys, has = minhash.band_keys_of([record.text], config.minhash)
    yield f"{len(minhash.shingles(record.text, config.minhash.ngram)):,} shingles of {config.minhash.ngram} words"
    if not (corpus and has[0]):
        return
    own = key_of(config.seed, record.id)
    met = Counter()
    for row in corpus.find("minhash", keys[0]):
        if row is not None and int(row["key"]) != own:
            met[_name(corpus, row, record)] += 1
    for name, bands in sorted(met.items(), key=lambda item: (-item[1], item[0]))[:5]:
        similarity = float(minhash.estimate(bands, config.minhash.bands, config.minhash.rows))
        yield f"shares {bands} of {config.minhash.bands} bands with {name}: similarity {similarity:.3f}"


def _name(corpus: Corpus, row: np.void, record: Document) -> str:
    id = corpus.ids.get(int(row["key"]))
    return "itself" if id == record.id else id


def _pii(record: Document, config: CurateConfig, corpus: Corpus | None) -> Iterator[str]:
    _, found = pii.replace(record.text, config.pii.kinds)
    number, per_1000 = found.total(), 1000 * found.total() / (len(record.text) or 1)
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(found.items()))
    yield f"{number} found{': ' + kinds if kinds else ''}, at most {config.pii.max_found}"
    yield f"{per_1000:.3g} in 1,000 characters, at most {config.pii.max_per_1000:g} from {pii.MIN_FOR_DENSITY} on"


FACTS: dict[str, Callable] = {
    "url": _url, "decoding": _decoding, "extraction": _extraction, "language": _language, "identity": _identity,
    "lines": _lines, "rules": _rules, "minhash": _minhash, "pii": _pii,
}  # fmt: skip
