"""A timeline as text: totals, parts, collectives, the largest operations."""

import collections
import re

from dots_jax.hlo.interconnect import Transfer
from dots_jax.hlo.timeline import ESTIMATES, Step, Timeline
from dots_jax.parallel.topology import Chip


def timeline_text(timeline: Timeline, chip: Chip, flops: float, top: int) -> str:
    """flops: of the model, on one device in this module's run; 0: unknown, and no MFU."""
    lines = totals(timeline, chip, flops)
    lines += ["", *parts_table(timeline), "", *collectives_table(timeline)]
    return "\n".join([*lines, "", *largest(timeline, chip, top)] if top else lines)


def totals(timeline: Timeline, chip: Chip, flops: float) -> list[str]:
    seconds = timeline.seconds()
    at_peak = chip.devices / chip.flops
    fast, centre, slow = timeline.shares.range(seconds["calibrated"])
    line = f"{'calibrated':<11}{centre:8.3f} s"
    if flops:
        line += f"  MFU {flops * at_peak / centre:6.1%} ({flops * at_peak / slow:.1%} to {flops * at_peak / fast:.1%})"
    lines = [f"{line}  = {fast:.3f} to {slow:.3f} s; HFU {timeline.flops * at_peak / centre:.1%}"]
    for name in ("compiler", "floor", "overlapped"):
        mfu = f"  MFU {flops * chip.devices / chip.flops / seconds[name]:6.1%}" if flops else ""
        if name in ESTIMATES:
            parts = f"  = compute {timeline.compute_seconds(name):.3f} + exposed {timeline.exposed_seconds(name):.3f}"
        else:
            parts = f"  = the larger of compute {timeline.compute_seconds('floor'):.3f} and links {timeline.link_seconds():.3f}"
        lines.append(f"{name:<11}{seconds[name]:8.3f} s{mfu}{parts}")
    return lines


def parts_table(timeline: Timeline) -> list[str]:
    """Milliseconds of a step by part, and by forward, recomputed and backward."""
    table = part_seconds(timeline)
    lines = [f"{'part':<12}{'compiler ms':>12}{'floor ms':>10}{'forward':>10}{'recomputed':>11}{'backward':>10}"]
    for part, row in sorted(table.items(), key=lambda item: -item[1]["compiler"]):
        cells = "".join(
            f"{1e3 * row.get(d, 0.0):>{w}.1f}" for d, w in (("forward", 10), ("recomputed", 11), ("backward", 10))
        )
        lines.append(f"{part:<12}{1e3 * row['compiler']:>12.1f}{1e3 * row['floor']:>10.1f}{cells}")
    return lines


def part_seconds(timeline: Timeline) -> dict[str, dict[str, float]]:
    """part -> compiler, floor, and the compiler's seconds of forward, recomputed, backward; `collectives`: exposed."""
    table: dict[str, dict[str, float]] = collections.defaultdict(lambda: dict.fromkeys(ESTIMATES, 0.0))
    for step in timeline.steps:
        row = table["collectives" if step.transfer else step.part]
        for name in ESTIMATES:
            row[name] += step.trips * (step.exposed if step.transfer else step.seconds)[name]
        cost = step.trips * (step.exposed if step.transfer else step.seconds)["compiler"]
        row[step.direction] = row.get(step.direction, 0.0) + cost
    return dict(table)


def collective_rows(timeline: Timeline) -> list[dict]:
    """Collectives of a step that are alike, together: how many, bytes, seconds alone on their links and exposed."""
    groups: dict[tuple, list[tuple[Step, Transfer]]] = collections.defaultdict(list)
    for step in timeline.collectives:
        t = step.transfer
        if t is None:
            continue
        key = (t.kind, t.axes, "+".join(t.links), t.group_size, step.part, step.direction, step.asynchronous)
        groups[key].append((step, t))
    names = ("kind", "axes", "links", "group_size", "part", "pass", "asynchronous")
    rows = [
        dict(zip(names, key))
        | {
            "count": sum(s.trips for s, _ in steps),
            "bytes": sum(s.trips * t.bytes for s, t in steps),
            "seconds": sum(s.trips * t.seconds for s, t in steps),
            "exposed": {name: sum(s.trips * s.exposed[name] for s, _ in steps) for name in ESTIMATES},
        }
        for key, steps in groups.items()
    ]
    return sorted(rows, key=lambda row: -row["seconds"])


def collectives_table(timeline: Timeline) -> list[str]:
    lines = [
        f"{'collective':<20}{'mesh axes':<18}{'links':<10}{'part':<11}{'pass':<11}{'count':>7}{'GB':>9}{'ms':>9}"
        f"{'exposed':>9}{'floor':>9}  asynchronous"
    ]
    for row in collective_rows(timeline):
        exposed = "".join(f"{1e3 * row['exposed'][name]:>9.1f}" for name in ESTIMATES)
        lines.append(
            f"{row['kind']:<20}{row['axes']:<18}{row['links']:<10}{row['part']:<11}{row['pass']:<11}{row['count']:>7.0f}"
            f"{row['bytes'] / 1e9:>9.2f}{1e3 * row['seconds']:>9.1f}{exposed}  {'yes' if row['asynchronous'] else 'no'}"
        )
    return lines


def largest(timeline: Timeline, chip: Chip, top: int) -> list[str]:
    """The operations that take longest, by the compiler's estimate; collectives by what is exposed."""
    cost = lambda s: s.trips * (s.exposed if s.transfer else s.seconds)["compiler"]  # noqa: E731
    lines = [f"{'ms':>9}{'floor':>9}{'trips':>7}{'peak':>6}{'GB':>9}  {'part':<11}{'pass':<11}operation"]
    for step in sorted(timeline.steps, key=lambda s: -cost(s))[:top]:
        seconds = (step.exposed if step.transfer else step.seconds)["compiler"]
        share = step.flops * chip.devices / chip.flops / seconds if seconds and step.flops else 0.0
        floor = (step.exposed if step.transfer else step.seconds)["floor"]
        shape = re.sub(r"\{[^}]*\}", "", step.op.type)
        kind = step.op.opcode + ("" if step.op.cycles is not None or step.transfer or step.kernel else " (no estimate)")
        figures = f"{1e3 * cost(step):>9.2f}{1e3 * step.trips * floor:>9.2f}"
        lines.append(
            f"{figures}{step.trips:>7.0f}{share:>6.0%}{step.trips * step.bytes / 1e9:>9.2f}"
            f"  {step.part:<11}{step.direction:<11}{step.op.name} {kind} {shape[:100]} {_tail(step.op.op_name)}"
        )
    return lines


def _tail(op_name: str) -> str:
    return "/".join(op_name.split("/")[-4:])
