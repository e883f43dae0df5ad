"""Charts as text: bars of HTML and histograms of SVG, without scripts and without files. Every label is escaped here."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")  # which no HTML may hold
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 190, 40, 20, 26, 22  # of a histogram, in units of its view box


def text(value: object) -> str:
    """A string of a page, as text of HTML or value of an attribute."""
    return html.escape(_CONTROL.sub("\ufffd", str(value)))


def number(value: float) -> str:
    """`1,234`, `0.75`, `1.2M`."""
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


class Bar(NamedTuple):
    label: str
    parts: tuple[tuple[str, float], ...]  # (class, value), from left to right
    note: str = ""


def bars(rows: Sequence[Bar], labels: str = "steps") -> str:
    """Horizontal bars of a common scale. labels: a class for the width of their column: steps, sites or lines."""
    most = max((sum(value for _, value in row.parts) for row in rows), default=0) or 1
    found = []
    for row in rows:
        parts = "".join(
            f'<i class="{kind}" style="width:{100 * value / most:.2f}%"></i>' for kind, value in row.parts if value
        )
        found.append(
            f'<div class="row"><span class="label" dir="auto" title="{text(row.label)}">{text(row.label)}</span>'
            f'<span class="bar">{parts}</span><span class="note">{text(row.note)}</span></div>'
        )
    return f'<div class="{labels}">{"".join(found)}</div>'


class Series(NamedTuple):
    """counts: of each bin; shown as shares of their sum."""

    kind: str  # a class: kept, lost, before
    counts: Sequence[float]


class Mark(NamedTuple):
    """A vertical line."""

    place: float
    label: str


def bins(counts: Mapping[float, int], low: float, high: float, number: int) -> list[int]:
    """Counts of `number` equal bins; what lies outside goes into the first or the last."""
    found = [0] * number
    for value, count in counts.items():
        at = int((value - low) / (high - low) * number + 1e-9)
        found[min(max(at, 0), number - 1)] += count
    return found


def histogram(
    series: Sequence[Series],
    ticks: Sequence[tuple[float, str]],
    low: float,
    high: float,
    marks: Sequence[Mark] = (),
    *,
    title: str,
    curve: Sequence[tuple[float, float]] = (),
) -> str:
    """Bars of several series over one axis from low to high. ticks: (place, label). curve: (place, height from 0 to 1)."""
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    across = lambda place: LEFT + wide * (place - low) / (high - low)
    shares = [(one.kind, [count / (sum(one.counts) or 1) for count in one.counts]) for one in series]
    scale = 1.0 if curve else max((max(found, default=0) for _, found in shares), default=0) or 1.0
    drawn = [f'<line class="axis" x1="{LEFT}" y1="{HEIGHT - BOTTOM}" x2="{WIDTH - RIGHT}" y2="{HEIGHT - BOTTOM}"/>']
    for share in (0.5, 1.0):
        y = HEIGHT - BOTTOM - tall * share
        drawn.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        drawn.append(f'<text x="{LEFT - 4}" y="{y + 3:.1f}" text-anchor="end">{_percent(scale * share)}</text>')
    for place, (kind, found) in enumerate(shares):
        step = wide / len(found)
        thick = max(step / len(shares) - 0.6, 0.6)
        for at, share in enumerate(found):
            if share:
                x, high_ = LEFT + at * step + place * step / len(shares), max(tall * share / scale, 0.8)
                drawn.append(
                    f'<rect class="{kind}" x="{x:.1f}" y="{HEIGHT - BOTTOM - high_:.1f}" width="{thick:.1f}" '
                    f'height="{high_:.1f}"/>'
                )
    if curve:
        points = " ".join(f"{across(x):.1f},{HEIGHT - BOTTOM - tall * y:.1f}" for x, y in curve)
        drawn.append(f'<polyline class="curve" points="{points}"/>')
    for mark in marks:
        x = min(max(across(mark.place), LEFT), WIDTH - RIGHT)
        end = "end" if x > WIDTH / 2 else "start"
        drawn.append(f'<line class="mark" x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>')
        shift = 4 if end == "end" else -4
        drawn.append(
            f'<text class="mark" x="{x + shift:.1f}" y="{TOP - 12}" text-anchor="{end}">{text(mark.label)}</text>'
        )
    for place, label in ticks:
        x = across(place)
        drawn.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{text(label)}</text>')
    body = "".join(drawn)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(title)}">{body}</svg>'


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.2g}%"


def even_ticks(low: float, high: float, count: int = 4) -> list[tuple[float, str]]:
    return [
        (low + (high - low) * at / count, number(float(f"{low + (high - low) * at / count:.3g}")))
        for at in range(count + 1)
    ]


def nice_top(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10 ** math.floor(math.log10(value))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= value * (1 - 1e-9))


def card(title: str, body: str, note: str = "") -> str:
    below = f'<p class="small">{text(note)}</p>' if note else ""
    return f'<div class="card"><h3 dir="auto">{text(title)}</h3>{body}{below}</div>'


def section(title: str, about: str, body: str) -> str:
    return f"<section><h2>{text(title)}</h2><p>{text(about)}</p>{body}</section>"


def html_page(title: str, sections: Sequence[str], *, style: str = "", images: bool = False) -> str:
    """A complete page that loads nothing and runs nothing. style: more of it. images: allows those inside the page (data:)."""
    allowed = "img-src data:; " if images else ""
    head = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; {allowed}style-src 'unsafe-inline'\">"
    )
    head = f"{head}<title>{text(title)}</title><style>{_STYLE}{style}</style></head>"
    return f"{head}<body><main>{''.join(sections)}</main></body></html>\n"


_STYLE = """
:root{--ink:#1d2733;--dim:#5d6b7a;--paper:#f6f7f9;--card:#fff;--line:#dde2e8;--kept:#2f7d5b;--lost:#c8553d;--before:#b9c4d0;
--mark:#7a3ea8}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9ef;--dim:#9aa7b5;--paper:#14191f;--card:#1c232b;--line:#313b46;
--kept:#58b98d;--lost:#e5806a;--before:#56646f;--mark:#c79bec}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.45 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:20px 16px 60px}
h1{font-size:26px;margin:8px 0 2px}h2{font-size:19px;margin:34px 0 4px}h3{font-size:14px;margin:0 0 8px;overflow-wrap:anywhere}
p{margin:4px 0 12px;color:var(--dim);max-width:80ch}.small{font-size:12.5px;margin:6px 0 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:16px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 14px}
.tile b{display:block;font-size:22px}.tile span{color:var(--dim);font-size:13px}
.grid2{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:12px}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 14px;min-width:0}
.row{display:grid;grid-template-columns:92px 1fr 96px;gap:10px;align-items:center;padding:2px 0;
font-size:13px}
.sites .row{grid-template-columns:minmax(110px,40%) 1fr 76px}.lines .row{grid-template-columns:minmax(50%,60%) 1fr 56px}
.label{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;unicode-bidi:isolate}
.bar{display:flex;height:14px;background:var(--paper);border-radius:3px;overflow:hidden}
.bar i{display:block;height:100%;min-width:1px}.note{text-align:right;font-variant-numeric:tabular-nums;color:var(--dim)}
i.kept,.key.kept{background:var(--kept)}i.lost,.key.lost{background:var(--lost)}.key.before{background:var(--before)}
.key{display:inline-block;width:11px;height:11px;border-radius:2px;margin:0 5px 0 0}.legend span+span{margin-left:14px}
svg{display:block;width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:var(--dim)}
rect.kept{fill:var(--kept)}rect.lost{fill:var(--lost)}rect.before{fill:var(--before)}
.axis{stroke:var(--dim)}.grid{stroke:var(--line)}line.mark{stroke:var(--mark);stroke-dasharray:4 3}
svg text.mark{fill:var(--mark)}.curve{fill:none;stroke:var(--mark);stroke-width:1.5}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:13px;width:100%}
th,td{text-align:right;padding:4px 8px;border-bottom:1px solid var(--line);vertical-align:top}
th:first-child,td:first-child,td.left,th.left{text-align:left}td{font-variant-numeric:tabular-nums}
details{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:8px 14px;margin:8px 0}
summary{cursor:pointer;font-size:14px;overflow-wrap:anywhere}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--paper);border-radius:6px;padding:8px 10px;margin:8px 0;
font:12.5px/1.45 ui-monospace,monospace;unicode-bidi:isolate}
.meta{font-size:12.5px;color:var(--dim);overflow-wrap:anywhere;margin-top:10px}
"""
