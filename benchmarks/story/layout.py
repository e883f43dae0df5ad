"""The parts that all sections of story/report.html share. Every string that a step wrote is escaped here or by charts.py."""

import base64
from collections.abc import Sequence

from dots_jax.curation.charts import section, text

# Prints light and complete. A section that fits on a sheet is on one: Chromium keeps an inline block together, while for a block it
# overlooks `break-inside: avoid` after the first.
STYLE = """
td.run{overflow-wrap:anywhere}table.pair td,table.pair th{text-align:left}img{display:block;width:100%;height:auto;background:#fff;
border-radius:6px}code{font:12px ui-monospace,monospace;overflow-wrap:anywhere}table.pair{table-layout:fixed}
td pre{min-width:150px;margin:0}table.samples td{text-align:left}a{color:inherit}
p.small{max-width:none}
@media screen and (max-width:520px){th,td{padding:4px 4px}td{overflow-wrap:anywhere}table{font-size:11.5px}
.picture img{min-width:620px}}
@page{margin:14mm 12mm}
@media print{:root{--ink:#000;--dim:#444;--paper:#fff;--card:#fff;--line:#bbb;--kept:#2f7d5b;--lost:#c8553d;--before:#b9c4d0;
--mark:#7a3ea8}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}body{background:#fff;font-size:11px}main{padding:0;max-width:none}
main{orphans:1;widows:1}section{display:inline-block;width:100%}tr,.tile,.row{break-inside:avoid}.card{padding:6px 8px}
.scroll{overflow:visible}td pre{min-width:0;font-size:9.5px}table{font-size:10.5px}thead{display:table-header-group}
img{max-height:95mm;object-fit:contain}a[href^=http]::after{content:" (" attr(href) ")"}p{max-width:none}}
"""

Pair = tuple[str, str, str]  # name, this run's, the 142B run's


def link(address: str, name: str) -> str:
    """A link that the printed page shows with its address."""
    return f'<a href="{text(address)}">{text(name)}</a>'


def pairs(rows: Sequence[Pair], command: str) -> str:
    """Two columns, this run and the 142B run, above the command that made the first."""
    body = "".join(
        f'<tr><td>{text(name)}</td><td class="run">{text(tiny)}</td><td class="run">{text(full)}</td></tr>'
        for name, tiny, full in rows
    )
    head = "<thead><tr><th></th><th>this run</th><th>142B run</th></tr></thead>"
    return f'<div class="card scroll"><table class="pair">{head}<tbody>{body}</tbody></table></div>{said(command)}'


def said(command: str) -> str:
    return f'<p class="small"><code>{text(command)}</code></p>'


def image(png: bytes, alt: str) -> str:
    inside = base64.b64encode(png).decode()
    return f'<div class="card scroll picture"><img alt="{text(alt)}" src="data:image/png;base64,{inside}"></div>'


def several(count: int, what: str) -> str:
    return f"{count} {what}" + "s" * (count != 1)


def tile(value: str, name: str) -> str:
    return f'<div class="tile"><b>{text(value)}</b><span>{text(name)}</span></div>'


def left_out(markers: Sequence[dict]) -> str:
    """The steps that a run left out, each with its reason; nothing if there are none."""
    named = [(marker["title"], marker["skipped"]) for marker in markers if "skipped" in marker]
    if not named:
        return ""
    items = "".join(f"<li><b>{text(name)}</b>: {text(why)}</li>" for name, why in named)
    return section("Not on this page", "Steps that this run left out.", f'<div class="card"><ul>{items}</ul></div>')
