"""Reads a compiled module from a file: python -m dots_jax.planning FILE --topology=v5p:4x4x8 --mesh=data=1,fsdp=16,expert=8

Where its time goes: parts, collectives and the largest operations. `python -m dots_jax.plan --topology=...` compiles and
reads in one go; this is for a module that is already there.
"""

import argparse

from dots_jax.hlo.kernel_cost import Expectation
from dots_jax.hlo.parser import parse
from dots_jax.hlo.tables import timeline_text
from dots_jax.hlo.timeline import ScheduleSimulator


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dots_jax.planning", description=__doc__.split("\n")[0])
    parser.add_argument("file", help="text of an optimised module, as --hlo and compiled.as_text() write it")
    parser.add_argument("--topology", required=True, help="as in v5p:4x4x8")
    parser.add_argument("--mesh", required=True, help="axes and sizes in order, as in data=1,fsdp=16,expert=8")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--rows", type=float, default=0, help="rows of experts expected on a device: tokens x choices")
    parser.add_argument(
        "--buffer", type=float, default=1.25, help="ComputeConfig.expert_capacity_factor: room over those rows"
    )
    parser.add_argument("--flops", type=float, default=0, help="model FLOPs of a device's step, for the MFU")
    parser.add_argument("--top", type=int, default=30, help="number of the largest operations to print")
    options = parser.parse_args()

    from dots_jax.planning.pod import network_of_mesh_sizes

    sizes = tuple((name, int(size)) for name, size in (item.split("=") for item in options.mesh.split(",")))
    network = network_of_mesh_sizes(options.topology, options.slices, sizes)
    with open(options.file, encoding="utf-8") as file:
        module = parse(file.read())
    timeline = ScheduleSimulator(module, network, Expectation(options.rows, options.buffer)).walk()
    print(timeline_text(timeline, network.chip, options.flops, options.top))


if __name__ == "__main__":
    main()
