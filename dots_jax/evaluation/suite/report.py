"""The report of a run: one HTML file without anything from outside, and a picture. A model's output is escaped everywhere."""

import base64
import html
import io
from collections.abc import Sequence

from dots_jax.evaluation.rows.table import ROWS
from dots_jax.evaluation.suite.published import FIGURES, group_means, length_means
from dots_jax.evaluation.suite.summary import RowSummary
from dots_jax.evaluation.tasks.table import TASKS, rows_of
from dots_jax.storage import atomic_write, write_text

STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #888; --good: #2a7f4f; --bad: #b3403a; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
table { border-collapse: collapse; width: 100%; } th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); }
th { text-align: left; font-weight: 600; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; } .quiet { color: var(--quiet); } img { max-width: 100%; background: white; }
details { margin: .4rem 0; } summary { cursor: pointer; } .right { color: var(--good); } .wrong { color: var(--bad); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid var(--line); padding-left: .8rem; margin: .3rem 0; }
tr.group td { font-weight: 600; }
section.page { display: none; } section.page:target { display: block; } body:has(section.page:target) main { display: none; }
"""
COLUMNS = ("row", "score", "± s.e.", "ranked", "report", "difference", "items", "unparsed", "cut off", "notes")
SHOWN = 4000  # characters of a text


def write_report(folder: str, suite: str, title: str, facts: dict[str, str], rows: Sequence[RowSummary]) -> None:
    """`report.html` and `report.png` in the folder of the run.

    facts: what the head of the page lists, by name.
    """
    picture = draw(suite, rows)
    with atomic_write(f"{folder}/report.png", "wb") as file:
        file.write(picture)
    write_text(f"{folder}/report.html", page(suite, title, facts, rows, picture))


def page(suite: str, title: str, facts: dict[str, str], rows: Sequence[RowSummary], picture: bytes) -> str:
    """The complete HTML. Each row has a page of its own behind its name, in the same file."""
    text = html.escape
    head = "".join(f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in facts.items())
    image = base64.b64encode(picture).decode()
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # Nothing is loaded and no script runs, whatever a model wrote.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>",
        f'<main><h1>{text(title)}</h1><div class="scroll"><table>{head}</table></div>',
        f'<h2>Scores, in percent</h2><div class="scroll">{_table(suite, rows)}</div>',
        "<p class=quiet>The report does not publish its base prompts: every row follows a public reference and is an "
        "assumption. A group's mean is the plain mean of its rows, given only where all of them are there. Answers that are "
        "unparsed are wrong.</p>",
        f'<h2>Against the report</h2><img alt="scores and the figures of the report" src="data:image/png;base64,{image}"></main>',
        *(_row_page(row) for row in rows),
        "</body></html>\n",
    ]
    return "".join(parts)


def _table(suite: str, rows: Sequence[RowSummary]) -> str:
    figures = FIGURES[suite]
    lines = ["<tr>" + "".join(f'<th class="{_kind(name)}">{name}</th>' for name in COLUMNS) + "</tr>"]
    for row in rows:
        link = f'<a href="#{row.name}">{html.escape(ROWS[row.name].title)}</a>'
        report = figures.get(row.name)
        if row.missing or row.score is None:
            cells = [link, "—", "", "", _number(report), "", "0", "", "", html.escape(row.missing or "no items")]
        else:
            score, error = row.score
            counts = row.counts()
            notes = ", ".join(
                f"{n:,} {name}" for name, n in counts.items() if n and name not in ("without an answer", "cut off")
            )
            difference = f"{score - report:+.1f}" if report is not None else ""
            cells = [link, _number(score), f"{error:.1f}", _number(row.ranking and row.ranking[0]), _number(report), difference,
                     f"{row.generated.items:,}", f"{row.unparsed:,}", f"{row.cut_off:,}", html.escape(notes)]  # fmt: skip
        lines.append(_cells(cells))
    for group, (mean, report, here, total) in _means(suite, rows).items():
        note = "" if mean is not None else f"{here} of {total} rows"
        difference = "" if mean is None or report is None else f"{mean - report:+.1f}"
        cells = [f"mean: {group}", _number(mean) or "—", "", "", _number(report), difference, "", "", "", note]
        lines.append(_cells(cells, "group"))
    return f"<table>{''.join(lines)}</table>"


def _means(suite: str, rows: Sequence[RowSummary]) -> dict:
    if suite == "table3":
        return length_means({row.name: row.generated.means() for row in rows}, len(rows_of(suite)))
    return group_means(suite, {row.name: row.score[0] for row in rows if row.score})


def _kind(name: str) -> str:
    return "t" if name in ("row", "notes") else "n"


def _cells(cells: list[str], kind: str = "") -> str:
    return f'<tr class="{kind}">' + "".join(
        f'<td class="{_kind(name)}">{cell}</td>' for name, cell in zip(COLUMNS, cells, strict=True)
    ) + "</tr>"  # fmt: skip


def _number(value: float | None) -> str:
    return "" if value is None else f"{value + 1e-9:.1f}"  # a mean of 59.55 is 59.6, as the report prints it


def _row_page(row: RowSummary) -> str:
    text, task, info = html.escape, TASKS.get(row.name), ROWS[row.name]
    facts = {
        "metric": info.metric,
        "reference": info.reference,
        "licence of the data": info.licence,
        "files": info.files,
    }
    if task:
        deviation = {"deviates from it": task.deviation} if task.deviation else {}
        facts |= {"shots": str(task.shots), "stop strings": ", ".join(map(repr, task.stop)) or "none",
                  "new tokens": f"at most {task.max_new_tokens:,}", **deviation}  # fmt: skip
    facts |= {name: f"{count:,}" for name, count in row.counts().items()} if not row.missing else {"data": row.missing}
    table = "".join(f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in facts.items())
    parts = [f'<section class="page" id="{row.name}"><p><a href="#">all rows</a></p><h1>{text(info.title)}</h1>',
             f'<div class="scroll"><table>{table}</table></div>']  # fmt: skip
    for kind, samples in (("right", row.right), ("wrong", row.wrong)):
        parts.append(f"<h2>Answers that are {kind}{'' if samples else ': none'}</h2>")
        parts += [_sample(kind, line) for line in samples]
    groups = row.generated.groups
    if len(groups) > 1:
        body = "".join(
            f'<tr><td>{text(name)}</td><td class="n">{100 * total / n:.1f}</td><td class="n">{int(n):,}</td></tr>'
            for name, (n, total, _) in groups.items()
        )
        parts.append(
            f'<h2>Groups</h2><table><tr><th>group</th><th class="n">score</th><th class="n">items</th></tr>{body}</table>'
        )
    return "".join(parts) + "</section>"


def _sample(kind: str, line: dict) -> str:
    """One answer, folded. All of it comes from files and from a model, and is escaped."""
    text = lambda value: html.escape(_shortened(str(value)))
    extracted = "nothing" if line["extracted"] is None else text(line["extracted"])
    return (
        f'<details><summary><span class="{kind}">{text(line["id"])}</span>: {extracted[:120]}'
        f'<span class="quiet"> for {text(line["expected"])[:120] or "its tests"}</span></summary>'
        f'<p class="quiet">the prompt behind {line["shots"]} shots</p><pre>{text(line["context"])}</pre>'
        f'<p class="quiet">the model, {line["new_tokens"]} tokens, ended by {text(line["ended"])}</p>'
        f"<pre>{text(line['text'])}</pre></details>"
    )


def _shortened(value: str) -> str:
    return value if len(value) <= SHOWN else f"{value[: SHOWN // 2]} … {value[-SHOWN // 2 :]}"


def draw(suite: str, rows: Sequence[RowSummary]) -> bytes:
    """A PNG: each row's score with two standard errors, and the report's figure. Rows without data keep their place."""
    from matplotlib.figure import Figure

    figures, names = FIGURES[suite], [ROWS[row.name].title for row in rows]
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        if row.score:
            axes.errorbar(row.score[0], place, xerr=2 * row.score[1], fmt="o", color="#1f5fa8", capsize=2)
        else:
            axes.text(1, place, row.missing.partition(":")[0] or "no items", va="center", fontsize=8, color="#888888")
        if row.name in figures:
            axes.plot(figures[row.name], place, marker="|", markersize=12, color="#c0504d")
    axes.plot([], [], "o", color="#1f5fa8", label="this checkpoint, ± 2 standard errors")
    axes.plot([], [], "|", markersize=12, color="#c0504d", label="the report")
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="score, %")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130, metadata={"Software": None})
    return data.getvalue()
