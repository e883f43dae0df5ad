"""Figures that stand in several files, written from benchmarks/results/*.json.

    python docs/tables.py           # rewrites every copy; a new measurement is an edit of one JSON file and this command
    python docs/tables.py --check   # names the files whose copy differs, and exits with status 1

Markdown holds `<!-- table: NAME -->` and `<!-- /table -->`; a gin header holds `# --- figures: ...` and `# ---`. What stands
between them is generated. Standard library only.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # also where a test or MkDocs loads this file by its path
import story_tables  # noqa: E402
from folder_tree import ROOMS as ROOMS  # noqa: E402
from folder_tree import folder_tree  # noqa: E402

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
GIN_BEGIN = "# --- figures: benchmarks/results/planner.json, written by docs/tables.py"
GIN_END = "# ---"
K8 = 8192
OLD = "an old estimate with kernels at their peak rate, to be planned again"


def results(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(columns: list[str], rows: list[list]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    assert all(len(line) == len(columns) for line in lines), columns
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def number(value, text: str = "{:,}", missing: str = "-") -> str:
    return missing if value is None else text.format(value)


# --- the planner ------------------------------------------------------------------------------------------------------


def planner_rows(**wanted) -> list[dict]:
    """Rows of planner.json that hold these values; rows of a configuration that does not fit are left out, and so are rows with
    run files of their own (`gin`), which docs/story_costs.md has."""
    rows = [row for row in results("planner")["rows"] if "refused" not in row and "gin" not in row]
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def mesh_name(row: dict) -> str:
    return f"`{Path(row['file']).stem}`"


def mfu(row: dict) -> str:
    """Of the calibrated estimate; of a row that was not planned again since, the old one by its name."""
    if "calibrated" not in row:
        return "old: {:.1f} - {:.1f} %, kernels at their peak".format(*row["mfu"])
    low, centre, high = row["calibrated"]["mfu"]
    return f"**{centre:.0f} %** ({low:.0f} to {high:.0f})"


def planned(row: dict) -> str:
    if "planned" not in row:
        return "before, to be planned again"
    kernels = row["planned"]["kernels"]  # a hash, or in words where they are not those of the table
    return "{date}, {commit}".format(**row["planned"]) + (f", {kernels}" if " " in kernels else "")


def planner_summary() -> str:
    rows = [
        [mesh_name(row), row["chips"], mfu(row), number(row["days_1T"]) if "calibrated" in row else "-"]
        for row in planner_rows(seq_len=K8)
        if not row.get("note")
    ]
    return table(["`gin/meshes/`", "chips", "MFU at 8K, calibrated estimate (range)", "days for 1T tokens"], rows)


def planner_costs() -> str:
    rows = [
        [
            mesh_name(row) + (f" ({row['note']})" if row.get("note") else ""),
            row["chips"],
            f"{row['hbm_gib']:.1f} of {row['hbm_of_gib']}",
            number(row.get("host_gib")),
            mfu(row),
            *[number(row[name]) if "calibrated" in row else "-" for name in ("chip_hours_1T", "days_1T", "days_all")],
            planned(row),
        ]
        for row in planner_rows(seq_len=K8)
    ]
    columns = ["`gin/meshes/`", "chips", "HBM, GiB a chip", "host memory, GiB a chip", "MFU at 8K (range)"]
    columns += ["chip-hours for 1T tokens", "days for 1T", "days for all 11.3T, at that rate", "planned"]
    return table(columns, rows)


def planner_steps() -> str:
    rows = []
    for row in planner_rows():
        seconds = " - ".join(f"{s:.1f}" for s in row["step_seconds"] if s)
        overlapped = number(row["mfu_all_overlapped"], "{:.1f}")
        memory = f"{row['hbm_gib']:.1f}"
        memory += number(row["fullest_gib"], " ({:.1f})", "") + number(row["limit_gib"], ", limit {}", "")
        slices = f"{row['slices']} x " if "slices" in row else ""
        length = f"{row['seq_len'] // 1024}K"
        mfus = "{:.1f} / {:.1f} / {} %".format(*row["mfu"], overlapped)
        exposed = number(row["exposed_seconds"])
        calibrated, hfu = "-", "-"
        if "calibrated" in row:
            fast, centre, slow = row["calibrated"]["step_seconds"]
            calibrated, hfu = f"{centre} ({fast} to {slow})", f"{row['calibrated']['hfu']} %"
        where = [f"{slices}{row['topology']}, {length}", mesh_name(row), row["setup"]]
        rows.append([*where, calibrated, mfu(row), hfu, seconds, mfus, exposed, memory, planned(row)])
    columns = [
        "topology, length",
        "file",
        "what",
        "seconds a step, calibrated",
        "MFU, calibrated",
        "HFU",
        "seconds, kernels at their peak",
        "MFU so: cycles / floors / all overlapped",
        "exposed seconds",
        "GiB a chip (fullest moment)",
        "planned",
    ]
    return table(columns, rows)


def planner_refused() -> str:
    rows = [row for row in results("planner")["rows"] if "refused" in row]
    return "\n".join(f"* {mesh_name(row)} ({row['chips']}): {row['refused']}." for row in rows)


def serving_bounds() -> str:
    s = results("planner")["serving"]
    v5p = s["v5p"]
    rows = [
        ["v5e-8, one host", s["v5e_8_gib"], "no", "-", "-"],
        ["v6e-8, one host", s["v6e_8_gib"], "no", "-", "-"],
        [
            f"v5p, {v5p['chips']} chips",
            380,
            f"yes, with {v5p['rows_of_8k']} rows of 8K",
            v5p["tokens_per_second_one_row"],
            "-",
        ],
        [
            "v5p, 8 chips",
            760,
            "yes",
            v5p["tokens_per_second_eight_chips"],
            v5p["tokens_per_second_eight_chips_16_rows"],
        ],
    ]
    columns = ["chips", "HBM, GiB", f"holds the {s['weights_gib']} GiB of bfloat16 weights", "tokens/s at most, 1 row"]
    return table([*columns, "tokens/s at most, 16 rows"], rows)


def story_prices(model: str) -> str:
    return table(*story_tables.prices(results("story_prices")["rows"], model))


def story_plans() -> str:
    """The rows of planner.json with run files of their own, and that of the 142B's pre-training."""
    rows = [row for row in results("planner")["rows"] if "gin" in row or row["file"] == "gin/meshes/v5p_4x4x8.gin"]
    return table(*story_tables.plans(rows, mfu, planned))


