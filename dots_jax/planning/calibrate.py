"""Measurements from a TPU that correct the calibrated estimate: `dots plan pod --calibrate=FILE`.

Three kinds of files, told by their content: the metrics.jsonl of a run; the kernels.json of `python -m benchmarks.kernels`; and the
calibration.json that a plan with a metrics.jsonl has written next to it, for later plans of the same chip.
"""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import statistics
from collections.abc import Iterator

from dots_jax.config import UserError
from dots_jax.hlo.calibration import HERE, SHARES, Shares
from dots_jax.hlo.kernel_table import (
    KernelTable,
    Row,
    attention_seconds,
    grouped_seconds,
    kernel_table,
    norm_seconds,
    outer_seconds,
)
from dots_jax.parallel.topology import Chip
from dots_jax.storage import open_file, write_text

WARM_UP, LEAST = 10, 10  # steps of a run that are left out, and that must remain


@dataclasses.dataclass(frozen=True)
class MeasuredRun:
    """Of a metrics.jsonl. seconds: the median of the steps. tokens: of a step."""

    path: str
    seconds: float
    steps: int
    tokens: float


@dataclasses.dataclass(frozen=True)
class Measurements:
    """What the files of --calibrate say. run: of a metrics.jsonl, to be compared with the plan once it is compiled."""

    shares: Shares
    kernels: KernelTable
    run: MeasuredRun | None = None


def read_measurements(paths: tuple[str, ...], chip: Chip) -> Measurements:
    """Reads the files of --calibrate.

    Raises:
      UserError: a file cannot be read, is of another chip, lacks what it should have, or has too few steps.
    """
    shares, run, tables = SHARES[chip.name], None, []
    for path in paths:
        with _one_sentence(path):
            text = _text(path)
            try:
                found = json.loads(text)
            except json.JSONDecodeError:
                found = None
            if not isinstance(found, dict) or "step_seconds" in found:
                run = read_run(path, text)
            elif "ratio" in found:
                _check_chip(path, found, chip)
                note = f"{found['steps']} steps of {found['date']} ({path})"
                shares = dataclasses.replace(shares, ratio=float(found["ratio"]), ratio_note=note)
            elif "kernels" in found:
                _check_chip(path, found, chip)
                shares = _with_rates(shares, found, chip)
                tables.append((path, found))
            else:
                raise UserError(
                    f"--calibrate={path}: it is neither metrics.jsonl of a run, nor kernels.json, nor calibration.json."
                )
    kernels = kernel_table(chip, shares.hbm)
    for path, found in tables:
        with _one_sentence(path):
            kernels = with_measured(kernels, found["kernels"], f"{path}, {found.get('date', 'undated')}")
    return Measurements(shares, kernels, run)


