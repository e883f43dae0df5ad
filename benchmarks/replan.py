"""Plans the topologies of benchmarks/results/planner.json again, one after the other, and fills in their rows.

    python -m benchmarks.replan [--only=NAME,NAME] [--list] [--again] [--work=FOLDER]

A row is planned where it was not since the TPU kernels changed; stopped, the next start goes on with the next row. --only: names
of gin/meshes, or of the run file of a row with run files of its own (`gin`), in this order. --again: rows that are up to date as
well. --list: says which rows are old, and stops. A plan compiles the complete step of the 142B model: some minutes on two free
cores, one at a time. Its .json and .hlo stay in --work (/tmp/dots_jax_plans); where they are there already for the same kernels,
they are read again and nothing is compiled, so that a change of the estimate alone takes a minute. A row's commit is that at
which its module was compiled.
At the end: python docs/tables.py
"""

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path

from dots_jax.planning.bundles import SOURCES, source_hash
from dots_jax.storage import write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "planner.json"
ALL_TOKENS = 11.3e12


def kernels_hash() -> str:
    """Of all TPU kernels: a row with another one is old."""
    return "-".join(source_hash(source)[:6] for source in SOURCES)


def is_old(row: dict) -> bool:
    return row.get("planned", {}).get("kernels") != kernels_hash()


def name_of(row: dict) -> str:
    return Path(row["file"]).stem + (f"_{row['stage']}" if "stage" in row else "")


def plan(row: dict, work: Path) -> dict:
    """Compiles, or reads what an earlier call has compiled; returns the forecast as JSON.

    Raises:
      SystemExit: the planner ended without a forecast.
    """
    target = work / kernels_hash() / name_of(row)
    target.parent.mkdir(parents=True, exist_ok=True)
    found, module, compiled_at = (target.with_suffix(suffix) for suffix in (".json", ".hlo", ".commit"))
    if not (found.is_file() and module.is_file()):
        compiled_at.write_text(commit())
    files = row.get("gin", ["gin/dots142b.gin", row["file"]])
    flags = [*(f"--gin_file={file}" for file in files), f"--topology={row['topology']}"]
    flags += [f"--slices={row['slices']}"] if "slices" in row else []
    flags += [f"--stage={row['stage']}"] if "stage" in row else []
    flags += [f"--json={found}"]
    flags += [f"--read={module}"] if found.is_file() and module.is_file() else [f"--hlo={module}"]
    done = subprocess.run(
        [sys.executable, "-m", "dots_jax.plan", *flags], cwd=ROOT, check=False, stdout=subprocess.PIPE
    )
    target.with_suffix(".txt").write_bytes(done.stdout)
    if done.returncode not in (0, 1) or not found.is_file():
        raise SystemExit(f"{name_of(row)}: the planner ended with status {done.returncode}.")
    forecast = json.loads(found.read_text())
    if "calibrated" not in forecast:
        raise SystemExit(
            f"{name_of(row)}: the compiler refuses it, {forecast['hbm_gib_per_chip']:.1f} GiB a chip. The row stays."
        )
    return forecast | {"commit": compiled_at.read_text() if compiled_at.is_file() else "unknown"}


def fill(row: dict, found: dict) -> None:
    """The figures of a forecast, into a row."""
    memory, calibrated = found["memory_gib"], found["calibrated"]
    seconds, share, exposed = found["step_seconds"], found["mfu"], found["exposed_seconds"]["compiler"]
    of_142b = row["seq_len"] == 8192 and "gin" not in row
    hours, names = found["chip_hours_per_trillion_tokens"], ("fast", "centre", "slow")
    row |= {
        "hbm_gib": round(memory["total"], 1), "fullest_gib": round(memory["peak"], 2), "fits": found["fits"],
        "calibrated": {
            "step_seconds": [_seconds(calibrated["step_seconds"][name]) for name in names],
            "mfu": [round(100 * calibrated["mfu"][name], 1) for name in names[::-1]],
            "hfu": round(100 * calibrated["hfu"], 1),
        },
        "step_seconds": [_seconds(seconds["floor"]), _seconds(seconds["compiler"])],
        "mfu": [round(100 * share["compiler"], 1), round(100 * share["floor"], 1)],
        "mfu_all_overlapped": round(100 * share["overlapped"], 1), "exposed_seconds": round(exposed, 1),
        "chip_hours_1T": round(hours), "days_1T": round(hours / row["num_chips"] / 24, 1),
        "days_all": round(ALL_TOKENS / 1e12 * hours / row["num_chips"] / 24) if of_142b else None,
        "planned": {"date": datetime.date.today().isoformat(), "commit": found["commit"], "kernels": kernels_hash()},
    }  # fmt: skip
    row.pop("note", None)


def _seconds(value: float) -> float:
    return round(value, 1 if value >= 10 else 2)


def commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def write_rows(results: dict) -> None:
    """planner.json with a row a line."""
    rows = ",\n".join("    " + json.dumps(row) for row in results["rows"])
    text = json.dumps(results | {"rows": []}, indent=2).replace('"rows": []', '"rows": [\n' + rows + "\n  ]")
    write_text(RESULTS, text + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("/tmp/dots_jax_plans"))
    arguments = parser.parse_args()
    rows = {name_of(row): row for row in json.loads(RESULTS.read_text())["rows"] if "refused" not in row}
    names = [name for name in arguments.only.split(",") if name] or list(rows)
    if set(names) - set(rows):
        parser.error(f"--only: there are {', '.join(rows)}, but no {', '.join(set(names) - set(rows))}")
    todo = [name for name in names if arguments.again or is_old(rows[name])]
    for name in names:
        print(f"{name:<28}{'old' if is_old(rows[name]) else 'up to date'}")
    for number, name in enumerate([] if arguments.list else todo, 1):
        print(f"{number} of {len(todo)}: {name}, since {datetime.datetime.now():%H:%M}", file=sys.stderr, flush=True)
        found = plan(rows[name], arguments.work)
        results = json.loads(RESULTS.read_text())  # as it is by now: minutes have passed
        fill(next(row for row in results["rows"] if "refused" not in row and name_of(row) == name), found)
        write_rows(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
