"""Pictures of a run and of its model. Each function returns a matplotlib figure, which a notebook shows and `savefig`
writes. Sequential maps are viridis and diverging ones PuOr: both can be read by the colour-blind and in grey."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dots_jax.analysis.expert_load import DomainScore
from dots_jax.analysis.learning_dynamics import Milestone
from dots_jax.config import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, and a marker each, so that no line is told by its colour alone.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
_MARKERS = "osD^vPX*"
_STYLE = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "figure.dpi": 110,
}  # fmt: skip


def loss_curve(rows: Sequence[Mapping], baselines: Mapping[str, float] | None = None) -> "Figure":
    """The rows of metrics.jsonl: loss over tokens, its running mean, the stages, and the learning rate below.

    Rows of validations are left out. baselines: label -> a loss in nats per token to compare with, drawn as a dashed line.
    """
    rows = [row for row in rows if "loss" in row]
    if not rows:
        raise UserError("There are no rows of metrics: has the run logged a step?")
    tokens = np.array([row["tokens"] for row in rows], float)
    loss = np.array([row["loss"] for row in rows], float)
    figure, (upper, lower) = _figure(2, 1, size=(7.5, 4.6), sharex=True, height_ratios=(3, 1))
    scale, unit = _unit(tokens[-1])
    upper.plot(tokens / scale, loss, color="#BBBBBB", linewidth=0.8, label="each logged step")
    upper.plot(tokens / scale, _running_mean(loss), color=_COLOURS[0], linewidth=1.8, label="running mean")
    for label, value in (baselines or {}).items():
        below = value < np.median(loss)  # clear of the curve
        upper.axhline(value, color=_COLOURS[6], linewidth=1, linestyle="--")
        upper.annotate(
            f"{label}: {value:.2f}", (1, value), xycoords=("axes fraction", "data"), xytext=(-3, -4 if below else 4),
            textcoords="offset points", ha="right", va="top" if below else "bottom", fontsize=8,
            bbox={"color": "white", "pad": 0.5},
        )  # fmt: skip
    if baselines:  # room for the labels and the names of the stages
        lowest, highest = min(*baselines.values(), loss.min()), max(*baselines.values(), loss.max())
        upper.set_ylim(lowest - 0.14 * (highest - lowest), highest + 0.2 * (highest - lowest))
    upper.set_ylabel("loss, nats per token")
    stages = [row["stage"] for row in rows]
    starts = [i for i in range(len(rows)) if i == 0 or stages[i] != stages[i - 1]]
    for i in starts:
        for axis in (upper, lower):
            if i:
                axis.axvline(tokens[i - 1] / scale, color="black", linewidth=0.8, linestyle=":")
        upper.annotate(
            stages[i], ((tokens[i - 1] if i else 0) / scale, 1), xycoords=("data", "axes fraction"),
            xytext=(3, -2), textcoords="offset points", va="top", fontsize=8,
        )  # fmt: skip
    place = (1, 0.75) if baselines else (1, 0.92)
    upper.legend(loc="upper right", bbox_to_anchor=place, edgecolor="none", framealpha=1, fontsize=8)
    lower.plot(tokens / scale, [row["learning_rate"] for row in rows], color=_COLOURS[1])
    lower.set_ylabel("learning rate")
    lower.set_ylim(bottom=0)
    lower.set_xlabel(f"tokens, {unit}" if unit else "tokens")
    lower.set_xlim(0, tokens[-1] / scale)
    return _done(figure)


def load_map(scores: Mapping[str, DomainScore]) -> "Figure":
    """Expert load of each domain, layer x expert, over an even share: 1 is even, on one scale for all domains."""
    even = {
        name: score.load_LE * (score.load_LE.shape[1] / score.load_LE.sum(axis=1, keepdims=True))
        for name, score in scores.items()
    }
    num_layers, num_experts = next(iter(even.values())).shape
    height = _map_height(num_layers)
    figure, axes = _figure(len(even), 1, size=(7.5, len(even) * height), squeeze=False, sharex=True)
    largest = max(2.0, float(np.quantile(np.concatenate([a.ravel() for a in even.values()]), 0.999)))
    for axis, (name, load_LE) in zip(axes[:, 0], even.items()):
        image = _layer_map(axis, load_LE, "viridis", 0, largest)
        axis.set_title(f"{name}, {scores[name].tokens:,} tokens", fontsize=9)
        axis.set_ylabel("layer")
    axes[-1, 0].set_xlabel("expert")
    bar = figure.colorbar(
        image, ax=axes, label="load / even load", extend="max", extendfrac=0.02, pad=0.02, aspect=20 * len(even)
    )
    bar.ax.axhline(1, color="white", linewidth=1.5)
    bar.set_ticks([0, 1, *range(2, int(largest) + 1, max(1, int(largest) // 6))])
    return _done(figure)


def expert_load_panels(domains: Mapping[str, tuple[np.ndarray, int]]) -> "Figure":
    """Figure 5 of the report: load [L, E] of each domain, side by side, on one colour scale from 0 to 1.

    domains: name -> (load_LE, tokens). The load is the share of the domain's tokens that an expert gets.
    """
    if not domains:
        raise UserError("There is no domain to draw: give at least one.")
    num_layers, _ = next(iter(domains.values()))[0].shape
    size = (1 + 3.4 * len(domains), 0.9 + _map_height(num_layers))
    figure, axes = _figure(1, len(domains), size=size, squeeze=False, sharey=True)
    for axis, (name, (load_LE, tokens)) in zip(axes[0], domains.items()):
        image = _layer_map(axis, load_LE, "viridis", 0, 1)
        axis.set_title(f"{name}, {tokens:,} tokens", fontsize=9)
        axis.set_xlabel("expert")
        axis.tick_params(axis="x", labelsize=7)
    axes[0, 0].set_ylabel("layer")
    figure.colorbar(image, ax=axes, label="share of the tokens", pad=0.02)
    return _done(figure)


def bias_map(bias_LE: np.ndarray) -> "Figure":
    """The routers' biases, layer x expert; below zero: an expert that was asked too often and is held back."""
    bias_LE = np.asarray(bias_LE, np.float32)
    largest = float(np.max(np.abs(bias_LE))) or 1.0
    figure, axis = _figure(1, 1, size=(7.5, 0.4 + _map_height(len(bias_LE))))
    image = _layer_map(axis, bias_LE, "PuOr", -largest, largest)
    axis.set_xlabel("expert")
    axis.set_ylabel("layer")
    axis.set_title("router bias: an expert below 0 is held back, one above 0 favoured", fontsize=9)
    figure.colorbar(image, ax=axis, label="bias", pad=0.02)
    return _done(figure)


