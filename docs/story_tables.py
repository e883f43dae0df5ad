"""The tables of docs/story_costs.md, as columns and rows. Standard library only."""

from collections.abc import Callable, Sequence


def prices(rows: Sequence[dict], model: str) -> tuple[list[str], list[list]]:
    """Of one model, from the rows of benchmarks/results/story_prices.json."""
    found = [
        [
            row["part"],
            amount(row["tokens"]),
            f"{row['chips']} v5p",
            hours(row["hours"], row["bound"]),
            hours(row["chip_hours"], row["bound"]),
            f"`{row['planned']}`" if row["planned"] else "bound of serving",
        ]
        for row in rows
        if row["model"] == model
    ]
    return ["part", "tokens", "chips", "hours (range)", "chip-hours (range)", "step planned for"], found


def plans(
    rows: Sequence[dict], mfu: Callable[[dict], str], planned: Callable[[dict], str]
) -> tuple[list[str], list[list]]:
    """Rows of planner.json. mfu, planned: the cells of docs/tables.py."""
    found = []
    for row in rows:
        where = [f"`{row['file']}`", row["topology"]]
        if "calibrated" not in row:
            found.append([*where, "not planned yet", "-", "-", "-"])
            continue
        fast, centre, slow = row["calibrated"]["step_seconds"]
        memory = f"{row['hbm_gib']:.1f} of {row['hbm_of_gib']}"
        found.append([*where, f"{centre} ({fast} to {slow})", mfu(row), memory, planned(row)])
    return ["run file", "topology", "seconds a step", "MFU (range)", "HBM, GiB a chip", "planned"], found


def hours(values: Sequence[float], bound: bool) -> str:
    """Centre and range, or one figure; `at least` where a part of it is a bound that no program can pass."""
    shown = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values]
    if not shown:
        return "-"
    return "at least " * bound + (shown[0] if len(shown) == 1 else f"**{shown[1]}** ({shown[0]} to {shown[2]})")


def amount(tokens: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if tokens >= size:
            return f"{tokens / size:.4g}{unit}"
    return f"{tokens:,.0f}"
