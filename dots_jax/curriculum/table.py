"""The schedule of a run as text: its stages, and how much of each source they read.

Standard library only, so that a plan costs a second on any machine. How large a source is comes from its token cache,
or from the estimate in its Source; where neither exists the plan shows `?`.
"""

import dataclasses
from collections.abc import Mapping

from dots_jax.config import Source, TrainConfig
from dots_jax.curriculum.mixture_use import (
    Rates,
    Size,
    Use,
    declared_rates,
    declared_repeats,
    known_sizes,
    repeats,
    uses,
    with_estimated_tokens,
)
from dots_jax.curriculum.stages import Schedule
from dots_jax.human import human


def plan(config: TrainConfig, picture: str | None = None) -> str:
    """The plan as text; `picture`: a file to draw it into."""
    sizes = known_sizes(config.data)
    if any(stage.epochs for stage in config.stages):
        stages = with_estimated_tokens(config.stages, config.data, sizes)
        config = dataclasses.replace(config, stages=stages)
    schedule, rates = Schedule(config.stages), declared_rates(config.data, config.stages, sizes)
    if picture:
        from dots_jax.curriculum.picture import draw

        draw(config, schedule, rates, picture)
    total = f"tokens      {schedule.num_tokens:,} in {schedule.num_steps:,} steps, {schedule.num_sequences:,} sequences"
    used = uses(schedule, rates, sizes, declared_repeats(config.data))
    warnings = repeats(used, config.data.max_epochs)
    kinds = kind_lines(config, used)
    return "\n".join([total, *schedule_lines(config, schedule, rates, sizes), *kinds, *warnings])


# --- text -------------------------------------------------------------------------------------------------------------


def schedule_lines(config: TrainConfig, schedule: Schedule, rates: Rates, sizes: Mapping[str, Size]) -> list[str]:
    """The table of stages, and under it the table of their sources."""
    return [
        *stage_lines(schedule),
        *source_lines(config, schedule, uses(schedule, rates, sizes, declared_repeats(config.data))),
    ]


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
    epochs = [part.epochs for part in parts if part.epochs is not None]
    if len(epochs) < len(parts):
        return "?"
    return ("" if all(part.exact for part in parts) else "~") + f"{sum(epochs):,.2f}"


def kind_lines(config: TrainConfig, uses: list[Use]) -> list[str]:
    """Tables of the tokens by language and by licence, and a line on synthetic text; empty where no source states them."""
    sources = {source.name: source for source in config.data.sources}
    lines = []
    for title, kind in (("languages", _language), ("licences", lambda source: source.licence)):
        if any(kind(sources[use.source]) for use in uses if use.source in sources):
            names = {use.source: kind(sources[use.source]) or "none" for use in uses if use.source in sources}
            lines += _shares(title, uses, names)
    if lines:
        marked = [
            name for name in dict.fromkeys(use.source for use in uses) if name in sources and sources[name].synthetic
        ]
        promised = "" if config.data.allow_synthetic else ", as DataConfig.allow_synthetic = False promises"
        lines.append(f"synthetic   {', '.join(marked) or 'none'}{promised}")
    return lines


def _language(source: Source) -> str:
    """Of its files, where each glob has its own."""
    files = {one.language for sets in source.file_sets().values() for one in sets}
    return "+".join(sorted(files - {""})) or source.language


def _shares(title: str, uses: list[Use], names: dict[str, str]) -> list[str]:
    """A line for each name: its share of every stage, and its tokens and share of the run."""
    stages, total = list(dict.fromkeys(use.stage for use in uses)), sum(use.tokens for use in uses)
    rows: dict[str, dict[str, float]] = {}
    for use in uses:
        row = rows.setdefault(names.get(use.source, "unknown"), {})
        row[use.stage] = row.get(use.stage, 0.0) + use.share
        row["tokens"] = row.get("tokens", 0.0) + use.tokens
    width = max(len(name) for name in rows) + 2
    lines = [f"{title:<12}{'':<{width}}{''.join(f'{stage:>20}' for stage in stages)}{'tokens':>10}{'share':>10}"]
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["tokens"]):
        shown = "".join(f"{row[stage]:>20.2%}" if stage in row else " " * 20 for stage in stages)
        lines.append(f"            {name:<{width}}{shown}{human(row['tokens']):>10}{row['tokens'] / total:>10.2%}")
    return lines