def attention_picture(weights_TS: np.ndarray, tokens: Sequence[str], title: str) -> "Figure":
    """What each token of a text (a row) looks at (columns). The colours follow the square root, lest the first token's
    share hide all others."""
    T = len(tokens)
    side = min(8.0, 2.2 + 0.11 * T)
    figure, axis = _figure(1, 1, size=(side + 1.0, side))
    hidden = np.ma.masked_array(weights_TS, np.triu(np.ones((T, T), bool), 1))
    from matplotlib.colors import PowerNorm

    image = axis.imshow(hidden, cmap="viridis", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    shown = [_printable(token) for token in tokens]
    axis.set_xticks(range(T), shown, fontsize=7, rotation=90 if max(map(len, shown)) > 1 else 0, family="monospace")
    axis.set_yticks(range(T), shown, fontsize=7, family="monospace")
    axis.grid(False)
    axis.set_xlabel("token that is looked at")
    axis.set_ylabel("token that looks")
    axis.set_title(title, fontsize=9)
    figure.colorbar(image, ax=axis, label="share of the attention", shrink=0.7, pad=0.02)
    return _done(figure)


def dynamics(milestones: Sequence[Milestone], drift: Mapping[str, Sequence[float]]) -> "Figure":
    """Milestones side by side: loss of each domain, specialisation of each layer, and drift between neighbours."""
    figure, (left, middle, right) = _figure(1, 3, size=(11, 3.6))
    tokens = np.array([milestone.tokens for milestone in milestones], float)
    scale, unit = _unit(tokens[-1])
    places = tokens / scale
    for place, name in enumerate(milestones[0].scores):
        left.plot(places, [m.scores[name].loss for m in milestones], **_line(place), label=name)
    left.set_ylabel("loss, nats per token")
    left.legend(frameon=False, fontsize=8)

    by_layer = np.array([milestone.specialisation for milestone in milestones])
    middle.fill_between(
        places,
        by_layer.min(axis=1),
        by_layer.max(axis=1),
        color=_COLOURS[5],
        alpha=0.4,
        linewidth=0,
        label="all layers",
    )
    middle.plot(places, by_layer.mean(axis=1), **_line(0), label="mean of the layers")
    middle.set_ylabel("specialisation of experts")
    middle.set_ylim(bottom=0)
    middle.legend(frameon=False, fontsize=8)

    for place, (name, values) in enumerate(drift.items()):
        right.plot(places[1:], values, **_line(place), label=name)
    right.set_yscale("log")
    right.set_ylabel("|change| / |before|, since the last one")
    right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    for axis, title in ((left, "loss"), (middle, "specialisation"), (right, "drift")):
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(f"tokens at the milestone, {unit}" if unit else "tokens at the milestone")
        axis.set_xlim(0, 1.05 * places[-1])
    return _done(figure)


# --- the small parts ----------------------------------------------------------------------------------------------------


def _figure(rows: int, columns: int, size: tuple[float, float], **options):
    from matplotlib import pyplot

    with pyplot.rc_context(_STYLE):
        return pyplot.subplots(rows, columns, figsize=size, layout="constrained", **options)


def _done(figure):
    """Out of pyplot's hands: a notebook would otherwise show it a second time."""
    from matplotlib import pyplot

    pyplot.close(figure)
    return figure


def _map_height(num_layers: int) -> float:
    """Inches: high rows where there are few of them, and 61 still on a screen."""
    return max(1.4, 0.8 + min(0.16 * num_layers, 1.5 + 0.05 * num_layers))


def _layer_map(axis, values_LE: np.ndarray, colours: str, low: float, high: float):
    """Rows are the model's layers, of which 1 is the first with experts."""
    num_layers, num_experts = values_LE.shape
    extent = (-0.5, num_experts - 0.5, num_layers + 0.5, 0.5)
    image = axis.imshow(
        values_LE, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest", extent=extent
    )
    axis.grid(False)
    for ticks, first, count in ((axis.set_yticks, 1, num_layers), (axis.set_xticks, 0, num_experts)):
        every = next(step for step in (1, 2, 4, 8, 10, 16, 20, 32, 64) if count / step <= 16 or step == 64)
        ticks(
            [first, *range(first - first % every + every, first + count, every)]
            if every > 1
            else range(first, first + count)
        )
    return image


def _line(place: int) -> dict:
    place %= len(_COLOURS)
    return {"color": _COLOURS[place], "marker": _MARKERS[place], "markersize": 4, "linewidth": 1.4}


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Over a twentieth of what is there, up to each place."""
    size = max(1, len(values) // 20)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(0, last - size)
    return (sums[last] - sums[first]) / (last - first)


def _unit(largest: float) -> tuple[float, str]:
    return next(
        (
            (s, u)
            for s, u in ((1e12, "trillions"), (1e9, "billions"), (1e6, "millions"), (1e3, "thousands"))
            if largest >= s
        ),
        (1.0, ""),
    )


def _printable(token: str) -> str:
    return {" ": "␣", "\n": "↵", "\t": "⇥"}.get(token, token)