@contextlib.contextmanager
def _one_sentence(path: str) -> Iterator[None]:
    """For a file of which a field is missing or of another type."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--calibrate={path}: a field is missing or no number ({type(error).__name__}: {error})."
        ) from error


def _text(path: str) -> str:
    with open_file(path) as file:
        try:
            return file.read().decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"--calibrate={path}: it is not a text file.") from None


def _check_chip(path: str, found: dict, chip: Chip) -> None:
    if found.get("chip") != chip.name:
        raise UserError(f"--calibrate={path}: measured on {found.get('chip')}, and this plan is for {chip.name}.")


def read_run(path: str, text: str) -> MeasuredRun:
    """The median step of a metrics.jsonl, without its first steps, which compile and fill queues."""
    steps = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            raise UserError(f"--calibrate={path}: line {number} is not JSON.") from None
        if "step_seconds" in row:
            steps.append((float(row["step_seconds"]), float(row.get("tokens_per_second", 0.0))))
    kept = steps[WARM_UP:]
    if len(kept) < LEAST:
        raise UserError(
            f"--calibrate={path}: it has {len(steps)} steps with step_seconds, and {WARM_UP + LEAST} are needed: the first "
            f"{WARM_UP} are left out."
        )
    tokens = statistics.median(seconds * rate for seconds, rate in kept)
    return MeasuredRun(path, statistics.median(seconds for seconds, _ in kept), len(kept), tokens)


def compare(run: MeasuredRun, forecast) -> tuple[Shares, list[str]]:
    """The shares with which the plan meets the run, and lines that hold each estimate against it. Writes calibration.json next to
    the metrics.

    Raises:
      UserError: the run's steps have another number of tokens than the plan's.
    """
    if run.tokens and abs(run.tokens / forecast.step_tokens - 1) > 0.01:
        raise UserError(
            f"--calibrate={run.path}: its steps have {run.tokens:,.0f} tokens, and the plan's {forecast.step_tokens:,}: plan "
            "the run's own gin file and --stage."
        )
    shares, chip, today = forecast.timeline.shares, forecast.job.chip, datetime.date.today().isoformat()
    uncorrected = forecast.step_seconds["calibrated"] / shares.ratio
    ratio = run.seconds / uncorrected
    found = {
        "chip": chip.name, "topology": forecast.job.topology, "ratio": ratio, "steps": run.steps, "date": today,
        "measured_seconds": run.seconds, "predicted_seconds": uncorrected, "metrics": run.path,
        "jax": importlib.metadata.version("jax"), "libtpu": _version("libtpu"), "module": forecast.module_hash,
    }  # fmt: skip
    target = str(run.path).rpartition("/")[0] + "/calibration.json" if "/" in str(run.path) else "calibration.json"
    write_text(target, json.dumps(found, indent=1) + "\n")
    lines = [f"measured    {run.seconds:.3f} s, the median of {run.steps} steps of {run.path}"]
    for name, seconds in (forecast.step_seconds | {"calibrated": uncorrected}).items():
        lines.append(f"            {name:<11}{seconds:8.3f} s, predicted / measured {seconds / run.seconds:.3f}")
    lines.append(f"            written to {target}: give it to later plans with --calibrate={target}")
    return dataclasses.replace(shares, ratio=ratio, ratio_note=f"{run.steps} steps of {today} ({run.path})"), lines


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


# --- kernels.json -----------------------------------------------------------------------------------------------------


def _with_rates(shares: Shares, found: dict, chip: Chip) -> Shares:
    """Bandwidth and dense rate of a device, where the file has them."""
    if found.get("hbm_bytes_per_second"):
        share = found["hbm_bytes_per_second"] * chip.devices / chip.hbm
        shares = dataclasses.replace(shares, hbm=min(1.0, share), hbm_kind=HERE)
    if found.get("dense_flops_per_second"):
        share = found["dense_flops_per_second"] * chip.devices / chip.flops
        shares = dataclasses.replace(shares, dense=1.0, peak=min(1.0, share), dense_kind=HERE)
    return shares


def with_measured(table: KernelTable, measured: list[dict], source: str) -> KernelTable:
    """The table with rows so scaled that each measured call takes what it took; other rows stay."""
    rows = []
    for row in table.rows:
        calls = [m for m in measured if _same(row, m)]
        ratios = [m["seconds"] / call_seconds(row, table, m) for m in calls]
        scale = statistics.median(ratios) if ratios else 1.0
        rows.append(dataclasses.replace(row, scale=row.scale * scale, kind="measured" if ratios else row.kind))
    count = sum(row.kind == "measured" for row in rows)
    made_with = f"{count} of {len(rows)} rows measured: {source}; the rest {table.made_with}"
    return dataclasses.replace(table, rows=tuple(rows), made_with=made_with)


def _same(row: Row, call: dict) -> bool:
    shape = (row.contracted, row.columns, row.transposed, list(row.tiles))
    wanted = (call.get("contracted", 0), call.get("columns", 0), call.get("transposed", False), call["tiles"])
    return row.kernel == call["kernel"] and shape == wanted


def call_seconds(row: Row, table: KernelTable, call: dict) -> float:
    """What the table says of a measured call."""
    if row.kernel.startswith("attention"):
        B, T, M = call["shape"]
        return attention_seconds(row, table, (B, T, M), T, M // 128)
    if row.kernel.endswith("norm_rope"):
        return norm_seconds(row, table, tuple(call["shape"]), call["bytes"])
    grouped = outer_seconds if row.kernel == "tgmm" else grouped_seconds
    return grouped(row, table, call["rows"], call["experts"])
