"""The devices of a TPU pod that is not there: named topologies, through the TPU runtime that is installed."""

import functools
import importlib.util
import os

from dots_jax.config import UserError
from dots_jax.hlo.interconnect import Interconnect
from dots_jax.parallel.topology import CHIPS, Chip

# The runtime asks the metadata server of a cloud machine otherwise, and takes a lock that one process can hold.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5p-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_LOG_DIR": "disabled", "TPU_MIN_LOG_LEVEL": "3",
}  # fmt: skip


def chip_of(topology: str) -> Chip:
    """Of a name as `v5p:4x4x8`."""
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise UserError(
            f"--topology={topology}: there is no chip {name}; known are {', '.join(CHIPS)}, as in v5p:4x4x8."
        )
    return CHIPS[name]


def prepare_runtime() -> None:
    """What must be said to the TPU runtime before anything loads it.

    Raises:
      UserError: libtpu is not installed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "--topology needs the TPU compiler, which any Linux machine can have: pip install -r requirements-tpu.txt."
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@functools.cache
def pod_devices(topology: str, slices: int = 1) -> list:
    """jax's devices of a named topology, on a machine that has none.

    Raises:
      UserError: the chip or the shape does not exist, or libtpu is not installed.
    """
    chip_of(topology)
    prepare_runtime()
    from jax.experimental import topologies

    arguments = {"num_slices": slices} if slices > 1 else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **arguments)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"--topology={topology}: the TPU runtime does not know it ({reason}).") from error
    return list(found.devices)


def network_of(mesh, chip: Chip) -> Interconnect:
    """Where the devices of a jax mesh are."""
    devices = list(mesh.devices.flat)
    places = tuple((getattr(d, "slice_index", 0) or 0, *d.coords, getattr(d, "core_on_chip", 0) or 0) for d in devices)
    return Interconnect(chip, tuple(zip(mesh.axis_names, mesh.devices.shape)), places)


def network_of_mesh_sizes(topology: str, slices: int, sizes: tuple[tuple[str, int], ...]) -> Interconnect:
    """The network of a mesh as `train` would lay it over the topology."""
    from dots_jax.config import MeshConfig
    from dots_jax.parallel.mesh import make_mesh

    return network_of(make_mesh(MeshConfig(**dict(sizes)), pod_devices(topology, slices)), chip_of(topology))
