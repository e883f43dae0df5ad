"""The units of a run on Apache Beam, which is imported here alone. What a model scores goes through Beam's RunInference.

The output folder must be one folder for all workers.
"""

import functools
from collections.abc import Sequence

from dots_jax import beam
from dots_jax.curation import models, scoring
from dots_jax.curation.plan import Run, Stage
from dots_jax.curation.run import LABELS, ForEach
from dots_jax.curation.unit import run_unit


def on_beam(flags: Sequence[str]) -> ForEach:
    """Raises UserError for flags that Beam does not know."""
    options = beam.pipeline_options(flags, "CurateConfig.beam")

    def for_each(run: Run, stage: Stage, units: Sequence[int]) -> None:
        done = lambda: stage.units - len(run.unfinished(stage))
        bar = beam.Bar(LABELS[stage.kind], "units", stage.units, done)
        if stage.kind == "score":
            handler = models.beam_handler(scoring.step_of(run, stage), run.config)
            beam.infer(options, units, scoring.Inference(run, stage), handler, bar)
        else:
            beam.run(options, units, functools.partial(run_unit, run, stage), bar)

    return for_each