def gin_figures(file: str) -> list[str]:
    """The comment lines of a mesh's header, or of gin/dots142b.gin, which includes gin/meshes/v5p_8x8x8.gin."""
    planner = results("planner")
    source = "gin/meshes/v5p_8x8x8.gin" if file == "gin/dots142b.gin" else file
    lines = []
    for row in planner["rows"]:
        if row["file"] != source:
            continue
        length = f"{row['seq_len'] // 1024}K"
        if "refused" in row:
            lines.append(f"# {length}: {row['refused']}.")
            continue
        memory = f"# {length}: {row['hbm_gib']:.1f} of {row['hbm_of_gib']} GiB a chip"
        if "calibrated" not in row:
            lines += [f"{memory}. Time: {OLD} (MFU {row['mfu'][0]:.1f} to {row['mfu'][1]:.1f} % so)."]
            continue
        (fast, centre, slow), (low, middle, high) = (row["calibrated"][name] for name in ("step_seconds", "mfu"))
        lines.append(
            f"{memory}; {centre} s a step ({fast} to {slow}); MFU {middle:.0f} % ({low:.0f} to {high:.0f}); "
            f"planned {planned(row)}."
        )
        if row["chip_hours_1T"]:
            lines.append(
                f"# 1T tokens: {row['chip_hours_1T']:,} chip-hours, {row['days_1T']} days of these {row['num_chips']} chips"
                + (f"; all 11.3T: {row['days_all']} days." if row["days_all"] else ".")
            )
    return [GIN_BEGIN, f"# {planner['statement']}", *lines, GIN_END]


# --- measured on a CPU ------------------------------------------------------------------------------------------------


def cpu_train_step() -> str:
    cells = [
        [
            r["name"],
            f"{r['tokens_per_second']:,}",
            f"{r['ratio']:.2f}",
            f"{r['step_seconds']:.2f}",
            f"{r['peak_gb']} GB",
        ]
        for r in results("cpu")["train_step"]["rows"]
    ]
    return table(["", "tokens/s", "ratio", "s/step", "peak memory"], cells)


def cpu_generate() -> str:
    def cell(row, name):
        speedup = row.get(f"{name.replace('_16x256', '')}_speedup")
        return f"{row[name]:,}" + (f" ({speedup:.3g}x)" if speedup else "")

    names = ("prefill_16x256", "decode_1", "decode_16")
    rows = [
        [row["name"], *(cell(row, name) for name in names), f"{row['peak_gb']:.2f} GB"]
        for row in results("cpu")["generate"]["rows"]
    ]
    return table(["tokens/s", "prefill, 16 x 256", "decode, batch 1", "decode, batch 16", "peak memory"], rows)


def cpu_convert() -> str:
    rows = [
        [r["name"], f"{r['gb']:.2f} GB", r["mb_per_second"], f"{r['peak_gb']:.2f} GB", f"{r['ratio_to_cp']:.2f}"]
        for r in results("cpu")["convert"]["rows"]
    ]
    return table(["", "bytes", "MB/s", "peak memory", "speed relative to `cp`"], rows)


