"""story/report.html: one page that needs nothing else. Every string that a step wrote is escaped by charts.py."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from benchmarks.story.reread import read_rows
from benchmarks.story.steps import PROMPTS, Step, read_json
from dots_jax.config import UserError
from dots_jax.curation.charts import Bar, bars, card, html_page, number, section, text
from dots_jax.evaluation.suite.published import BASE
from dots_jax.storage import write_text

PLANNER = Path(__file__).parents[1] / "results" / "planner.json"
MESH = "gin/meshes/v5p_8x8x8.gin"
STYLE = """
td.run{overflow-wrap:anywhere}table.pair td,table.pair th{text-align:left}img{display:block;width:100%;height:auto;background:#fff;
border-radius:6px}code{font:12px ui-monospace,monospace;overflow-wrap:anywhere}table.pair{table-layout:fixed}
td pre{min-width:150px;margin:0}table.samples td{text-align:left}
@media print{body{background:#fff}section,.card,tr{break-inside:avoid}main{padding:0}}
"""


def write_page(folder: Path, steps: Sequence[Step]) -> None:
    """Raises UserError if a step's result is not there or cannot be read."""
    try:
        markers = [read_json(folder / "steps" / f"{step.name}.json") for step in steps]
        page = story_page(folder, markers)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: what a step wrote cannot be read ({error}). Start the story again.") from error
    write_text(folder / "report.html", page)


def story_page(folder: Path, markers: Sequence[dict]) -> str:
    """The complete HTML. markers: of each step, in order."""
    commands = {marker["name"]: "python -m " + " ".join(marker["command"]) for marker in markers}
    rows = read_rows(folder / "pretrain" / "metrics.jsonl")
    sections = (
        _summary(folder, markers, rows), _missing(markers), _data(folder, commands), _loss(rows, commands),
        _load(folder, commands), _samples(folder, rows, commands), _evaluation(folder, commands), _rft(folder, commands),
        _weights(folder, markers, commands), _costs(markers),
    )  # fmt: skip
    return html_page("dots.llm1 in small", sections, style=STYLE, images=True)


def _summary(folder: Path, markers: Sequence[dict], rows: Sequence[dict]) -> str:
    steps = [row for row in rows if "loss" in row]
    seconds = sum(marker["cost"]["seconds"] for marker in markers if "cost" in marker)
    core = sum(marker["cost"]["core_seconds"] for marker in markers if "cost" in marker)
    tiles = (
        (f"{seconds / 60:.1f} min", "on this machine"),
        (f"{core / 60:.1f} min", "of processor time"),
        (number(steps[-1]["tokens"]), "tokens of training"),
        (number(read_json(folder / "reread.json")["parameters"]), "parameters"),
    )
    found = "".join(f'<div class="tile"><b>{text(value)}</b><span>{text(name)}</span></div>' for value, name in tiles)
    about = (
        "From web pages to weights, by the commands that a full-size run uses. The left column of each table is this tiny run, "
        "the right one is dots.llm1 with 142B parameters (arXiv 2506.05767)."
    )
    return f'<h1>dots.llm1 in small</h1><p>{about}</p><div class="tiles">{found}</div>'


def _missing(markers: Sequence[dict]) -> str:
    named = [(marker["title"], f"left out: {marker['skipped']}") for marker in markers if "skipped" in marker]
    if not named:
        return ""
    items = "".join(f"<li><b>{text(name)}</b>: {text(why)}</li>" for name, why in named)
    return section("Not on this page", "Steps that this run left out.", f'<div class="card"><ul>{items}</ul></div>')


def _pairs(rows: Sequence[tuple[str, str, str]], command: str) -> str:
    body = "".join(
        f'<tr><td>{text(name)}</td><td class="run">{text(tiny)}</td><td class="run">{text(full)}</td></tr>'
        for name, tiny, full in rows
    )
    head = "<tr><th></th><th>this run</th><th>142B run</th></tr>"
    said = f'<p class="small"><code>{text(command)}</code></p>'
    return f'<div class="card scroll"><table class="pair">{head}{body}</table></div>{said}'


def _data(folder: Path, commands: dict) -> str:
    report = read_json(folder / "data" / "corpus" / "report.json")
    demo = read_json(folder / "data" / "demo.json")
    funnel = []
    for step in report["funnel"]:
        kept, gone = step["kept"].get("records", 0), step["removed"].get("records", 0)
        funnel.append(Bar(step["step"], (("kept", kept), ("lost", gone)), f"−{number(gone)}"))
    books = report["books"]
    pairs = (
        ("pages read", number(books["records_read"]), "not published"),
        ("documents kept", number(books["documents_written"]), "not published"),
        ("characters", number(books["characters_written"]), "not published; 11.2T tokens"),
        ("ledger", f"{demo['found']} of {demo['planted']} planted faults found by name", "not published"),
        ("lines kept across documents", "the first 200 occurrences", "the first 200 occurrences (section 4)"),
        ("near-duplicates", "128 bands of 16 values", "128 bands of 16 values (section 4)"),
    )
    return section(
        "What went in, and what was removed",
        "Pages that each step kept (green) and removed (red). Every removal has a row in the ledger under data/corpus/removed.",
        card("Funnel", bars(funnel)) + _pairs(pairs, commands["data"]),
    )


def _image(png: bytes, alt: str) -> str:
    return (
        f'<div class="card"><img alt="{text(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></div>'
    )


def _loss(rows: Sequence[dict], commands: dict) -> str:
    from dots_jax.analysis.figures import loss_curve

    steps = [row for row in rows if "loss" in row]
    drawn = io.BytesIO()
    loss_curve(steps).savefig(drawn, dpi=130, format="png")
    first, last = steps[0], steps[-1]
    spikes = last["spike_total"]
    stages = list(dict.fromkeys(row["stage"] for row in steps))
    pairs = (
        (
            "loss, nats per token",
            f"{first['loss']:.2f} to {last['loss']:.2f}",
            "about 2.5 to about 1.5 over 10T tokens (figure 3)",
        ),
        ("tokens", number(last["tokens"]), "11.2T, with long context on top"),
        ("stages", ", ".join(stages), "stable, two annealings, long context with untie"),
        ("peak learning rate", f"{max(row['learning_rate'] for row in steps):g}", "3e-4"),
        ("loss spikes", f"{spikes}, no rollback", "none irrecoverable, no rollback"),
        ("tokens dropped", str(last["dropped_tokens"]), "0"),
        *(
            (f"held-out loss: {task}", f"{found['loss']:.2f}", "not published")
            for task, found in _validation(rows).items()
        ),
        (
            "cost",
            f"{sum(row.get('step_seconds') or 0 for row in steps) / 60:.1f} min of steps, without compilation",
            _cost_142b(),
        ),
    )
    about = (
        "As figure 3 of the report. Losses of different tokenizers and data do not compare with each other; shapes do."
    )
    return section(
        "Pre-training", about, _image(drawn.getvalue(), "loss over tokens") + _pairs(pairs, commands["pretrain"])
    )


def _validation(rows: Sequence[dict]) -> dict[str, dict]:
    return next((row["validation"] for row in reversed(rows) if "validation" in row), {})


def _cost_142b() -> str:
    planner = read_json(PLANNER)
    row = next(row for row in planner["rows"] if row["file"] == MESH)
    return (
        f"{planner['report_h800_hours_per_1T']:,} H800 hours per 1T tokens (report); {row['chip_hours_1T']:,} chip-hours on "
        f"{row['chips']} ({planner['kind']} of benchmarks/results/planner.json)"
    )


def _load(folder: Path, commands: dict) -> str:
    found = read_json(folder / "load.json")
    apart = ", ".join(f"{value:.2f}" for value in found["specialisation"])
    pairs = (
        ("experts", "16, of which 4 a token; 2 shared", "128, of which 6 a token; 2 shared"),
        ("layers with experts", str(len(found["specialisation"])), "61"),
        (
            "distance of domains, by layer",
            f"{apart} (0: the same experts, 1: no common one)",
            "not published as a number (figure 5)",
        ),
        *(
            (f"loss on {name}", f"{one['loss']:.2f} over {one['tokens']:,} tokens", "not published")
            for name, one in found["domains"].items()
        ),
    )
    about = "As figure 5 of the report: the share of a domain's tokens that each expert gets, over an even share (1 is even)."
    picture = _image((folder / "load.png").read_bytes(), "expert load of code, prose and arithmetic, layer by expert")
    return section("Expert load", about, picture + _pairs(pairs, commands["load"]))


def _samples(folder: Path, rows: Sequence[dict], commands: dict) -> str:
    tokens = {row["step"]: row["tokens"] for row in rows if "loss" in row}
    kept = sorted(int(path.stem) for path in (folder / "samples").glob("*.jsonl") if path.stem.isdigit())
    answers = {step: [row["text"] for row in read_rows(folder / "samples" / f"{step}.jsonl")] for step in kept}
    head = "".join(f'<th class="left">{text(number(tokens[step]))} tokens</th>' for step in kept)
    body = "".join(
        f"<tr><td><b>{text(prompt)}</b></td>"
        + "".join(
            f"<td><pre>{text(answers[step][at] if answers[step][at].strip() else '(no visible text)')}</pre></td>"
            for step in kept
        )
        + "</tr>"
        for at, prompt in enumerate(PROMPTS)
    )
    table = f'<div class="card scroll"><table class="samples"><tr><th>prompt</th>{head}</tr>{body}</table></div>'
    about = "The likeliest continuation of fixed prompts, by each milestone. The report released a checkpoint at every 1T tokens."
    return section("Samples", about, f'{table}<p class="small"><code>{text(commands["samples"])}</code></p>')


def _evaluation(folder: Path, commands: dict) -> str:
    if "evaluate" not in commands:
        return ""
    found = read_json(folder / "evaluation" / "dynamics.json")
    pairs = []
    for name, row in found["steps"][-1]["rows"].items():
        score = row.get("generated") or {}
        said = f"{score['score']:.1f}, of {row['items']} items" if score else "no items"
        pairs.append((name, said, f"{BASE[name]} (table 2)" if name in BASE else "figure 4, a curve"))
    about = (
        "As figure 4 of the report, over the milestones of this run. The items are a few of each form, written for this project: "
        "so small a model answers at chance."
    )
    picture = _image((folder / "evaluation" / "dynamics.png").read_bytes(), "scores and loss over tokens")
    return section("Benchmark rows", about, picture + _pairs(pairs, commands["evaluate"]))


def _rft(folder: Path, commands: dict) -> str:
    if "rft" not in commands:
        return ""
    found = read_json(folder / "rft" / "result.json")
    mean = found["mean"]
    pairs = (
        ("after SFT", f"{mean['sft']:.3f}", "about 400K conversations, 2 epochs (section 5)"),
        ("after RFT", f"{mean['rft']:.3f}", "rejection sampling with verifiers for mathematics and code (section 5)"),
        ("control: as many steps on SFT's data", f"{mean['sft_more']:.3f}", "not published"),
        ("control: answers that were not verified", f"{mean['unverified']:.3f}", "not published"),
        ("SFT on what it learned", f"{mean['sft_on_learned']:.3f}", "not published"),
        ("learning rate of RFT", "1e-3 to 1e-4, cosine", "5e-6 to 1e-6, cosine"),
    )
    about = (
        f"pass@1 on sums that no run has seen, the mean of {len(found['seeds'])} seeds. A model of its own learns sums of two "
        "numbers as conversations, then its own right answers."
    )
    picture = _image((folder / "rft" / "bars.png").read_bytes(), "pass@1 after SFT, RFT and two controls")
    return section("Post-training", about, picture + _pairs(pairs, commands["rft"]))


def _weights(folder: Path, markers: Sequence[dict], commands: dict) -> str:
    ours = read_json(folder / "reread.json")
    theirs = "left out, by name above"
    if not any("skipped" in marker for marker in markers if marker["name"] == "transformers"):
        found = read_json(folder / "transformers.json")
        theirs = f"{found['equal']} of {found['prompts']} prompts answered with equal tokens"
    pairs = (
        ("parameters", f"{ours['parameters']:,}", "142.77B, 14.0B active a token"),
        ("bytes of the export", f"{number(ours['bytes'])}, float32", "bfloat16: 2 bytes a parameter"),
        ("read by our own reader", f"{ours['equal']} of {ours['prompts']} prompts answered with equal tokens", ""),
        ("read by transformers", theirs, ""),
    )
    return section("Weights out", "The layout is dots.llm1's on Hugging Face.", _pairs(pairs, commands["export"]))


def _costs(markers: Sequence[dict]) -> str:
    rows = []
    for marker in markers:
        cost = marker.get("cost")
        cells = ("left out", "", "") if cost is None else (
            f"{cost['seconds']:.0f}", f"{cost['core_seconds']:.0f}", f"{cost['peak_mib']:,.0f}"
        )  # fmt: skip
        rows.append(
            f"<tr><td>{text(marker['title'])}</td>" + "".join(f"<td>{text(cell)}</td>" for cell in cells) + "</tr>"
        )
    head = "<tr><th>step</th><th>seconds</th><th>core-seconds</th><th>MiB, largest process</th></tr>"
    about = "Of all starts of a step, where it was stopped. Core-seconds are processor time of the step and of what it started."
    return section("Time and memory", about, f'<div class="card scroll"><table>{head}{"".join(rows)}</table></div>')
