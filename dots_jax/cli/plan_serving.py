"""Print what serving the model takes on one host of TPUs: memory, and bounds of tokens/s.

    dots plan serving --gin_file=gin/dots142b.gin

The table has rows for hosts of v5e, v6e and v5p.
"""

from dots_jax.cli.gin_config import load
from dots_jax.cli.options import GinOptions
from dots_jax.config import TrainConfig

OPTIONS = GinOptions


def main(options: GinOptions) -> int:
    config, _ = load(TrainConfig, options)
    from dots_jax.planning.serving_bounds import serving_table

    print(serving_table(config.model))
    return 0
