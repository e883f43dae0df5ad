"""What a crawl leaves to the next one, so that no earlier text is read again: rows of the global steps, and ids.

    <output>/state/run.json                        the settings, the number of the crawl, checksums of all files
                   lines/00003.npy                 partition 3: one row a line, with its number of occurrences
                   identity/00003.npy              one row a text;  minhash/00003.npy: one row a band
                   ids/0000-00003-ids.keys.npy ... from keys to ids of crawl 0, partition 3

Rows are sorted, and a later crawl sorts its own behind them, since older crawls come first. So decisions of a crawl are the
same with the crawls before in one run, and those of earlier crawls never change.
"""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np

from dots_jax.config import CurateConfig, UserError
from dots_jax.storage import atomic_write

KEPT = ("seed", "partitions", "lines", "minhash")  # settings that the rows depend on


def folder_of(output: str) -> Path:
    return Path(output) / "state"


def crawl_number(previous: str) -> int:
    """Of the crawl that follows `previous`, the output of another run; 0 without one."""
    return read_about(previous)["crawl_number"] + 1 if previous else 0


def read_about(previous: str, flag: str = "--previous") -> dict:
    """Raises UserError for a folder that holds no complete run."""
    path = folder_of(previous) / "run.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{flag}={previous}: {path} is missing; name the output folder of a complete run.") from None


def check(previous: str, config: CurateConfig, steps: list[str]) -> None:
    """Raises UserError if the rows of `previous` cannot be compared with those of this run."""
    import dataclasses

    about = read_about(previous)
    was, now = about["config"], json.loads(json.dumps(dataclasses.asdict(config)))
    for name in KEPT:
        if was[name] != now[name]:
            raise UserError(
                f"--previous={previous} was made with CurateConfig.{name} = {was[name]}, but this run has {now[name]}: "
                "its state cannot be continued; give the same setting."
            )
    missing = [step for step in steps if step not in about["state"]]
    if missing:
        raise UserError(
            f"--previous={previous} holds no state of {', '.join(missing)}: leave out that step, or run it there."
        )


def write_part(output: str, step: str, part: int, rows: np.ndarray) -> tuple[int, int]:
    """Returns (rows, crc32)."""
    path = folder_of(output) / step / f"{part:05d}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "wb") as file:
        np.save(file, rows)
    return len(rows), zlib.crc32(rows.tobytes())


def read_part(previous: str, step: str, part: int) -> np.ndarray:
    """Raises UserError for a file that is missing or damaged."""
    path = folder_of(previous) / step / f"{part:05d}.npy"
    number, crc = read_about(previous)["state"][step][part]
    try:
        rows = np.load(path)
    except (OSError, ValueError, EOFError):
        rows = np.empty(0)
    if len(rows) != number or zlib.crc32(rows.tobytes()) != crc:
        raise UserError(f"{path} is damaged or missing: restore it, or curate without --previous.")
    return rows


def copy_ids(work_stem: Path, output: str, part: int, number: int, previous: str) -> None:
    """Keeps the ids of a partition of this crawl, and those of all before."""
    target = folder_of(output) / "ids"
    target.mkdir(parents=True, exist_ok=True)
    for path in work_stem.parent.glob(f"{work_stem.name}-ids.*.npy"):
        _copy(path, target / f"{number:04d}-{path.name}")
    if previous:
        for path in (folder_of(previous) / "ids").glob(f"*-{part:05d}-ids.*.npy"):
            _copy(path, target / path.name)


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target, "wb") as out, open(source, "rb") as file:
        shutil.copyfileobj(file, out, 1 << 20)


def id_stems(previous: str, partitions: int) -> list[list[Path]]:
    """The stems of all earlier crawls, for IdTable: the newest first."""
    numbers = range(crawl_number(previous) - 1, -1, -1) if previous else ()
    found = folder_of(previous) / "ids"
    return [[found / f"{number:04d}-{part:05d}" for part in range(partitions)] for number in numbers]
