"""Print what a run will do: its curriculum, or with --topology its memory and time on a TPU pod.

    dots plan curriculum --gin_file=gin/tiny.gin --picture=plan.png
    dots plan pod        --gin_file=gin/dots142b.gin --topology=v5p:8x8x8
    dots plan serving    --gin_file=gin/dots142b.gin
    dots plan hlo        plan.hlo --topology=v5p:4x4x8 --mesh=data=1,fsdp=16,expert=8

Without one of these words the flags decide: --topology means pod, --inference serving, neither of
them curriculum. Exit status 1: the step does not fit into the pod's memory.
"""

from dots_jax.cli import plan_curriculum, plan_pod, plan_serving
from dots_jax.cli.options import PlanOptions
from dots_jax.config import UserError

OPTIONS = PlanOptions


def main(options: PlanOptions) -> int:
    if options.inference:
        return plan_serving.main(options)
    if options.topology:
        return plan_pod.main(options)
    for name in ("search", "stage", "json", "hlo", "read", "top", "calibrate"):
        if getattr(options, name):
            raise UserError(f"--{name} is about a compiled step: it needs --topology, as in --topology=v5p:8x8x8.")
    return plan_curriculum.main(options)
