"""All stages of a run in order, on whatever runs their units: this process, or Beam (job.py)."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tqdm

from dots_jax.config import UserError
from dots_jax.curation.inputs import Piece
from dots_jax.curation.plan import Run, Stage, identity_of, read_pieces, write_pieces
from dots_jax.curation.report import make_report
from dots_jax.curation.report_page import report_page
from dots_jax.curation.survey import survey
from dots_jax.curation.unit import run_unit
from dots_jax.storage import write_text

LABELS = {"records": "curating", "score": "scoring", "decide": "comparing", "write": "writing"}
LABELS |= {"embed": "embedding", "cluster": "clustering", "assign": "assigning", "compare": "comparing"}
ForEach = Callable[[Run, Stage, Sequence[int]], None]  # does these units of a stage, in any order


def run_all(run: Run, pieces: list[Piece], for_each: ForEach) -> dict:
    """Does what is missing and returns the report. Raises UserError for an output folder that holds another run."""
    identity = identity_of(run, pieces)
    path = Path(run.output) / "state" / "run.json"
    if path.exists():
        _check(json.loads(path.read_text()), identity, run.output)
        return json.loads((Path(run.output) / "report.json").read_text())
    plan = run.work / "plan.json"
    if plan.exists():
        _check(json.loads(plan.read_text())["identity"], identity, run.output)
    else:
        run.work.mkdir(parents=True, exist_ok=True)
        write_pieces(run.work, pieces, identity)
    for stage in run.stages():
        units = run.unfinished(stage)
        if units:
            for_each(run, stage, units)
    report = make_report(run)
    write_text(Path(run.output) / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    page = report_page(report, survey(run.output, run.config.seed), run.config)
    write_text(Path(run.output) / "report.html", page)
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps(identity | {"state": _state(run)}) + "\n")
    shutil.rmtree(run.work)
    return report


def _state(run: Run) -> dict[str, list]:
    """(rows, checksum) of every partition of every global step."""
    found = {}
    for stage in run.stages():
        if stage.kind == "decide":
            name = run.phases()[stage.phase].closing.name
            found[name] = [run.done(stage.name, unit)["state"] for unit in range(stage.units)]
    return found


def is_complete(output: str) -> bool:
    return (Path(output) / "state" / "run.json").exists()


def _check(was: dict, now: dict, output: str) -> None:
    changed = [name for name in now if was.get(name) != now[name]]
    if changed == ["config"]:
        sections = [name for name in now["config"] if was["config"].get(name) != now["config"][name]]
        changed = [f"CurateConfig.{name}" for name in sections]
    if changed:
        raise UserError(
            f"{output} holds a run with other {', '.join(changed)}: give another --output, or remove that folder."
        )


def in_this_process(run: Run, stage: Stage, units: Sequence[int]) -> None:
    """The units one after the other, without Beam, with a bar of input bytes, or of units where there are none."""
    by_bytes = stage.kind == "records" and stage.phase == 0
    sizes = [piece.size for piece in read_pieces(run.work)] if by_bytes else [1] * stage.units
    pause = 0.1 if sys.stderr.isatty() else 30  # seconds between lines of a log
    behind = sum(sizes) - sum(sizes[unit] for unit in units)
    records = 0

    def tick(number: int, position: int) -> None:
        nonlocal records
        records += number
        bar.set_postfix_str(f"{records:,} records", refresh=False)
        bar.update(max(behind + (position if by_bytes else 0) - bar.n, 0))

    how = {"unit": "B", "unit_scale": True} if by_bytes else {"unit": " units"}
    with tqdm.tqdm(desc=LABELS[stage.kind], total=sum(sizes), initial=behind, mininterval=pause, **how) as bar:
        for unit in units:
            run_unit(run, stage, unit, tick)
            behind += sizes[unit]
            tick(0, 0)
