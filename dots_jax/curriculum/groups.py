"""Groups and caps: the mixtures of a config as shares of its sources alone, a pure function of the config.

    resolved(config.data, config.stages)

    1. A group's rate is shared among its sources by their weights, and so on down to sources.
    2. What a source would be read above its `max_epochs` in the run goes to its `overflow`, in every mixture by the same
       factor, so that the proportions of the stages stay.

Sizes are those that the config states, never those of a token cache: another cache must not change a run's mixture.
"""

import dataclasses

from dots_jax.config import DataConfig, Group, Mixture, Source, Stage, UserError
from dots_jax.curriculum.stages import Schedule

_ROUNDING = 1e-9


def resolved(data: DataConfig, stages: tuple[Stage, ...] = ()) -> DataConfig:
    """The data without groups and caps: each becomes a mixture of that name. stages: of the run, for caps; empty: no cap.

    Raises UserError for groups that hold themselves, for a weight that is unknown, and for caps that cannot be kept.
    """
    capped = [source for source in data.sources if source.max_epochs] if stages else []
    if not data.groups and not capped:
        return data
    tree = _Groups(data)
    repeated = tuple(mixture for mixture in data.mixtures if mixture.repeats)
    for mixture in repeated:
        tree.check_sources(mixture)
    rates = {mixture.name: tree.flat(mixture.rates) for mixture in data.mixtures if mixture.rates}
    rates = {group.name: tree.flat([(group.name, 1.0)]) for group in data.groups} | rates
    if capped:
        _cap(rates, tree, capped, stages)
    mixtures = tuple(Mixture(name=name, rates=tuple(parts.items())) for name, parts in rates.items())
    sources = tuple(dataclasses.replace(source, max_epochs=0.0, overflow="") for source in data.sources)
    return dataclasses.replace(data, sources=sources, groups=(), mixtures=(*mixtures, *repeated))


class _Groups:
    def __init__(self, data: DataConfig):
        self._sources = {source.name: source for source in data.sources}
        self._groups = {group.name: group for group in data.groups}

    def check_sources(self, mixture: Mixture) -> None:
        """Raises UserError if a mixture with repeats names a group."""
        for name in mixture.names:
            if name in self._groups:
                raise UserError(
                    f"Mixture {mixture.name!r}: repeats count passes over a source, but {name!r} is a group."
                )

    def flat(self, rates) -> dict[str, float]:
        """((name, rate), ...) -> source -> rate."""
        found: dict[str, float] = {}
        for name, rate in rates:
            for source, share in self._members(name, ()).items():
                found[source] = found.get(source, 0.0) + rate * share
        return found

    def _members(self, name: str, path: tuple[str, ...]) -> dict[str, float]:
        """source -> share of the group; of a source, itself."""
        if name not in self._groups:
            return {name: 1.0}
        if name in path:
            raise UserError(
                f"Group {name!r} holds itself, by way of {', '.join(path[path.index(name) + 1 :]) or 'itself'}."
            )
        group, found = self._groups[name], {}
        parts = [self._members(member, (*path, name)) for member in group.sources]
        weights = self._weights(group, parts)
        for weight, part in zip(weights, parts):
            for source, share in part.items():
                found[source] = found.get(source, 0.0) + share * weight / sum(weights)
        return found

    def _weights(self, group: Group, parts: list[dict[str, float]]) -> list[float]:
        sizes = list(group.weights) if not isinstance(group.weights, str) else []
        for part in parts if isinstance(group.weights, str) else ():
            sizes.append(sum(self._size(group, name) for name in part))
        limit = group.maximum or max(sizes)
        return [min(size, limit) ** (1 / group.temperature) for size in sizes]

    def _size(self, group: Group, name: str) -> int:
        size = getattr(self._sources[name], str(group.weights))
        if not size:
            raise UserError(
                f"Group {group.name!r} weighs its sources by {group.weights}, but Source {name!r} has none: set "
                f"{name}/Source.{group.weights}, or give the group numbers as weights."
            )
        return size


def _cap(rates: dict[str, dict[str, float]], tree: _Groups, capped: list[Source], stages: tuple[Stage, ...]) -> None:
    """Moves rates in place until no source is read more often than it may be."""
    tokens = Schedule(stages).stage_tokens

    def read(source: Source) -> float:
        parts = ((stage, total, rates[stage.mixture]) for stage, total in zip(stages, tokens) if stage.mixture in rates)
        return sum(
            total * stage.window_tokens / stage.seq_len * part.get(source.name, 0.0) / sum(part.values())
            for stage, total, part in parts
        )

    moved: list[str] = []
    while True:
        over = [one for one in capped if read(one) > one.max_epochs * one.tokens * (1 + _ROUNDING)]
        if not over:
            return
        source, *_ = over
        if source.name in moved:
            raise UserError(
                f"Source {source.name!r}: what is above its max_epochs comes back to it by way of {', '.join(moved)}: let "
                "`overflow` name a source that has room."
            )
        moved.append(source.name)
        factor = source.max_epochs * source.tokens / read(source)
        for part in rates.values():
            if source.name in part:
                rest, part[source.name] = part[source.name] * (1 - factor), part[source.name] * factor
                for name, rate in tree.flat([(source.overflow, rest)]).items():
                    part[name] = part.get(name, 0.0) + rate
