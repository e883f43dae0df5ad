"""report.html: a corpus on one page that needs nothing else, neither scripts nor files nor the network.

Every string that comes from a page is escaped by charts.py; addresses are text and no links.
"""

from collections import Counter
from collections.abc import Sequence

from dots_jax.config import CurateConfig, RuleThresholds
from dots_jax.curation.charts import (
    Bar,
    Mark,
    Series,
    bars,
    bins,
    card,
    even_ticks,
    histogram,
    html_page,
    nice_top,
    number,
    section,
    text,
)
from dots_jax.curation.minhash import hit_probability
from dots_jax.curation.rules.judge import RULES
from dots_jax.curation.rules.step import rule, thresholds
from dots_jax.curation.survey import BINS_PER_DECADE, MEASURED, Frequent, Survey

LANGUAGES, PICTURES, SITES, LINES = 6, 12, 15, 20  # of which the page shows at most this many
BINS = range(20, 41)  # of a histogram of scores


def report_page(report: dict, found: Survey, config: CurateConfig) -> str:
    """The page, from report.json and the survey of the same corpus."""
    title = f"Corpus {report['crawl']}".strip()
    sections = (
        _summary(report, title), _funnel(report, found), _languages(report, found), _lengths(found), _scores(found, config),
        _jaccard(found, config), _sites(found), _lines(found), _kept(found), _dropped(found),
    )  # fmt: skip
    return html_page(title, sections)


def _cards(cards: Sequence[str]) -> str:
    return f'<div class="grid2">{"".join(cards)}</div>'


def _share(part: float, total: float) -> str:
    return f"{100 * part / total:.1f}%" if total else ""


def _legend(*kinds: tuple[str, str]) -> str:
    keys = "".join(f'<span><i class="key {kind}"></i>{text(name)}</span>' for kind, name in kinds)
    return f'<p class="legend">{keys}</p>'


def _summary(report: dict, title: str) -> str:
    books = report["books"]
    read, written = books["records_read"], books["documents_written"]
    tiles = (
        (number(read), "records read"),
        (number(written), f"documents kept, {_share(written, read)}"),
        (number(books["ledger_rows_of_records"]), "records removed, each with a row"),
        (number(books["ledger_rows_of_lines"]), "lines removed one by one"),
        (number(books["characters_written"]), "characters in the corpus"),
    )
    found = "".join(f'<div class="tile"><b>{text(value)}</b><span>{text(name)}</span></div>' for value, name in tiles)
    idle = ", ".join(report["removed_nothing"])
    said = f"<p>Steps that removed nothing: {text(idle)}.</p>" if idle else ""
    missing = ", ".join(report["not_run"])
    said += f"<p>Steps that did not run, since they have no model: {text(missing)}.</p>" if missing else ""
    only = f"<p>Only the step {text(report['only'])} was run.</p>" if report["only"] else ""
    return f'<h1>{text(title)}</h1><div class="tiles">{found}</div>{only}{said}'


def _funnel(report: dict, found: Survey) -> str:
    rows, table = [], []
    for step in report["funnel"]:
        came, kept, went = (step[side].get("records", 0) for side in ("in", "kept", "removed"))
        rows.append(Bar(step["step"], (("kept", kept), ("lost", went)), f"{number(kept)} · {_share(kept, came)}"))
        for reason, count in step["reasons"].items():
            records = found.records[step["step"], reason]
            cells = f'<td>{text(step["step"])}</td><td class="left">{text(reason)}</td><td>{count:,}</td><td>{records:,}</td>'
            table.append(f"<tr>{cells}<td>{_share(records, came)}</td></tr>")
    head = '<tr><th>step</th><th class="left">reason</th><th>rows</th><th>records</th><th>of what came in</th></tr>'
    return section(
        "Funnel", "What came to each step, and the share of it that stayed. A row can be a record, a line or a part of a text.",
        _legend(("kept", "kept"), ("lost", "removed"))
        + f'<div class="card">{bars(rows)}</div><details><summary>All reasons</summary><div class="scroll"><table>'
        f"{head}{''.join(table)}</table></div></details>",
    )  # fmt: skip