def rft_arms() -> str:
    names = {
        "sft": "after SFT",
        "rft": "**RFT**",
        "sft_more": "the same steps on SFT's data",
        "unverified": "without a verifier",
    }
    found = results("rft")
    seeds = [f"seed {seed}" for seed in found["seeds"]]
    return table(
        ["", "mean", *seeds],
        [
            [text, f"{found['mean'][arm]:.3f}", *(f"{one[arm]:.3f}" for one in found["seeds"].values())]
            for arm, text in names.items()
        ],
    )


def demo_results() -> str:
    rows = [
        [f"Python {version}", f"**{r['nats_per_byte']:.2f}**", f"{r['unigram']:.2f}", f"{r['uniform']:.3f}"]
        for version, r in results("demo")["python"].items()
    ]
    columns = ["nats per byte, held-out files of the Python library", "`make demo`", "byte frequencies", "uniform"]
    return table(columns, rows)


def calibration_runs() -> str:
    """Published runs against the method; benchmarks/results/calibration.json."""
    rows = [
        [
            run["run"],
            f"{run['measured_seconds']} s",
            "{} to {} s".format(*run["peak_seconds"]),
            *[f"{s} s" for s in run["ends_seconds"]],
            f"{run['calibrated_seconds']} s",
            f"{run['calibrated_seconds'] / run['measured_seconds'] - 1:+.0%}",
        ]
        for run in results("calibration")["compiled"]
    ]
    columns = [
        "published run, compiled and read",
        "measured",
        "kernels at their peak: floor to compiler",
        "corrected, by bytes",
        "corrected, by cycles",
        "calibrated",
        "error",
    ]
    return table(columns, rows)


def calibration_left() -> str:
    rows = [
        [
            run["run"],
            f"{run['microseconds_a_token']:,}",
            f"{run['mfu']} %",
            f"{run['hfu']} %",
            f"{run['with_kernels']} %",
        ]
        + [f"{100 - run['with_kernels']} %"]
        for run in results("calibration")["arithmetic"]
    ]
    columns = ["published run, by arithmetic", "us a token and chip", "MFU, causal half", "HFU: matrix units at peak"]
    return table([*columns, "kernels as scheduled", "not explained"], rows)


def kernel_bundles() -> str:
    """The committed tables of dots_jax/hlo/kernel_tables."""
    rows = []
    for path in sorted((ROOT / "dots_jax" / "hlo" / "kernel_tables").glob("*.json")):
        for row in json.loads(path.read_text())["rows"]:
            name = row["kernel"]
            if "columns" in row:
                name += f" {row['contracted']} -> {row['columns']}" + ", transposed" * row["transposed"]
            bundles = ", ".join(f"{branch} {n:,}" for branch, n in row["bundles"].items())
            units = ", ".join(f"{branch} {n:,}" for branch, n in row["mxu"].items()) or "-"
            rows.append([path.stem, name, " x ".join(map(str, row["tiles"])), row["cores"], bundles, units])
    return table(["chip", "kernel", "tiles", "cores", "bundles of a grid step", "cycles of its matrix units"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "tree": folder_tree,
    "planner_summary": planner_summary,
    "planner_costs": planner_costs,
    "planner_steps": planner_steps,
    "planner_refused": planner_refused,
    "calibration_runs": calibration_runs,
    "calibration_left": calibration_left,
    "kernel_bundles": kernel_bundles,
    "serving_bounds": serving_bounds,
    "story_plans": story_plans,
    "story_1b": lambda: story_prices("1B"),
    "story_142b": lambda: story_prices("142B"),
    "cpu_train_step": cpu_train_step,
    "cpu_generate": cpu_generate,
    "cpu_convert": cpu_convert,
    "demo": demo_results,
    "rft": rft_arms,
}

# --- the copies -------------------------------------------------------------------------------------------------------

BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- /table -->)", re.S)
GIN_BLOCK = re.compile(rf"^{re.escape(GIN_BEGIN)}\n.*?^{re.escape(GIN_END)}$", re.S | re.M)


def markdown_files() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "benchmarks").glob("*.md"))]


def gin_files() -> list[Path]:
    return [path for path in sorted((ROOT / "gin").rglob("*.gin")) if GIN_BEGIN in path.read_text()]


def filled(path: Path) -> str:
    """The text of a file with every generated part as the JSON files have it now."""
    text = path.read_text()
    if path.suffix == ".gin":
        lines = "\n".join(gin_figures(str(path.relative_to(ROOT))))
        return GIN_BLOCK.sub(lambda match: lines, text)
    return BLOCK.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n\n{match[3]}", text)


def stale() -> list[Path]:
    return [path for path in [*markdown_files(), *gin_files()] if path.read_text() != filled(path)]


if __name__ == "__main__":
    changed = stale()
    for path in changed:
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_text(filled(path))
    sys.exit(1 if changed and "--check" in sys.argv else 0)
