"""report.json: the funnel of a run, every reason with its count, and the books, both sides counted."""

from collections import Counter

from dots_jax.curation.books import Books
from dots_jax.curation.plan import Run
from dots_jax.curation.steps import chosen, without_model

WITHIN = ("semantic", "classes")  # steps that leave nothing to the next crawl
UNITS = ("records", "lines", "characters")


def make_report(run: Run) -> dict:
    """Of a run whose units are all done.

    Raises RuntimeError if a page, line or character is neither in the output nor in the ledger: that is a defect.
    """
    books, others, written = Books(), Counter(), Counter()
    rows, languages, renumbered = Counter(), Counter(), 0
    for stage in run.stages():
        for unit in range(stage.units):
            about = run.done(stage.name, unit)
            if stage.kind == "records":
                books.merge(about["books"])
                others.update(about["others"])
            elif stage.kind == "write":
                written.update(about["documents"])
                rows.update(about["rows"])
                languages.update(about["languages"])
                renumbered += about["renumbered"]
    steps = [step.name for step in chosen(run.config, run.only)]
    # Without extraction, pages go at the end of the first phase, which is before the first global step.
    first = [step.name for phase in run.phases()[:1] for step in phase.local]
    order = ["read", *first, "text", *(name for name in steps if name not in first)]
    order = [name for name in order if name in books.steps]
    funnel = [_step(name, books.steps[name]) for name in order]
    return {
        "crawl": run.crawl,
        "only": run.only,
        "funnel": funnel,
        "not_run": without_model(run.config, run.config.steps) if run.only is None else {},
        "within_this_crawl": [name for name in steps if name in WITHIN] if run.previous else [],
        "removed_nothing": [name for name in steps if not books.steps.get(name, {}).get("removed", {}).get("rows")],
        "records_of_other_types": dict(sorted(others.items())),
        "languages": dict(sorted(languages.items(), key=lambda item: (-item[1], item[0]))),
        "renumbered_ids": renumbered,
        "books": _balance(books, order, written, rows),
    }


def _step(name: str, sides: dict[str, Counter]) -> dict:
    shown = {side: dict(sorted(sides[side].items())) for side in ("in", "kept", "removed")}
    reasons = dict(sorted(sides["reasons"].items(), key=lambda item: (-item[1], item[0])))
    return {"step": name, **shown, "reasons": reasons}


def _balance(books: Books, order: list[str], written: Counter, rows: Counter) -> dict:
    """Compares what left each step with what came to the next, and the counts of the steps with the files written."""
    for name, following in zip(order, order[1:]):
        _equal(
            f"{name} kept", books.steps[name]["kept"], f"{following} got", books.steps[following]["in"], ("records",)
        )
    last = books.steps[order[-1]]["kept"] if order else Counter()
    units = UNITS if order[-1:] not in (["read"], ["url"], ["decoding"]) else ("records",)
    _equal(f"{order[-1] if order else 'read'} kept", last, "the corpus holds", written, units)
    taken = sum(number for name, number in rows.items() if not name.startswith(("file/", "line/", "part/")))
    came_in = books.steps["read"]["in"]["records"] if "read" in books.steps else 0
    if came_in != written["records"] + taken:
        raise RuntimeError(
            f"{came_in} records were read, {written['records']} documents written, and the ledger has {taken} rows of records."
        )
    return {
        "records_read": came_in,
        "documents_written": written["records"],
        "ledger_rows_of_records": taken,
        "ledger_rows_of_lines": sum(number for name, number in rows.items() if name.startswith("line/")),
        "ledger_rows_of_parts": sum(number for name, number in rows.items() if name.startswith("part/")),
        "ledger_rows_of_files": sum(number for name, number in rows.items() if name.startswith("file/")),
        "lines_written": written["lines"],
        "characters_written": written["characters"],
    }


def _equal(left: str, counts: Counter, right: str, others: Counter, units: tuple[str, ...]) -> None:
    for unit in units:
        if counts[unit] != others[unit]:
            raise RuntimeError(f"{left} {counts[unit]} {unit}, and {right} {others[unit]}.")


def idle_line(not_run: dict[str, str]) -> str:
    return "did not run: " + ", ".join(f"{step} ({setting} names no model)" for step, setting in not_run.items())


def table(report: dict) -> str:
    """The funnel as the command prints it."""
    lines = [f"{'step':<12}{'in':>12}{'kept':>12}{'removed':>12}   reasons"]
    for row in report["funnel"]:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in row["reasons"].items()) or "nothing removed"
        numbers = (row["in"].get("records", 0), row["kept"].get("records", 0), row["removed"].get("records", 0))
        lines.append(f"{row['step']:<12}" + "".join(f"{number:>12,}" for number in numbers) + f"   {reasons}")
    books = report["books"]
    lines.append(
        f"books balance: {books['records_read']:,} records read = {books['documents_written']:,} documents written + "
        f"{books['ledger_rows_of_records']:,} rows of the ledger"
    )
    if report["within_this_crawl"]:
        lines.append(f"compared within this crawl alone: {', '.join(report['within_this_crawl'])}")
    if report["not_run"]:
        lines.append(idle_line(report["not_run"]))
    if report["records_of_other_types"]:
        others = ", ".join(f"{kind} {number:,}" for kind, number in report["records_of_other_types"].items())
        lines.append(f"records that are no pages: {others}")
    if report["renumbered_ids"]:
        lines.append(f"documents that shared an id and got a number behind it: {report['renumbered_ids']:,}")
    return "\n".join(lines)
