"""How much of each source a run reads, as far as sizes are known.

How large a source is comes from its token cache, or from the estimate in its Source.
"""

import dataclasses
import glob
import json
import math
import types
from collections.abc import Mapping
from fractions import Fraction

from dots_jax.config import DataConfig, Stage, UserError
from dots_jax.curriculum.groups import resolved
from dots_jax.curriculum.stages import Schedule
from dots_jax.storage import find_files, open_file

Rates = Mapping[str, Mapping[str, Fraction]]  # mixture -> source -> share, summing to 1


@dataclasses.dataclass(frozen=True)
class Size:
    """Tokens in one pass over a source; `exact` unless it is the estimate of its Source."""

    tokens: int
    exact: bool = True


@dataclasses.dataclass(frozen=True)
class Use:
    """What one stage reads of one source. `tokens` count complete sequences that hold the source, as the schedule
    does; `read` only the source's own tokens (fewer where untie inserts some). epochs: None if the size is unknown."""

    stage: str
    source: str
    share: float
    tokens: float
    read: float
    epochs: float | None
    exact: bool


def exact_shares(rates: Mapping[str, float]) -> dict[str, Fraction]:
    """Rates as shares that sum to 1. A rate counts as its shortest decimal: 0.1 is one tenth, not the nearest binary
    fraction."""
    exact = {name: Fraction(repr(float(rate))) for name, rate in rates.items()}
    total = sum(exact.values())
    return {name: rate / total for name, rate in exact.items()}


def declared_rates(
    data: DataConfig, stages: tuple[Stage, ...] = (), sizes: Mapping[str, Size] | None = None
) -> dict[str, dict[str, Fraction]]:
    """The shares of each mixture that a gin file declares, and of each source that a stage names directly: what a plan
    knows without seqio. A run takes them from the registry (data/corpus.py). stages: of the run, for caps (groups.py).
    sizes: for mixtures with repeats, which are left out where a size is not known."""
    data, sizes = resolved(data, stages), sizes or {}
    rates = {source.name: {source.name: Fraction(1)} for source in data.sources}
    rates |= {mixture.name: exact_shares(dict(mixture.rates)) for mixture in data.mixtures if mixture.rates}
    for name, repeats_of in declared_repeats(data).items():
        if name not in rates and all(source in sizes for source in repeats_of):
            rates[name] = exact_shares({source: n * sizes[source].tokens for source, n in repeats_of.items()})
    return rates


def declared_repeats(data: DataConfig) -> dict[str, dict[str, int]]:
    """Of each mixture with repeats, and of each source that a stage names directly, how often a source is read in one pass."""
    alone = {source.name: {source.name: 1} for source in data.sources}
    return alone | {mixture.name: dict(mixture.repeats) for mixture in data.mixtures if mixture.repeats}


def with_estimated_tokens(stages: tuple[Stage, ...], data: DataConfig, sizes: Mapping[str, Size]) -> tuple[Stage, ...]:
    """Stages in epochs with the tokens that these sizes say, up to padding and conversations that are too long; a run takes them
    from its sequences. Raises UserError for a size that is not known."""
    repeats_of, found = declared_repeats(data), []
    for stage in stages:
        if stage.epochs and not stage.tokens:
            parts = repeats_of.get(stage.mixture, {stage.mixture: 1})
            missing = [source for source in parts if source not in sizes]
            if missing:
                raise UserError(
                    f"Stage {stage.name!r}: how long {stage.epochs:g} epochs are is not known before the size of "
                    f"{', '.join(missing)} is: make the token cache (dots cache), or set Source.tokens."
                )
            tokens = stage.epochs * sum(times * sizes[source].tokens for source, times in parts.items())
            stage = dataclasses.replace(stage, tokens=math.ceil(tokens / stage.window_tokens) * stage.seq_len)
        found.append(stage)
    return tuple(found)


def known_sizes(data: DataConfig) -> dict[str, Size]:
    """Of each source with a token cache of its training split, or an estimate. Reads manifests, nothing else."""
    sizes = {source.name: Size(source.tokens, exact=False) for source in data.sources if source.tokens}
    manifests = find_files(f"{glob.escape(data.cache_dir)}/tokens/*/*/train/manifest.json")
    for manifest in sorted(manifests, key=lambda file: file.modified):  # of several versions, the newest
        try:
            with open_file(manifest.path) as file:
                sizes[manifest.path.split("/")[-4]] = Size(int(json.load(file)["tokens"]))
        except (ValueError, KeyError, TypeError):  # damaged: whoever opens it says so
            continue
    return sizes


def uses(
    schedule: Schedule,
    rates: Rates,
    sizes: Mapping[str, Size],
    repeated: Mapping[str, Mapping[str, int]] = types.MappingProxyType({}),
) -> list[Use]:
    """What every stage reads of every source of its mixture, in the order of the run; stages of unknown rates are left
    out. repeated: declared_repeats, for stages in epochs: their passes are those that they state."""
    found = []
    for stage, stage_tokens in zip(schedule.stages, schedule.stage_tokens):
        for source, share in rates.get(stage.mixture, {}).items():
            tokens = float(share * stage_tokens)
            read = tokens * stage.window_tokens / stage.seq_len
            size = sizes.get(source)
            epochs = read / size.tokens if size else None
            if stage.epochs:
                epochs = stage.epochs * repeated.get(stage.mixture, {}).get(source, 1)
            exact = bool(stage.epochs or (size and size.exact))
            found.append(Use(stage.name, source, float(share), tokens, read, epochs, exact))
    return found


def repeats(uses: list[Use], max_epochs: float) -> list[str]:
    """One warning for each source that the run reads more than max_epochs times; 0 means no limit."""
    lines = []
    for source in dict.fromkeys(use.source for use in uses):
        parts = [use for use in uses if use.source == source and use.epochs is not None]
        total = sum(use.epochs or 0 for use in parts)
        if max_epochs and total > max_epochs * (1 + 1e-6):  # a cap keeps to it but for rounding
            stages = ", ".join(f"{use.stage} {use.epochs:,.1f}" for use in parts)
            about = "" if all(use.exact for use in parts) else "about "
            lines.append(
                f"warning     {source} is read {about}{total:,.1f} times ({stages}); DataConfig.max_epochs is {max_epochs:g}"
            )
    return lines
