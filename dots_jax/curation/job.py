"""The units of a run on Apache Beam, which is imported here alone. What a model scores goes through Beam's RunInference.

The output folder must be one folder for all workers.
"""

import functools
from collections.abc import Sequence

from dots_jax import beam
from dots_jax.curation import embedding, models, scoring
from dots_jax.curation.plan import Run, Stage
from dots_jax.curation.run import LABELS, ForEach
from dots_jax.curation.unit import run_unit

INFERENCE = {"score": scoring.Inference, "embed": embedding.Embedding}


def on_beam(flags: Sequence[str]) -> ForEach:
    """Raises UserError for flags that Beam does not know."""
    options = beam.pipeline_options(flags, "CurateConfig.beam")

    def for_each(run: Run, stage: Stage, units: Sequence[int]) -> None:
        done = lambda: stage.units - len(run.unfinished(stage))
        bar = beam.Bar(LABELS[stage.kind], "units", stage.units, done)
        if stage.kind in INFERENCE:
            handler = models.beam_handler(run.phases()[stage.phase].closing, run.config)
            beam.infer(options, units, INFERENCE[stage.kind](run, stage), handler, bar)
        else:
            beam.run(options, units, functools.partial(run_unit, run, stage), bar)

    return for_each
