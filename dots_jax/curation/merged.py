"""What the units of a stage left, partition by partition."""

import json
from collections.abc import Iterator

from dots_jax.curation import streams
from dots_jax.curation.plan import Run, Stage
from dots_jax.curation.record import key_of


def merged(run: Run, stage: Stage, partition: int, stream: str) -> Iterator[tuple[int, bytes]]:
    """(key, line) of a partition, in order, from the sorted runs of all units."""
    runs = []
    for unit in range(stage.units):
        for name, slices in run.done(stage.name, unit)[stream]:
            runs.append((run.stem(stage.name, unit).with_name(name), streams.Slice(*slices[partition])))

    def key(line: bytes) -> int:
        row = json.loads(line)
        return key_of(run.config.seed, row if stream == "ids" else row["id"])

    return streams.merge(runs, key)


def records_of(run: Run, phase: int) -> Stage:
    """The stage whose documents the end of this phase looks at."""
    return next(each for each in run.stages() if (each.kind, each.phase) == ("records", phase))
