"""Print what a run will do: python -m dots_jax.plan --gin_file=gin/tiny.gin

Stages, steps, batches, learning rates, and the share and epochs of each source; with --picture=FILE.png drawn as well.
With --inference: what serving the model takes, on a host of v5e, v6e and v5p.
With --topology=v5p:8x8x8 the train step is compiled for that TPU pod, on any Linux machine, and read: whether it fits into
memory, how long a step takes, where the time goes. Exit status 1: it does not fit.
"""

from dots_jax import gin_cli
from dots_jax.config import TrainConfig, UserError

FLAGS = (
    gin_cli.Flag(
        "picture", str, "draw the curriculum, or with --topology memory and time, into this file: .png, .svg, .pdf"
    ),
    gin_cli.Flag("inference", bool, "what serving the model takes on TPU hosts: memory and tokens/s", False),
    gin_cli.Flag("topology", str, "plan for this TPU pod: v5p:4x4x8, v6e:16x16, tpu7x:4x4x8, v5e:16x16, ..."),
    gin_cli.Flag("slices", int, "so many of that topology, over the data-centre network", 1),
    gin_cli.Flag("stage", str, "plan for this stage of the run; default: the first"),
    gin_cli.Flag("json", str, "write the forecast into this file, for scripts"),
    gin_cli.Flag("hlo", str, "write the optimised module into this file, so that anyone can check the estimate"),
    gin_cli.Flag("top", int, "name so many of the operations that take longest"),
    gin_cli.Flag(
        "search", bool, "try meshes, remat policies, microbatches and blocks within the chips; print the best", False
    ),
    gin_cli.Flag("max_trials", int, "compile so many of them at most", 6),
)


def main(config: TrainConfig, options) -> int:
    if options.inference:
        from dots_jax.planning.serving_bounds import serving_table

        print(serving_table(config.model))
        return 0
    if not options.topology:
        for name in ("search", "stage", "json", "hlo", "top"):
            if getattr(options, name):
                raise UserError(f"--{name} is about a compiled step: it needs --topology, as in --topology=v5p:8x8x8.")
        from dots_jax.curriculum.table import plan

        print(plan(config, options.picture))
        return 0
    from dots_jax.planning.command import plan_pod

    return plan_pod(config, options)


if __name__ == "__main__":
    gin_cli.run(TrainConfig, main, *FLAGS, only_reads_config=True)
