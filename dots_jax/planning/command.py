"""`python -m dots_jax.plan --topology=...`: compiles, reads, prints, writes files."""

import dataclasses
import json
import sys
import time
from pathlib import Path

from dots_jax.cli.options import PodOptions
from dots_jax.config import TrainConfig, UserError
from dots_jax.curriculum.picture import check_suffix
from dots_jax.planning.child_process import run_in_child
from dots_jax.planning.pod import chip_of, prepare_runtime
from dots_jax.storage import open_file, write_text


def plan_pod(config: TrainConfig, options: PodOptions) -> int:
    """The exit status: 0 it fits, 1 it does not.

    Raises:
      UserError: what is asked for does not exist or cannot be written, or the TPU compiler ended without a result.
    """
    for name in ("json", "hlo", "picture"):
        check_writable(name, getattr(options, name))
        if options.search and name != "json" and getattr(options, name):
            raise UserError(
                f"--search writes no --{name}: it compiles many modules. Plan the best of them alone for that."
            )
    if options.search and options.read:
        raise UserError("--search compiles many modules, and --read reads one again: give one of them.")
    if options.picture:
        check_suffix(options.picture)
    prepare_runtime()
    return _plan(config, options) if options.debug else run_in_child(_plan, config, options)


def _plan(config: TrainConfig, options) -> int:
    from dots_jax.planning.calibrate import compare, read_measurements
    from dots_jax.planning.compile import compile_step, compiled_before, make_job
    from dots_jax.planning.forecast import Forecast
    from dots_jax.planning.forecast_text import forecast_text

    measurements = read_measurements(options.calibrate, chip_of(options.topology))
    job = make_job(config, options.topology, options.slices, options.stage)
    if options.search:
        from dots_jax.planning.search import search

        if measurements.run:
            raise UserError(
                f"--search compares no run: plan {measurements.run.path} alone, and give --search its calibration.json."
            )
        return search(job, options, measurements)
    if options.read:
        compiled = compiled_before(job, *_earlier(options, job))
    else:
        print(f"compiling for {options.topology}; the full model takes some minutes on two cores ...", file=sys.stderr)
        start = time.monotonic()
        compiled = compile_step(job)
        print(f"compiled in {time.monotonic() - start:.0f} s", file=sys.stderr)
    forecast = Forecast(compiled, measurements.shares, measurements.kernels)
    held_against = []
    if measurements.run and not forecast.refused:
        shares, held_against = compare(measurements.run, forecast)
        forecast = Forecast(compiled, shares, measurements.kernels)
    if options.hlo and compiled.text:
        write_text(options.hlo, compiled.text)
    if options.json:
        write_text(options.json, json.dumps(forecast.as_json(), indent=1) + "\n")
    if options.picture:
        from dots_jax.planning.forecast_picture import draw

        draw(forecast, options.picture)
    print("\n".join([forecast_text(forecast, options.top or 0), *held_against]))
    return 0 if forecast.memory.fits else 1


def _earlier(options, job) -> tuple[str, dict]:
    """The module of --read, and the figures of the compiler in the --json of the same plan.

    Raises:
      UserError: --json is missing or another plan's, or a file cannot be read.
    """
    try:
        found = json.loads(Path(options.json or "").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not {"compiler_bytes", "state_bytes"} <= found.keys():
        raise UserError(
            "--read needs --json=FILE as well: the file that the same plan wrote, with the compiler's memory."
        )
    wanted = {
        "topology": job.topology, "slices": job.slices, "mesh": dataclasses.asdict(job.config.mesh),
        "stage": job.stage.name, "seq_len": job.stage.seq_len, "step_tokens": job.batch_size * job.stage.seq_len,
        "microbatches": job.microbatches,
    }  # fmt: skip
    for name, value in wanted.items():
        if found.get(name) != value:
            raise UserError(f"--read: {options.json} has {name} {found.get(name)}, and this plan has {value}.")
    with open_file(options.read) as file:
        return file.read().decode("utf-8"), found


def check_writable(flag: str, path: str | None) -> None:
    """Before minutes of compiling, not after."""
    if path and Path(path).is_dir():
        raise UserError(f"--{flag}={path} cannot be written: it is a folder.")
    if path and not Path(path).absolute().parent.is_dir():
        raise UserError(f"--{flag}={path} cannot be written: there is no folder {Path(path).parent}.")
