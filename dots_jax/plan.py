"""Print what a run will do: python -m dots_jax.plan --gin_file=gin/tiny.gin

Stages, steps, batches, learning rates, and the share and epochs of each source; with --picture=FILE.png drawn as well.
With --inference: what serving the model takes, on a host of v5e, v6e and v5p.
"""

from dots_jax import gin_cli
from dots_jax.config import TrainConfig


def main(config: TrainConfig, options) -> int:
    if options.inference:
        from dots_jax.planning.inference import serving_table

        print(serving_table(config.model))
        return 0
    from dots_jax.planning.schedule import plan

    print(plan(config, options.picture))
    return 0


if __name__ == "__main__":
    picture = gin_cli.Flag("picture", str, "draw the curriculum into this file: .png, .svg or .pdf")
    inference = gin_cli.Flag("inference", bool, "what serving the model takes on TPU hosts: memory and tokens/s", False)
    gin_cli.run(TrainConfig, main, picture, inference, only_reads_config=True)
