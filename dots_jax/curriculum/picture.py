"""The curriculum as a picture: what the run reads, and with which learning rate and batch, over its tokens."""

import os
from pathlib import Path

from dots_jax.config import TrainConfig, UserError
from dots_jax.curriculum.mixture_use import Rates
from dots_jax.curriculum.stages import Schedule
from dots_jax.human import human

# One hue a group, colour-blind safe (Paul Tol's muted scheme), and another strength a language.
_HUES = ("#332288", "#117733", "#DDCC77", "#CC6677", "#88CCEE", "#AA4499", "#44AA99", "#999933", "#882255", "#661100")
_UNKNOWN = "#BBBBBB"
_SUFFIXES = (".png", ".svg", ".pdf")
# Of the width, shared equally; the rest follows the stages' tokens. So 128B tokens stay visible next to 10T.
_EQUAL_PART = 0.55
_POINTS = 200  # of a learning-rate curve in one segment


def check_suffix(path: str) -> None:
    """Raises UserError if no picture can have this name."""
    if Path(path).suffix not in _SUFFIXES:
        raise UserError(f"--picture={path}: the name must end with one of {', '.join(_SUFFIXES)}.")


def file_pyplot():
    """matplotlib's pyplot, for files alone. A command that a notebook starts inherits MPLBACKEND, which may name a module that
    only the notebook has: matplotlib then cannot even be imported."""
    os.environ["MPLBACKEND"] = "Agg"
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw(config: TrainConfig, schedule: Schedule, rates: Rates, path: str) -> None:
    """Writes the picture. Every stage has a panel of its own, whose axis is linear in tokens within the stage.

    Raises UserError for a file that cannot be written or is of no known kind.
    """
    check_suffix(path)
    pyplot = file_pyplot()
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    tokens = schedule.stage_tokens
    widths = [_EQUAL_PART / len(tokens) + (1 - _EQUAL_PART) * n / sum(tokens) for n in tokens]
    with pyplot.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = pyplot.subplots(
            3, len(tokens), figsize=(max(9.0, 2.4 * len(tokens) + 2), 6.4), sharey="row", squeeze=False,
            width_ratios=widths, height_ratios=(4, 1.3, 1),
            layout=ConstrainedLayoutEngine(wspace=0.02, hspace=0.03),
        )  # fmt: skip
        colours = _colours(config, schedule, rates)
        for index in range(len(tokens)):
            _draw_stage(axes[:, index], schedule, index, rates, colours)
        _finish(figure, axes, schedule, colours)
        try:
            figure.savefig(path, dpi=160)
        except OSError as error:
            raise UserError(f"--picture={path} cannot be written ({error.strerror}): choose another file.") from error
        finally:
            pyplot.close(figure)


def _colours(config: TrainConfig, schedule: Schedule, rates: Rates) -> dict[str, tuple[str, float]]:
    """Source -> hue of its group and opacity, in the order of the config."""
    sources = {source.name: source for source in config.data.sources}
    used = [name for stage in schedule.stages for name in rates.get(stage.mixture, {})]
    groups: dict[str, list[str]] = {}
    for name in sorted(dict.fromkeys(used), key=lambda n: list(sources).index(n) if n in sources else len(sources)):
        group = sources[name].group if name in sources else ""
        groups.setdefault(group or name, []).append(name)
    colours = {}
    for hue, names in zip(_HUES * len(groups), groups.values()):
        colours |= {name: (hue, 1 - 0.5 * place / len(names)) for place, name in enumerate(names)}
    return colours


def _draw_stage(axes, schedule: Schedule, index: int, rates: Rates, colours: dict) -> None:
    shares_axis, rate_axis, batch_axis = axes
    stage, total = schedule.stages[index], schedule.stage_tokens[index]
    shares, bottom = rates.get(stage.mixture, {}), 0.0
    for name in (name for name in colours if name in shares):
        (hue, opacity), share = colours[name], 100 * float(shares[name])
        shares_axis.bar(
            total / 2, share, total, bottom, color=hue, alpha=opacity, label=name, edgecolor="white", linewidth=0.6
        )
        if share >= 4:
            light = hue in ("#DDCC77", "#88CCEE", "#999933") or opacity < 0.7
            shares_axis.text(
                total / 2, bottom + share / 2, f"{share:.3g}", ha="center", va="center", fontsize=7,
                color="black" if light else "white",
            )  # fmt: skip
        bottom += share
    if not shares:
        shares_axis.bar(total / 2, 100, total, color=_UNKNOWN)
        shares_axis.text(total / 2, 50, f"{stage.mixture}\n(registered in code)", ha="center", va="center", fontsize=7)

    for segment in (segment for segment in schedule.segments if segment.stage_index == index):
        batch = segment.batch_size * stage.seq_len
        steps = sorted({segment.num_steps * i // _POINTS for i in range(_POINTS)} | _early(segment))
        places = [segment.stage_token + step * batch for step in steps]
        rate_axis.plot(places, [schedule.at(segment.first_step + step).learning_rate for step in steps], color="black")
        end = segment.stage_token + segment.num_steps * batch
        batch_axis.fill_between([segment.stage_token, end], batch, color="#555555", linewidth=0)
        batch_axis.text(
            (segment.stage_token + end) / 2, batch, human(batch), ha="center", va="bottom", fontsize=7,
        )  # fmt: skip


def _early(segment) -> set[int]:
    """Every step of a short warm-up, which would fall between two of the evenly spaced points."""
    warmup = min(segment.stage.warmup_steps, segment.num_steps)
    return (
        {warmup * i // 20 for i in range(20)} | {min(warmup, segment.num_steps - 1)}
        if segment.stage_step == 0
        else set()
    )


def _finish(figure, axes, schedule: Schedule, colours: dict) -> None:
    for index, (stage, total) in enumerate(zip(schedule.stages, schedule.stage_tokens)):
        detail = f"length {stage.seq_len:,}" + (", untie" if stage.untie else "")
        axes[0, index].set_title(f"{stage.name}\n{detail}", fontsize=9)
        for axis in axes[:, index]:
            axis.set_xlim(0, total)
            axis.set_xticks([])
            if index:
                axis.spines["left"].set_visible(False)
                axis.tick_params(left=False, which="both")
        axes[2, index].set_xlabel(f"{human(total).strip()} tokens")
    axes[0, 0].set_ylim(0, 100)
    axes[0, 0].set_ylabel("share of tokens, %")
    axes[1, 0].set_yscale("log")
    ends = {rate for stage in schedule.stages for rate in (stage.learning_rate_start, stage.learning_rate_end)}
    axes[1, 0].set_ylim(min(ends) / 2, max(ends) * 2)
    axes[1, 0].set_yticks(sorted(ends), [f"{rate:.3g}" for rate in sorted(ends)])
    axes[1, 0].minorticks_off()
    axes[1, 0].set_ylabel("learning rate")
    largest = max(segment.batch_size * segment.stage.seq_len for segment in schedule.segments)
    axes[2, 0].set_ylim(0, 1.35 * largest)
    axes[2, 0].set_yticks([])
    axes[2, 0].set_ylabel("batch, tokens")
    handles = {}
    for axis in axes[0]:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels())))
    ordered = [name for name in reversed(colours) if name in handles]
    if ordered:
        figure.legend([handles[name] for name in ordered], ordered, loc="outside right upper", frameon=False)
    figure.supxlabel(
        "each stage has a linear axis of its own; small stages are drawn wider than their share", fontsize=7
    )
