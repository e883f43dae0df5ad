"""Compile the train step for a TPU pod and read it: memory, time of a step, where the time goes.

    dots plan pod --gin_file=gin/dots142b.gin --topology=v5p:8x8x8 --json=plan.json
    dots plan pod --gin_file=gin/dots142b.gin --topology=v5p:8x8x8 --search

Works on any Linux machine with libtpu (pip install -r requirements-tpu.txt), without a TPU.
Exit status 1: the step does not fit into memory.
"""

from dots_jax.cli.gin_config import load
from dots_jax.cli.options import PodOptions
from dots_jax.config import TrainConfig, UserError

OPTIONS = PodOptions


def main(options: PodOptions) -> int:
    if not options.topology:
        raise UserError("Missing --topology: say which TPU pod, as in --topology=v5p:8x8x8.")
    config, options = load(TrainConfig, options)
    from dots_jax.planning.command import plan_pod

    return plan_pod(config, options)
