"""The units of a run on Apache Beam, which is imported here alone. The output folder must be one folder for all workers."""

import functools
from collections.abc import Sequence

from dots_jax import beam
from dots_jax.curation.plan import Run, Stage
from dots_jax.curation.run import LABELS, ForEach
from dots_jax.curation.unit import run_unit


def on_beam(flags: Sequence[str]) -> ForEach:
    """Raises UserError for flags that Beam does not know."""
    options = beam.pipeline_options(flags, "CurateConfig.beam")

    def for_each(run: Run, stage: Stage, units: Sequence[int]) -> None:
        done = lambda: stage.units - len(run.unfinished(stage))
        bar = beam.Bar(LABELS[stage.kind], "units", stage.units, done)
        beam.run(options, units, functools.partial(run_unit, run, stage), bar)

    return for_each
