"""Runs the steps of the story one after the other, and goes on where it stopped.

`FOLDER/steps/NAME.json` says of a step with which inputs it began and, once it ended, what it cost. A step whose inputs are as
they were is done and stays; a step that was killed goes on with what it has; if its inputs changed, what it made is removed first.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.story.steps import Step, read_json
from dots_jax.config import UserError
from dots_jax.locks import owned
from dots_jax.storage import write_text

ROOT = Path(__file__).parents[2]
LEAST_FREE = 1 << 30  # bytes; a complete story takes about a third


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
        raise UserError(f"{folder}: {error.strerror or error}. Start the story again, and it goes on here.") from error


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
    if step.needs and importlib.util.find_spec(step.needs) is None:
        skipped = f"the optional package {step.needs} is not installed: pip install {step.needs}"
        print(f"{title}: left out, {skipped}", flush=True)
        write_text(marker, json.dumps({"name": step.name, "title": step.title, "skipped": skipped, "command": command}))
        return inputs
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE:
        raise UserError(
            f"{folder}: {free / 2**20:.0f} MiB are free on its disk, and the story needs {LEAST_FREE / 2**20:.0f}: free some and "
            "start it again; it goes on here."
        )
    if found.get("inputs") and not same:
        print(f"{title}: its inputs changed, so what it made is removed", flush=True)
        for path in made:
            _remove(path)
    about = {"name": step.name, "title": step.title, "inputs": inputs, "command": command}
    spent = found.get("cost", {}) if same else {}
    write_text(marker, json.dumps(about | {"cost": spent}))
    print(f"{title}: python -m {' '.join(command)}", flush=True)
    status, cost = _measured(command, folder / "logs" / f"{step.name}.log")
    cost = _together(spent, cost)
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


def _marker(path: Path) -> dict:
    try:
        return read_json(path)
    except (FileNotFoundError, ValueError):
        return {}


def _measured(command: Sequence[str], log: Path) -> tuple[int, dict]:
    """The exit status, and seconds, core-seconds and the largest process of the command and those it started."""
    started = time.monotonic()
    with open(log, "a") as file:
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, stdout=file, stderr=file)
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, {
        "seconds": time.monotonic() - started,
        "core_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": used.ru_maxrss / 1024,
    }


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
