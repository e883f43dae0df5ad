"""Read a compiled module from a file: where its time goes, by part, collective and operation.

    dots plan hlo plan.hlo --topology=v5p:4x4x8 --mesh=data=1,fsdp=16,expert=8

`dots plan pod` compiles and reads in one go; this is for a module that is already there.
"""

from dots_jax.cli.options import HloOptions
from dots_jax.config import UserError

OPTIONS = HloOptions


def main(options: HloOptions) -> int:
    for name, example in (("topology", "v5p:4x4x8"), ("mesh", "data=1,fsdp=16,expert=8")):
        if not getattr(options, name):
            raise UserError(f"Missing --{name}: it says where the module runs, as in --{name}={example}.")
    from dots_jax.hlo.kernel_cost import Expectation
    from dots_jax.hlo.parser import parse
    from dots_jax.hlo.tables import timeline_text
    from dots_jax.hlo.timeline import ScheduleSimulator
    from dots_jax.planning.pod import network_of_mesh_sizes

    sizes = _sizes(options.mesh)
    network = network_of_mesh_sizes(options.topology, options.slices, sizes)
    try:
        with open(options.file, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"{options.file} cannot be read: {reason}.") from None
    timeline = ScheduleSimulator(parse(text), network, Expectation(options.rows, options.buffer)).walk()
    print(timeline_text(timeline, network.chip, options.flops, options.top))
    return 0


def _sizes(mesh: str) -> tuple[tuple[str, int], ...]:
    pairs = [item.split("=") for item in mesh.split(",")]
    if not all(len(pair) == 2 and pair[1].isdecimal() for pair in pairs):
        raise UserError(f"--mesh must be axes and sizes, as in data=1,fsdp=16,expert=8, but is {mesh}.")
    return tuple((name, int(size)) for name, size in pairs)
