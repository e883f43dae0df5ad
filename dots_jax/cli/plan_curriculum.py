"""Print the curriculum of a run: stages, steps, batches, learning rates.

    dots plan curriculum --gin_file=gin/dots142b.gin --picture=plan.png

The table ends with the share of each source in each stage, and how often each source is read.
"""

from dots_jax.cli.gin_config import load
from dots_jax.cli.options import CurriculumOptions, PlanOptions
from dots_jax.config import TrainConfig

OPTIONS = CurriculumOptions


def main(options: CurriculumOptions | PlanOptions) -> int:
    config, options = load(TrainConfig, options)
    from dots_jax.curriculum.table import plan

    print(plan(config, options.picture))
    return 0
