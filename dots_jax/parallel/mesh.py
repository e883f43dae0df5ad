"""The device mesh: which device stands where.

Four axes: `data` (copies of the parameters), `fsdp` (shards of every parameter), `expert` (tokens or experts' weights are
exchanged over it) and `context` (pieces of every sequence). The batch is split over the first three, the tokens of a sequence
over the last. A parameter is split over all axes but `data`.
"""

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from dots_jax.config import MeshConfig, UserError

AXES = ("data", "fsdp", "expert", "context")
BATCH_AXES = ("data", "fsdp", "expert")
CONTEXT = "context"


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of a resolved config over these devices (default: all); neighbours on the torus are neighbours along the last axes."""
    devices = jax.devices() if devices is None else devices
    shape = (config.data, config.fsdp, config.expert, config.context)
    # Auto, not Explicit (the default of jax.make_mesh): shard_map over some axes and the compiler's choice elsewhere.
    if len(devices) == config.size and devices[0].platform == "tpu":
        return Mesh(_over_slices(shape, devices), AXES, axis_types=(AxisType.Auto,) * 4)
    return Mesh(np.array(devices[: config.size]).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 4)


def _over_slices(shape: tuple[int, int, int, int], devices: list[jax.Device]) -> np.ndarray:
    """TPUs in the shape of a mesh. Slices, whose network is far slower, are placed along `data`, else along `fsdp`.

    Raises:
      UserError: neither axis is a multiple of the slices.
    """
    slices = sorted({getattr(device, "slice_index", 0) or 0 for device in devices})
    axis = next((axis for axis in (0, 1) if shape[axis] % len(slices) == 0), None)
    if axis is None:
        raise UserError(
            f"There are {len(slices)} slices, but MeshConfig.data = {shape[0]} and MeshConfig.fsdp = {shape[1]}: make one of "
            "them a multiple, best MeshConfig.data."
        )
    inner = [size // len(slices) if i == axis else size for i, size in enumerate(shape)]
    parts = []
    for index in slices:
        own = [device for device in devices if (getattr(device, "slice_index", 0) or 0) == index]
        parts.append(_over_cores(inner, own))
    return np.concatenate(parts, axis=axis)


def _over_cores(shape: list[int], devices: list[jax.Device]) -> np.ndarray:
    """The devices of one slice in the shape of a mesh.

    A TPU7x chip is two devices. They are placed along `fsdp`, as its major part: what is gathered over it reaches a chip over
    the links once, one half to each device, and then goes from one half of the chip to the other, six times as fast.
    """
    cores = sorted({getattr(device, "core_on_chip", 0) for device in devices})
    if len(cores) > 1 and shape[1] % len(cores) == 0:
        places = {(device.core_on_chip, *device.coords): device for device in devices}
        chips = [device for device in devices if device.core_on_chip == cores[0]]
        one = _over_cores([size // len(cores) if i == 1 else size for i, size in enumerate(shape)], chips)
        parts = [[places[core, *device.coords] for device in one.flat] for core in cores]
        return np.concatenate([np.array(part, object).reshape(one.shape) for part in parts], axis=1)
    # An axis of the torus may hold two of the mesh's: 16 chips in a row as expert 4 and a quarter of fsdp 64.
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
