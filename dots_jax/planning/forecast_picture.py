"""A forecast as a picture: what fills a chip's memory, and where the time of a step goes."""

from dots_jax.config import UserError
from dots_jax.curriculum.picture import check_suffix, file_pyplot
from dots_jax.hlo.tables import part_seconds
from dots_jax.planning.compile import GIB
from dots_jax.planning.forecast import Forecast

# Colour-blind safe (Paul Tol's muted scheme), one colour a part in both panels.
_COLOURS = {
    "parameters": "#332288", "optimizer": "#88CCEE", "batch": "#BBBBBB",
    "attention": "#CC6677", "router": "#882255", "dispatch": "#999933", "experts": "#117733", "combine": "#DDCC77",
    "shared": "#44AA99", "embed": "#AA4499", "head": "#661100", "other": "#999999", "gaps": "#E4E4E4",
}  # fmt: skip
_PASSES = (("forward", 1.0), ("recomputed", 0.4), ("backward", 0.7))


def draw(forecast: Forecast, path: str) -> None:
    """Writes the picture. Raises UserError for a file that cannot be written or is of no known kind."""
    check_suffix(path)
    pyplot = file_pyplot()

    with pyplot.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (memory_axis, time_axis) = pyplot.subplots(
            2, 1, figsize=(10, 6.6), height_ratios=(1, 3.2), layout="constrained"
        )
        figure.suptitle(_title(forecast), fontsize=10, x=0.01, ha="left")
        _draw_memory(memory_axis, forecast)
        if forecast.refused:
            time_axis.axis("off")
            time_axis.text(0, 0.9, "The compiler refused the step for want of memory: there is no schedule to read.")
        else:
            _draw_time(time_axis, forecast)
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise UserError(f"--picture={path} cannot be written ({error.strerror}): choose another file.") from error
        finally:
            pyplot.close(figure)


def _title(forecast: Forecast) -> str:
    job = forecast.job
    mesh = " x ".join(f"{name} {size}" for name, size in forecast.compiled.network.axes if size > 1)
    title = f"{job.topology}{f' x {job.slices} slices' if job.slices > 1 else ''}, {mesh}, stage {job.stage.name}"
    if forecast.refused:
        return title
    seconds = forecast.step_seconds
    fast, centre, slow = forecast.calibrated_range
    low, middle, high = forecast.mfu_range
    figures = (
        f"calibrated {centre:.2f} s ({fast:.2f} to {slow:.2f}), MFU {middle:.1%} ({low:.1%} to {high:.1%}); "
        f"with kernels at their peak {seconds['floor']:.2f} to {seconds['compiler']:.2f} s"
    )
    return f"{title}: {forecast.step_tokens / 1e6:,.1f}M tokens a step\n{figures}"


def _memory_pieces(forecast: Forecast) -> list[tuple[str, float]]:
    """Kinds and GiB; temporaries by the part of the step that they belong to."""
    memory, scale = forecast.memory, forecast.job.chip.devices / GIB
    pieces = [("parameters", memory.parameters), ("optimizer", memory.optimizer), ("batch", memory.batch)]
    parts: dict[str, float] = {}
    for buffer in forecast.peak.buffers:
        parts[buffer.part] = parts.get(buffer.part, 0.0) + buffer.bytes * scale
    # The schedule's own account may be a little above what the compiler packs it into.
    shrink = min(1.0, memory.temporaries / max(sum(parts.values()), 1e-9))
    pieces += sorted(((part, size * shrink) for part, size in parts.items()), key=lambda item: -item[1])
    pieces.append(("gaps", memory.total - sum(size for _, size in pieces)))
    return [(name, size) for name, size in pieces if size > 0]


def _draw_memory(axis, forecast: Forecast) -> None:
    memory, left = forecast.memory, 0.0
    widest = 1.08 * max(memory.total, memory.hbm)
    for name, size in _memory_pieces(forecast):
        label = {"gaps": "gaps, program", "other": "other temporaries"}.get(name, name)
        axis.barh(
            0, size, left=left, color=_COLOURS.get(name, "#999999"), edgecolor="white", linewidth=0.8, label=label
        )
        if size > 0.045 * widest:
            light = name in ("combine", "optimizer", "gaps", "batch")
            axis.text(left + size / 2, 0, f"{size:.1f}", ha="center", va="center", color="black" if light else "white")
        left += size
    for place, word in ((memory.limit, f"limit {memory.limit:g}"), (memory.hbm, f"HBM {memory.hbm:g}")):
        axis.axvline(place, color="black", linewidth=1.2, linestyle="-" if place == memory.limit else ":")
        align = "right" if place == memory.limit else "left"
        axis.text(place, 0.62, f" {word} ", ha=align, va="bottom", fontsize=8)
    axis.set_xlim(0, widest)
    axis.set_ylim(-0.55, 0.6)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    room = memory.limit - memory.total
    state = f"fits, {room:.1f} to spare" if memory.fits else f"does not fit, {-room:.1f} too much"
    axis.set_xlabel(f"GiB of a chip: {memory.total:.1f}, {state}")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.62), ncols=8, frameon=False, fontsize=8, handlelength=1)


def _draw_time(axis, forecast: Forecast) -> None:
    table = part_seconds(forecast.timeline)
    order = sorted(table, key=lambda part: (part == "collectives", -table[part]["compiler"]), reverse=True)
    total = forecast.step_seconds["compiler"]
    order = [part for part in order if table[part]["compiler"] > 0.0005 * total]
    for place, part in enumerate(order):
        row, left = table[part], 0.0
        colour = "#CC3311" if part == "collectives" else _COLOURS.get(part, "#555555")
        for name, strength in _PASSES:
            size = row.get(name, 0.0)
            axis.barh(place, size, left=left, height=0.62, color=colour, alpha=strength, linewidth=0)
            left += size
        axis.plot([row["floor"]] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.5)
        axis.text(
            max(left, row["floor"]), place, f"  {left:.3g} s, {left / total:.0%}", va="center", fontsize=8,
        )  # fmt: skip
    names = [{"collectives": "collectives,\nexposed"}.get(part, part) for part in order]
    axis.set_yticks(range(len(order)), names)
    axis.set_xlim(0, 1.14 * max(table[part]["compiler"] for part in order))
    axis.set_xlabel("seconds of a step by compiler cycles; black line: with byte floors")
    from matplotlib.patches import Patch

    handles = [Patch(color="#555555", alpha=strength, label=name) for name, strength in _PASSES]
    axis.legend(handles=handles, loc="lower right", frameon=False)
