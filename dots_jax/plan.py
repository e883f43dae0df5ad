"""Print what a run will do: python -m dots_jax.plan --gin_file=gin/tiny.gin

Stages, steps, batches, learning rates, and the share and epochs of each source; with --picture=FILE.png drawn as well.
"""

from dots_jax import gin_cli
from dots_jax.config import TrainConfig


def main(config: TrainConfig, options) -> int:
    from dots_jax.planning.schedule import plan

    print(plan(config, options.picture))
    return 0


if __name__ == "__main__":
    picture = gin_cli.Flag("picture", str, "draw the curriculum into this file: .png, .svg or .pdf")
    gin_cli.run(TrainConfig, main, picture, only_reads_config=True)
