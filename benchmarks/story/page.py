"""story/report.html: one page that needs nothing else. Every string that a step wrote is escaped by charts.py and layout.py."""

import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.story import model_sections
from benchmarks.story.layout import STYLE, image, left_out, link, pairs, tile
from benchmarks.story.reread import read_rows
from benchmarks.story.steps import Step, read_json
from dots_jax.config import UserError
from dots_jax.curation.charts import Bar, bars, card, html_page, number, section, text
from dots_jax.storage import write_text

PLANNER = Path(__file__).parents[1] / "results" / "planner.json"
MESH = "gin/meshes/v5p_4x4x8.gin"
REPORT = "https://arxiv.org/abs/2506.05767"


def write_page(folder: Path, steps: Sequence[Step]) -> None:
    """Raises UserError if a step's result is not there or cannot be read, or the page cannot be written."""
    try:
        markers = [read_json(folder / "steps" / f"{step.name}.json") for step in steps]
        page = story_page(folder, markers)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(f"{folder}: what a step wrote cannot be read ({error}). Start the story again.") from error
    try:
        write_text(folder / "report.html", page)
    except OSError as error:
        raise UserError(
            f"{folder}/report.html: {error.strerror or error}. Start the story again, and it goes on here."
        ) from error


def story_page(folder: Path, markers: Sequence[dict]) -> str:
    """The complete HTML. markers: of each step, in order."""
    commands = {
        marker["name"]: "python -m " + " ".join(marker["command"]) for marker in markers if "skipped" not in marker
    }
    rows = read_rows(folder / "pretrain" / "metrics.jsonl")
    sections = [
        _summary(folder, markers, rows), left_out(markers), _data(folder, commands), _loss(folder, rows, commands),
        model_sections.load(folder, commands), model_sections.samples(folder, rows, commands),
        model_sections.evaluation(folder, commands),
    ]  # fmt: skip
    sections += [model_sections.rft(folder, commands)] if "rft" in commands else []
    sections += [model_sections.weights(folder, markers, commands), _costs(markers)]
    return html_page("dots.llm1 in small", sections, style=STYLE, images=True)


def _summary(folder: Path, markers: Sequence[dict], rows: Sequence[dict]) -> str:
    steps = [row for row in rows if "loss" in row]
    costs = [marker["cost"] for marker in markers if "cost" in marker]
    tiles = (
        (f"{sum(cost['seconds'] for cost in costs) / 60:.1f} min", "on this machine"),
        (f"{sum(cost['core_seconds'] for cost in costs) / 60:.1f} min", "of processor time"),
        (f"{max(cost['peak_mib'] for cost in costs):,.0f} MiB", "of memory, the largest process"),
        (number(steps[-1]["tokens"]), "tokens of training"),
        (number(read_json(folder / "reread.json")["parameters"]), "parameters"),
    )
    about = (
        "From web pages to weights, by the commands that a full-size run uses. The left column of each table is this tiny run, "
        f"the right one is dots.llm1 with 142B parameters ({link(REPORT, 'its technical report')})."
    )
    return f'<h1>dots.llm1 in small</h1><p>{about}</p><div class="tiles">{"".join(tile(*one) for one in tiles)}</div>'


def _data(folder: Path, commands: Mapping[str, str]) -> str:
    corpus = folder / "data" / "corpus"
    report, settings = read_json(corpus / "report.json"), read_json(corpus / "state" / "run.json")["config"]
    demo = read_json(folder / "data" / "demo.json")
    funnel = []
    for step in report["funnel"]:
        kept, gone = step["kept"].get("records", 0), step["removed"].get("records", 0)
        funnel.append(Bar(step["step"], (("kept", kept), ("lost", gone)), f"−{number(gone)}"))
    books, minhash = report["books"], settings["minhash"]
    rows = (
        ("pages read", number(books["records_read"]), "not published"),
        ("documents kept", number(books["documents_written"]), "not published"),
        ("characters", number(books["characters_written"]), "not published; 11.2T tokens"),
        ("ledger", f"{demo['found']} of {demo['planted']} planted faults found by name", "not published"),
        (
            "lines kept across documents",
            f"the first {settings['lines']['keep']} occurrences",
            "the first 200 occurrences (section 4)",
        ),
        (
            "near-duplicates",
            f"{minhash['bands']} bands of {minhash['rows']} values",
            "128 bands of 16 values (section 4)",
        ),
    )
    return section(
        "What went in, and what was removed",
        "Pages that each step kept (green) and removed (red). Every removal has a row in the ledger under data/corpus/removed.",
        card("Funnel", bars(funnel)) + pairs(rows, commands["data"]),
    )


