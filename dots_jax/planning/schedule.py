"""The schedule of a run as text: its stages, and how much of each source they read.

Standard library only, so that a plan costs a second on any machine. How large a source is comes from its token cache,
or from the estimate in its Source; where neither exists the plan shows `?`.
"""

import dataclasses
import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from dots_jax.config import DataConfig, TrainConfig
from dots_jax.training.stages import Schedule

Rates = Mapping[str, Mapping[str, Fraction]]  # mixture -> source -> share, summing to 1


@dataclasses.dataclass(frozen=True)
class Size:
    """Tokens in one pass over a source; `exact` unless it is the estimate of its Source."""

    tokens: int
    exact: bool = True


@dataclasses.dataclass(frozen=True)
class Use:
    """What one stage reads of one source. `tokens` count the whole sequences that hold the source, as the schedule
    does; `read` only the source's own tokens (fewer where untie inserts some). epochs: None if the size is unknown."""

    stage: str
    source: str
    share: float
    tokens: float
    read: float
    epochs: float | None
    exact: bool


def declared_rates(data: DataConfig) -> dict[str, dict[str, Fraction]]:
    """The shares of each mixture that a gin file declares, and of each source that a stage may name by itself."""
    rates = {source.name: {source.name: Fraction(1)} for source in data.sources}
    for mixture in data.mixtures:
        # Through the shortest decimal, as data/registry.py does: 0.1 is one tenth.
        exact = {name: Fraction(repr(float(rate))) for name, rate in mixture.rates}
        rates[mixture.name] = {name: rate / sum(exact.values()) for name, rate in exact.items()}
    return rates


def known_sizes(data: DataConfig) -> dict[str, Size]:
    """Of each source with a token cache of its training split, or an estimate. Reads manifests, nothing else."""
    sizes = {source.name: Size(source.tokens, exact=False) for source in data.sources if source.tokens}
    manifests = Path(data.cache_dir).glob("tokens/*/*/train/manifest.json")
    for manifest in sorted(manifests, key=lambda path: path.stat().st_mtime):  # of several versions, the newest
        try:
            sizes[manifest.parents[2].name] = Size(int(json.loads(manifest.read_text())["tokens"]))
        except (ValueError, KeyError, TypeError):  # damaged: whoever opens it says so
            continue
    return sizes


def uses(schedule: Schedule, rates: Rates, sizes: Mapping[str, Size]) -> list[Use]:
    """What every stage reads of every source of its mixture, in the order of the run; stages of unknown rates are left
    out."""
    found = []
    for stage, stage_tokens in zip(schedule.stages, schedule.stage_tokens):
        for source, share in rates.get(stage.mixture, {}).items():
            tokens = float(share * stage_tokens)
            read = tokens * stage.window_tokens / stage.seq_len
            size = sizes.get(source)
            epochs = read / size.tokens if size else None
            found.append(Use(stage.name, source, float(share), tokens, read, epochs, bool(size and size.exact)))
    return found


def repeats(uses: list[Use], max_epochs: float) -> list[str]:
    """One warning for each source that the run reads more than max_epochs times; 0 means no limit."""
    lines = []
    for source in dict.fromkeys(use.source for use in uses):
        parts = [use for use in uses if use.source == source and use.epochs is not None]
        total = sum(use.epochs for use in parts)
        if max_epochs and total > max_epochs:
            stages = ", ".join(f"{use.stage} {use.epochs:,.1f}" for use in parts)
            about = "" if all(use.exact for use in parts) else "about "
            lines.append(
                f"warning     {source} is read {about}{total:,.1f} times ({stages}); DataConfig.max_epochs is {max_epochs:g}"
            )
    return lines


def plan(config: TrainConfig, picture: str | None = None) -> str:
    """The whole plan as text; `picture`: a file to draw it into."""
    schedule, rates, sizes = Schedule(config.stages), declared_rates(config.data), known_sizes(config.data)
    if picture:
        from dots_jax.planning.picture import draw

        draw(config, schedule, rates, picture)
    total = f"tokens      {schedule.num_tokens:,} in {schedule.num_steps:,} steps, {schedule.num_sequences:,} sequences"
    warnings = repeats(uses(schedule, rates, sizes), config.data.max_epochs)
    return "\n".join([total, *schedule_lines(config, schedule, rates, sizes), *warnings])


# --- text -------------------------------------------------------------------------------------------------------------


def schedule_lines(config: TrainConfig, schedule: Schedule, rates: Rates, sizes: Mapping[str, Size]) -> list[str]:
    """The table of stages, and under it the table of their sources."""
    return [*stage_lines(schedule), *source_lines(config, schedule, uses(schedule, rates, sizes))]


def stage_lines(schedule: Schedule) -> list[str]:
    """A line for each stage, and for each of its batch sizes."""
    width = max(len(stage.mixture) for stage in schedule.stages) + 2
    columns = f"{'tokens':>10}{'steps':>18}{'batch':>13}{'length':>9}  learning rate"
    lines = [f"stages      {'name':<12}{'mixture':<{width}}{columns}"]
    for segment in schedule.segments:
        stage, last = segment.stage, segment.first_step + segment.num_steps - 1
        rate = f"{schedule.at(segment.first_step).learning_rate:.3g} .. {schedule.at(last).learning_rate:.3g}"
        batch = segment.batch_size * stage.seq_len
        lines.append(
            f"            {stage.name:<12}{stage.mixture:<{width}}{human(segment.num_steps * batch):>10}"
            f"{f'{segment.first_step:,}-{last:,}':>18}{batch:>13,}{stage.seq_len:>9,}  {rate} {stage.learning_rate_shape}"
            + (", untie" if stage.untie else "")
        )
    return lines


def source_lines(config: TrainConfig, schedule: Schedule, uses: list[Use]) -> list[str]:
    """A line for each source: its share and epochs in every stage, and its tokens and epochs in the run. `~`: by the
    estimate of its size; `?`: its size is unknown."""
    table = {(use.stage, use.source): use for use in uses}
    sources = list(dict.fromkeys(use.source for use in uses))
    stages = [stage.name for stage in schedule.stages if any(use.stage == stage.name for use in uses)]
    lines = [
        f"            {stage.name}: {stage.mixture}, registered in {', '.join(config.data.tasks_modules) or 'no module'}"
        for stage in schedule.stages
        if stage.name not in stages
    ]
    if sources:
        width = max(len(source) for source in sources) + 2
        columns = "".join(f"{stage:>20}" for stage in stages)
        lines.insert(0, f"            {'':<{width}}{columns}{'tokens':>10}{'epochs':>10}")
    for source in sources:
        cells = [table.get((stage, source)) for stage in stages]
        shown = "".join(f"{cell.share:>10.2%}{_epochs([cell]):>10}" if cell else " " * 20 for cell in cells)
        parts = [cell for cell in cells if cell]
        tokens = human(sum(part.tokens for part in parts))
        lines.append(f"            {source:<{width}}{shown}{tokens:>10}{_epochs(parts):>10}")
    return ["sources" + lines[0][7:], *lines[1:]]


def _epochs(parts: list[Use]) -> str:
    if any(part.epochs is None for part in parts):
        return "?"
    return ("" if all(part.exact for part in parts) else "~") + f"{sum(part.epochs for part in parts):,.2f}"


def human(x: float) -> str:
    """1234567 -> '1.23 M'."""
    for power, unit in ((24, "Y"), (21, "Z"), (18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if x >= 10**power:
            return f"{x / 10**power:.3g} {unit}"
    return f"{x:.3g} "