def _languages(report: dict, found: Survey) -> str:
    steps = [row["step"] for row in report["funnel"]]
    totals = Counter({language: counts.total() for language, counts in found.before.items()})
    cards = []
    for language, came in sorted(totals.items(), key=lambda item: (-item[1], item[0]))[:LANGUAGES]:
        gone = Counter()
        for (of, step, _), count in found.removed.items():
            if of == language:
                gone[step] += count
        kept = found.after.get(language, Counter()).total()
        rows, stays = [], came
        for step in steps:
            if step in gone:
                stays -= gone[step]
                rows.append(Bar(step, (("kept", stays), ("lost", gone[step])), f"−{number(gone[step])}"))
        rows.append(Bar("corpus", (("kept", kept),), number(kept)))
        cards.append(card(f"{language}: {came:,} texts, {_share(kept, came)} kept", bars(rows)))
    more = len(totals) - len(cards)
    about = "Texts by language, from extraction on. \u201cunknown\u201d: removed before a language was found." + (
        f" {more} more languages are in report.json." if more > 0 else ""
    )
    return section("Funnel of each language", about, _cards(cards))


def _lengths(found: Survey) -> str:
    last = max((max(counts) for counts in found.before.values()), default=0) + 1
    ticks = [(at, number(10 ** (at // BINS_PER_DECADE))) for at in range(0, last + 1, BINS_PER_DECADE)]
    totals = sorted(found.before.items(), key=lambda item: (-item[1].total(), item[0]))[:LANGUAGES]
    cards = []
    for language, before in totals:
        after = found.after.get(language, Counter())
        series = [
            Series(kind, [counts[at] for at in range(last)]) for kind, counts in (("before", before), ("kept", after))
        ]
        picture = histogram(series, ticks, 0, last, title=f"lengths of {language}")
        cards.append(card(language, picture, f"before {before.total():,} texts, after {after.total():,}"))
    return section(
        "Lengths", "Characters of a text after extraction, and in the corpus; shares of each, logarithmic axis.",
        _legend(("before", "before"), ("kept", "after")) + _cards(cards),
    )  # fmt: skip


def _scores(found: Survey, config: CurateConfig) -> str:
    cards = []
    removed = sum((counts for (step, _, _), counts in found.scores.items() if step == "language"), Counter())
    if found.language_scores or removed:
        kept = Counter({value / 100: count for value, count in found.language_scores.items()})
        least = config.language.min_score
        size = _bins(least, 1)
        series = [Series("kept", bins(kept, 0, 1, size)), Series("lost", bins(removed, 0, 1, size))]
        picture = histogram(
            series, even_ticks(0, 1), 0, 1, [Mark(least, f"min_score {least:g}")], title="language score"
        )
        cards.append(card("language: probability", picture, f"{removed.total():,} removed"))
    kept_numbers = _kept_numbers(found, config)
    for (_, reason, limit), counts in sorted(_of_step(found, "rules"), key=lambda item: -item[1].total())[:PICTURES]:
        kept = kept_numbers.get((reason, limit), Counter())
        cards.append(
            card(f"{reason}: {limit}", _rule_picture(counts, kept, reason, limit), f"{counts.total():,} removed")
        )
    for (_, reason, _), counts in _of_step(found, "pii"):
        high = nice_top(max(counts))
        limit = (
            [Mark(config.pii.max_found, f"max_found {config.pii.max_found}")] if config.pii.max_found <= high else []
        )
        picture = histogram(
            [Series("lost", bins(counts, 0, high, _bins(config.pii.max_found, high)))],
            even_ticks(0, high),
            0,
            high,
            limit,
            title=reason,
        )
        cards.append(
            card(
                f"pii, {reason}: pieces found",
                picture,
                f"{counts.total():,} {'changed' if reason == 'replaced' else 'removed'}",
            )
        )
    about = (
        f"Shares of the kept and of the removed documents over the number that a step compares with its threshold. Rules: "
        f"kept documents are a random sample of at most {MEASURED}, measured again."
    )
    return section("Scores and thresholds", about, _legend(("kept", "kept"), ("lost", "removed")) + _cards(cards))


def _of_step(found: Survey, step: str) -> list:
    return sorted(item for item in found.scores.items() if item[0][0] == step)


def _kept_numbers(found: Survey, config: CurateConfig) -> dict[tuple[str, str], Counter]:
    """Of the sample of kept documents: what each rule compares, by (reason, limit)."""
    numbers: dict[tuple[str, str], Counter] = {}
    if "rules" not in config.steps:
        return numbers
    for document in found.measured:
        limits = thresholds(document.language, config.rules)
        for finding in rule(document.text, limits).findings if limits else ():
            for limit in {finding.limit, *_limits(finding.reason, limits)}:
                numbers.setdefault((finding.reason, limit), Counter())[finding.score] += 1
    return numbers


def _limits(reason: str, limits: RuleThresholds) -> list[str]:
    """Both limits of a rule as the ledger writes them, of which a document that stays names one."""
    rules = [one for one in RULES if reason == f"{one.source} {one.number}"]
    fields = [("at least", one.least) for one in rules if one.least] + [
        ("at most", one.most) for one in rules if one.most
    ]
    return [f"{side} {getattr(limits, field):g}" for side, field in fields if getattr(limits, field) is not None]


def _bins(place: float, high: float) -> int:
    """The number of bins from 0 to high of which one ends nearest to the threshold, so that no bar stands across it."""
    return min(BINS, key=lambda number: abs(place / high * number - round(place / high * number)))


def _rule_picture(removed: Counter, kept: Counter, reason: str, limit: str) -> str:
    """Numbers above 20 times the threshold are shown in the last bin."""
    place = float(limit.rpartition(" ")[2]) if limit.startswith("at ") else 0.0
    values = sorted({*removed, *kept})
    high = nice_top(min(max(values[-1], place), max(20 * place, 1e-9) if place else values[-1]))
    size = _bins(place, high)
    series = [Series("kept", bins(kept, 0, high, size)), Series("lost", bins(removed, 0, high, size))]
    return histogram(series, even_ticks(0, high), 0, high, [Mark(place, limit)], title=reason)


def _jaccard(found: Survey, config: CurateConfig) -> str:
    counts = sum((counts for _, counts in _of_step(found, "minhash")), Counter())
    if not counts:
        return ""
    settings = config.minhash
    low, high = 0.5, 1.0
    series = [Series("lost", bins(counts, low, high, 25))]
    curve = [(x, hit_probability(x, settings.bands, settings.rows)) for x in (low + at / 100 for at in range(51))]
    marks = [Mark(settings.min_jaccard, f"min_jaccard {settings.min_jaccard:g}")] if settings.min_jaccard else []
    picture = histogram(series, even_ticks(low, high, 5), low, high, marks, title="Jaccard similarity", curve=curve)
    about = (
        "Similarity of each removed near-duplicate with the document that stays, estimated from the bands that they "
        "share. The line is the probability, 0 to 100 %, that two texts of this similarity meet at all."
    )
    return section(
        "Near-duplicates", about, _cards([card("Jaccard similarity", picture, f"{counts.total():,} removed")])
    )


def _sites(found: Survey) -> str:
    def rows(first: Frequent) -> str:
        made = []
        for site, _ in first.top(SITES):
            kept, lost = found.kept_sites.counts[site], found.lost_sites.counts[site]
            made.append(Bar(site, (("kept", kept), ("lost", lost)), f"{number(kept)} / {number(lost)}"))
        return bars(made, "sites")

    cards = [card("most kept", rows(found.kept_sites)), card("most lost", rows(found.lost_sites))]
    error = max(found.kept_sites.error, found.lost_sites.error)
    about = "Documents kept / records removed after reading, by host." + (
        f" Counts are up to {error:,} too low." if error else ""
    )
    return section("Sites", about, _legend(("kept", "kept"), ("lost", "removed")) + _cards(cards))


def _lines(found: Survey) -> str:
    top = found.lines.top(LINES)
    if not top:
        return ""
    rows = [Bar(line.strip() or "(empty)", (("lost", count),), number(count)) for line, count in top]
    error = f" Counts are up to {found.lines.error:,} too low." if found.lines.error else ""
    about = f"By the line-wise step and by rules; the first 200 characters.{error}"
    return section("Lines removed most often", about, f'<div class="card">{bars(rows, "lines")}</div>')


def _kept(found: Survey) -> str:
    samples = "".join(
        f'<div class="meta">{text(one.url or one.id)} · {text(one.language)} {one.language_score:g}</div>'
        f'<pre dir="auto">{text(one.text)}</pre>'
        for one in found.kept_samples
    )
    return section(
        "Documents that stay", "A random sample; the first 400 characters.",
        f"<details open><summary>{len(found.kept_samples)} documents</summary>{samples}</details>",
    )  # fmt: skip


def _dropped(found: Survey) -> str:
    blocks = []
    order = sorted(found.samples, key=lambda key: (-found.records[key], key))
    for step, reason in order:
        samples = []
        for row in found.samples[step, reason]:
            facts = [row.url or row.id, row.detail]
            facts += [f"score {row.score:g}"] if row.score is not None else []
            facts += [f"instead: {row.other}"] if row.other else []
            shown = f'<pre dir="auto">{text(row.text)}</pre>' if row.text else ""
            samples.append(f'<div class="meta">{text(" · ".join(filter(None, facts)))}</div>{shown}')
        count = found.records[step, reason]
        of = f"{count:,} records" if count else "lines or parts"
        blocks.append(f"<details><summary>{text(step)}: {text(reason)} · {of}</summary>{''.join(samples)}</details>")
    return section("Samples of what was removed", "A random sample of each reason, from the ledger.", "".join(blocks))
