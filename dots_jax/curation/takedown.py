"""`dots curate --takedown=LIST --output=OUT`: removes documents from a corpus that is complete, by address, after the fact.

The list has one entry a line; `#` begins a comment. `http://site/page` is that address, one that ends in `*` all that begin so,
and `site.example` a host with its subdomains. A document that goes has a row in the ledger, without any of its text, and the
texts of the ledger's other rows of these addresses go too. `state/` stays: it holds hashes, by which a later crawl still knows
copies of these texts. Each partition is written at once, so that the command may be killed and started again.
"""

import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from dots_jax.config import CurateConfig, UserError
from dots_jax.curation.corpus_files import file_of, read_documents, read_lines, write_documents, write_lines
from dots_jax.curation.record import Document, Removal, count_lines, key_of, removal_of, to_line
from dots_jax.curation.report_page import report_page
from dots_jax.curation.state import read_about
from dots_jax.curation.survey import survey
from dots_jax.curation.url import blocked_domain, host_of, without_credentials
from dots_jax.storage import open_file, write_text

STEP = "takedown"


def read_takedown(path: str) -> Callable[[str], str]:
    """From an address to the entry that takes it down, or "".

    Raises UserError for a list that is missing, no UTF-8 text, or without an entry.
    """
    try:
        with open_file(path) as file:
            text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"--takedown={path} is not UTF-8 text; bring it as one address or host a line.") from None
    entries = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    if not entries:
        raise UserError(f"--takedown={path} holds no entry: give one address or host a line.")
    exact = {without_credentials(entry) for entry in entries if "//" in entry and not entry.endswith("*")}
    starts = tuple(entry[:-1] for entry in entries if "//" in entry and entry.endswith("*"))
    hosts = frozenset(host_of(entry) for entry in entries if "//" not in entry)

    def entry_of(url: str) -> str:
        if url in exact:
            return url
        start = next((start for start in starts if url.startswith(start)), "")
        host = host_of(url) if hosts and url else ""
        return f"{start}*" if start else blocked_domain(host, hosts) if host else ""

    return entry_of


def take_down(output: str, path: str, config: CurateConfig) -> str:
    """Returns what was done, in one line. The caller holds the lock of the folder. config: of this corpus is its own; this one
    draws the page."""
    about = read_about(output, "--output")
    entry_of = read_takedown(path)
    settings = about["config"]
    seed, parts, form = settings["seed"], settings["partitions"], settings.get("output_format", "jsonl")
    taken, written, rows = 0, Counter(), Counter()
    for part in range(parts):
        gone = [(document, entry) for document in read_documents(output, part) if (entry := entry_of(document.url))]
        new = [_row(document, entry) for document, entry in gone]
        _rewrite_ledger(output, part, parts, seed, new, entry_of)
        if gone:
            with write_documents(file_of(output, "documents", part, parts, form)) as write:
                for document in read_documents(output, part):
                    if not entry_of(document.url):
                        write(document)
        taken += len(gone)
        for document in read_documents(output, part):
            written.update(records=1, lines=count_lines(document.text), characters=len(document.text))
        for row in map(removal_of, read_lines(output, "removed", part)):
            if row.step == STEP:
                rows.update(rows=1, records=1, lines=row.lines, characters=row.characters)
    _report(output, written, rows, config)
    return f"{output}: {taken:,} documents taken down now, {rows['records']:,} in all; {written['records']:,} stay"


def _row(document: Document, entry: str) -> Removal:
    lines, size = count_lines(document.text), len(document.text)
    return Removal(
        "document",
        STEP,
        STEP,
        document.id,
        document.url,
        lines=lines,
        characters=size,
        detail=entry,
        language=document.language,
    )


def _rewrite_ledger(
    output: str, part: int, parts: int, seed: int, new: list[Removal], entry_of: Callable[[str], str]
) -> None:
    """With the new rows in their places. Those that are there already, after a kill, are not written twice."""
    path = file_of(output, "removed", part, parts)
    known, changed = set(), False
    for row in map(removal_of, read_lines(output, "removed", part)):
        known.update([row.id] if row.step == STEP else [])
        changed = changed or bool(row.text and entry_of(row.url))
    lines = sorted((key_of(seed, row.id), to_line(row)) for row in new if row.id not in known)
    if not (lines or changed):
        return

    def old() -> Iterator[tuple[int, bytes]]:
        for line in read_lines(output, "removed", part):
            row = removal_of(line)
            yield key_of(seed, row.id), to_line(row._replace(text="")) if row.text and entry_of(row.url) else line

    with write_lines(path) as write:
        for _, line in heapq.merge(old(), lines, key=lambda item: item[0]):
            write(line)


def _report(output: str, written: Counter, rows: Counter, config: CurateConfig) -> None:
    """report.json and report.html with the step `takedown`, of which both sides are counted in the files."""
    path = Path(output) / "report.json"
    report = json.loads(path.read_text())
    report["funnel"] = [row for row in report["funnel"] if row["step"] != STEP]
    before = report["funnel"][-1]["kept"]
    for unit in ("records", "lines", "characters"):
        if before.get(unit, 0) != written[unit] + rows[unit]:
            raise RuntimeError(
                f"The corpus had {before.get(unit, 0)} {unit}, holds {written[unit]}, and the ledger has {rows[unit]}."
            )
    reasons = {STEP: rows["rows"]} if rows["rows"] else {}
    sides = {"in": before, "kept": dict(sorted(written.items())), "removed": dict(sorted(rows.items()))}
    report["funnel"].append({"step": STEP, **sides, "reasons": reasons})
    found = survey(output, read_about(output, "--output")["config"]["seed"])
    kept = {language: counts.total() for language, counts in found.after.items()}
    report["languages"] = dict(sorted(kept.items(), key=lambda item: (-item[1], item[0])))
    books = report["books"]
    books["ledger_rows_of_records"] += books["documents_written"] - written["records"]
    books |= {"documents_written": written["records"], "lines_written": written["lines"]}
    books["characters_written"] = written["characters"]
    write_text(path, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_text(Path(output) / "report.html", report_page(report, found, config))