def _loss(folder: Path, rows: Sequence[dict], commands: Mapping[str, str]) -> str:
    from dots_jax.analysis.figures import loss_curve

    steps = [row for row in rows if "loss" in row]
    drawn = io.BytesIO()
    loss_curve(steps).savefig(drawn, dpi=130, format="png")
    first, last = steps[0], steps[-1]
    stages = list(dict.fromkeys(row["stage"] for row in steps))
    others = _other_seeds(folder, commands)
    runs = {"0": rows} | others
    found = (
        (
            "loss, nats per token",
            f"{first['loss']:.2f} to {last['loss']:.2f}",
            "about 2.5 to about 1.5 over 10T tokens (figure 3)",
        ),
        ("tokens", number(last["tokens"]), "11.2T, with long context on top"),
        ("stages", ", ".join(stages), "stable, two annealings, long context with untie"),
        ("peak learning rate", f"{max(row['learning_rate'] for row in steps):g}", "3e-4"),
        ("loss spikes", str(last["spike_total"]), "none irrecoverable, no rollback"),
        ("steps left out for a loss or gradient that is not finite", str(last["nonfinite_total"]), "not published"),
        ("tokens dropped", str(last["dropped_tokens"]), "0"),
        *((f"held-out loss: {task}", _over_seeds(runs, task), "not published") for task in _validation(rows)),
        (
            "cost",
            f"{sum(row.get('step_seconds') or 0 for row in steps) / 60:.1f} min of steps, without compilation",
            _cost_142b(),
        ),
    )
    about = (
        "As figure 3 of the report. Losses of different tokenizers and data do not compare with each other; shapes do."
    )
    if others:
        about += (
            f" Held-out losses are means over {len(runs)} seeds, with the least and the largest; the curve is seed 0's."
        )
    return section(
        "Pre-training", about, image(drawn.getvalue(), "loss over tokens") + pairs(found, commands["pretrain"])
    )


def _other_seeds(folder: Path, commands: Mapping[str, str]) -> dict[str, list[dict]]:
    """Seed -> the rows of its run, of `--seeds`."""
    seeds = [name.removeprefix("pretrain_") for name in commands if name.startswith("pretrain_")]
    return {seed: read_rows(folder / "seeds" / seed / "metrics.jsonl") for seed in seeds}


def _validation(rows: Sequence[dict]) -> dict[str, dict]:
    return next((row["validation"] for row in reversed(rows) if "validation" in row), {})


def _over_seeds(runs: Mapping[str, Sequence[dict]], task: str) -> str:
    each = [_validation(rows)[task]["loss"] for rows in runs.values()]
    if len(each) == 1:
        return f"{each[0]:.2f}"
    return f"{statistics.mean(each):.3f} ({min(each):.3f} to {max(each):.3f})"


def _cost_142b() -> str:
    planner = read_json(PLANNER)
    row = next(row for row in planner["rows"] if row["file"] == MESH)
    fast, centre, slow = row["calibrated"]["step_seconds"]
    hours = [row["chip_hours_1T"] * seconds / centre for seconds in (fast, centre, slow)]
    return (
        f"{planner['report_h800_hours_per_1T']:,} H800 hours per 1T tokens (report); {hours[1]:,.0f} ({hours[0]:,.0f} to "
        f"{hours[2]:,.0f}) chip-hours on {row['chips']} ({planner['kind']} of benchmarks/results/planner.json, never run)"
    )


def _costs(markers: Sequence[dict]) -> str:
    rows = []
    for marker in markers:
        cost = marker.get("cost")
        cells = ("left out", "", "", "") if cost is None else (
            f"{cost['seconds']:.0f}", f"{cost['core_seconds']:.0f}", f"{cost['peak_mib']:,.0f}", str(cost["starts"]),
        )  # fmt: skip
        rows.append(
            f"<tr><td>{text(marker['title'])}</td>" + "".join(f"<td>{text(cell)}</td>" for cell in cells) + "</tr>"
        )
    head = "<tr><th>step</th><th>seconds</th><th>core-seconds</th><th>MiB, largest process</th><th>starts</th></tr>"
    about = (
        "Sums of the starts of a step that came to an end; what a start used that was killed is not known. "
        "Core-seconds are processor time of the step and of what it started."
    )
    table = f'<div class="card scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    return section("Time and memory", about, table)
