"""Train a model: python -m dots_jax.train --gin_file=gin/tiny.gin --workdir=runs/tiny

Started again with the same workdir it goes on from the newest checkpoint.
"""

from dots_jax import gin_cli
from dots_jax.config import TrainConfig

FLAGS = (gin_cli.MAX_STEPS, gin_cli.DRY_RUN, gin_cli.DISTRIBUTED, gin_cli.DEVICES, gin_cli.SUPERVISED)


def main(config: TrainConfig, options) -> int:
    from dots_jax.parallel.distributed import initialize, require_devices

    initialize(options.distributed)
    require_devices(options.devices)
    from dots_jax.training.loop import train
    from dots_jax.training.options import RunOptions

    return train(config, RunOptions.from_flags(options))


if __name__ == "__main__":
    gin_cli.run(TrainConfig, main, *FLAGS)
