"""Train a model; started again with the same workdir, go on from the newest checkpoint.

    dots train --gin_file=gin/tiny.gin --workdir=runs/tiny
    dots train --gin_file=gin/tiny.gin --dry_run

--devices catches a silent CPU fallback or a missing host.
"""

from dots_jax.cli.execute import load_tensorflow
from dots_jax.cli.gin_config import load
from dots_jax.cli.options import RunOptions
from dots_jax.config import TrainConfig, UserError

OPTIONS = RunOptions


def main(options: RunOptions) -> int:
    if not options.workdir and not options.dry_run:
        raise UserError("Missing --workdir: say where the run lives, as in --workdir=runs/tiny.")
    config, options = load(TrainConfig, options)
    load_tensorflow(options.debug)
    from dots_jax.parallel.distributed import initialize, require_devices

    initialize(options.distributed)
    require_devices(options.devices)
    from dots_jax.training.loop import train

    return train(config, options)
