"""Runs the steps of the story one after the other, and goes on where it stopped.

`FOLDER/steps/NAME.json` says of a step with which inputs it began and, once it ended, what it cost. A step whose inputs are as
they were is done and stays; a step that was killed goes on with what it has; if its inputs changed, what it made is removed first.
"""

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.story.step_process import measured
from benchmarks.story.steps import Step, read_json
from dots_jax.config import UserError
from dots_jax.locks import owned
from dots_jax.storage import write_text

ROOT = Path(__file__).parents[2]
LEAST_FREE = 1 << 30  # bytes; a complete story takes about a third
NO_ROOM = 16 << 20  # bytes: where a step failed with less, the disk is why


def run(steps: Sequence[Step], folder: Path) -> None:
    """Runs what is not done yet.

    Raises:
      UserError: a step ended badly, the disk is full, or another process is at work in the folder.
    """
    try:
        (folder / "steps").mkdir(parents=True, exist_ok=True)
        (folder / "logs").mkdir(exist_ok=True)
        with owned(folder, "the story"):
            before = ""
            for number, step in enumerate(steps, 1):
                before = _run_one(step, folder, before, f"[{number}/{len(steps)}] {step.title}")
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: {error.strerror or error}. Start the story again, and it goes on here."
        ) from error


def checksum(step: Step, folder: Path, before: str) -> str:
    """Of the command, the files that it reads, and the inputs of all steps before."""
    found = hashlib.sha256(json.dumps([before, step.command(folder)]).encode())
    for name in step.reads:
        found.update((ROOT / name).read_bytes())
    return found.hexdigest()


def _run_one(step: Step, folder: Path, before: str, title: str) -> str:
    inputs, marker = checksum(step, folder, before), folder / "steps" / f"{step.name}.json"
    found = _marker(marker)
    made = [folder / name for name in step.makes]
    same = found.get("inputs") == inputs
    if same and found.get("finished") and all(path.exists() for path in made):
        print(f"{title}: done before", flush=True)
        return inputs
    command = step.command(folder)
    if skipped := step.left_out or _missing(step):
        print(f"{title}: left out, {skipped}", flush=True)
        write_text(marker, json.dumps({"name": step.name, "title": step.title, "skipped": skipped, "command": command}))
        return inputs
    if full := _full(folder, LEAST_FREE):
        raise UserError(full)
    if found.get("inputs") and not same:
        print(f"{title}: its inputs changed, so what it made is removed", flush=True)
        for path in made:
            _remove(path)
    about = {"name": step.name, "title": step.title, "inputs": inputs, "command": command}
    spent = found.get("cost", {}) if same else {}
    write_text(marker, json.dumps(about | {"cost": spent}))
    print(f"{title}: python -m {' '.join(command)}", flush=True)
    status, cost = measured(command, folder / "logs" / f"{step.name}.log", ROOT)
    cost = _together(spent, cost)
    if status and (full := _full(folder, NO_ROOM)):
        raise UserError(f"The step {step.name} ended with status {status}. {full}")
    write_text(marker, json.dumps(about | {"cost": cost, "finished": status == 0}))
    if status:
        raise UserError(
            f"The step {step.name} ended with status {status}; its last words are in {folder}/logs/{step.name}.log. Start the "
            "story again, and it goes on here."
        )
    print(
        f"    {cost['seconds']:.0f} s, {cost['core_seconds']:.0f} core-seconds, {cost['peak_mib']:.0f} MiB", flush=True
    )
    return inputs


def _missing(step: Step) -> str:
    """Of the optional packages of a step; empty if they are there."""
    names = [name for name in step.needs if importlib.util.find_spec(name) is None]
    if not names:
        return ""
    what = f"the optional package {names[0]} is" if len(names) == 1 else f"the optional packages {', '.join(names)} are"
    return f"{what} not installed: pip install {' '.join(names)}"


def _full(folder: Path, least: int) -> str:
    free = shutil.disk_usage(folder).free
    if free >= least:
        return ""
    return (
        f"{folder}: {free / 2**20:.0f} MiB are free on its disk, and the story needs {LEAST_FREE / 2**20:.0f}: free some and "
        "start it again; it goes on here."
    )


def _marker(path: Path) -> dict:
    try:
        return read_json(path)
    except (FileNotFoundError, ValueError):
        return {}


def _together(before: dict, now: dict) -> dict:
    """Of the starts of one step."""
    if not before:
        return now | {"starts": 1}
    sums = {name: before[name] + now[name] for name in ("seconds", "core_seconds")}
    return sums | {"peak_mib": max(before["peak_mib"], now["peak_mib"]), "starts": before["starts"] + 1}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
