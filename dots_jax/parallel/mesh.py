"""The device mesh and where things land on it.

Three axes: `data` (copies of the parameters), `fsdp` (shards of every parameter), `expert` (shards of the experts).
The batch is split over all three. Everything that is not an expert uses fsdp and expert together as one larger fsdp axis.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dots_jax.config import MeshConfig, UserError

BATCH_AXES = ("data", "fsdp", "expert")

# The rule table: the logical axis of a parameter -> the mesh axes that split it.
RULES: dict[str, tuple[str, ...]] = {
    "embed": ("fsdp", "expert"),
    "expert": ("expert",),
    "expert_embed": ("fsdp",),
    "vocab": (),
    "ffn": (),
    "expert_ffn": (),
    "heads": (),
    "head_dim": (),
    "router": (),
}


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of a resolved config over these devices (default: all), nearest neighbours along the last axes."""
    devices = jax.devices() if devices is None else devices
    shape = (config.data, config.fsdp, config.expert)
    # Auto, not Explicit (the default of jax.make_mesh): shard_map over some axes and the compiler's choice elsewhere.
    if len(devices) == config.size and devices[0].platform == "tpu":
        return Mesh(_over_slices(shape, devices), BATCH_AXES, axis_types=(AxisType.Auto,) * 3)
    return Mesh(np.array(devices[: config.size]).reshape(shape), BATCH_AXES, axis_types=(AxisType.Auto,) * 3)


def _over_slices(shape: tuple[int, int, int], devices: list[jax.Device]) -> np.ndarray:
    """TPUs in the shape of a mesh. Slices, whose network is far slower, lie along `data`, or along `fsdp` if they must.

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
        parts.append(jax.make_mesh(inner, BATCH_AXES, devices=own, axis_types=(AxisType.Auto,) * 3).devices)
    return np.concatenate(parts, axis=axis)


def parameter_spec(logical: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The PartitionSpec of a parameter from the names of its axes.

    A stacked parameter has one axis more than names: the layer axis in front, which is never split. An axis that its
    mesh axes do not divide stays whole: small parameters of small models, where a copy costs nothing.

    Raises:
      ValueError: an axis name without a rule, or two axes of one parameter that claim the same mesh axis.
    """
    names = ("layers",) * (len(shape) - len(logical)) + tuple(logical)
    entries, used = [], []
    for name, size in zip(names, shape, strict=True):
        if name != "layers" and name not in RULES:
            raise ValueError(f"logical axis {name!r} has no rule in parallel.mesh.RULES")
        axes = RULES.get(name, ())
        parts = int(np.prod([mesh.shape[a] for a in axes]))
        axes = axes if size % parts == 0 else ()
        used += axes
        entries.append(axes or None)
    if len(set(used)) != len(used):
        raise ValueError(f"the axes {logical} of one parameter claim the same mesh axis twice: {used}")
    return PartitionSpec(*entries)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of the batch over all devices, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


# --- inside shard_map -------------------------------------------------------------------------------------------------


def vary(x: jax.Array) -> jax.Array:
    """Marks x as varying over the whole mesh; the transpose sums its gradient over the axes where it was a copy."""
    missing = tuple(a for a in BATCH_AXES if a not in jax.typeof(x).manual_axis_type.varying)
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def gather_parameter(w: jax.Array, spec: PartitionSpec, keep: str = "") -> jax.Array:
    """The whole of a parameter from this device's shard, but for the mesh axis `keep`, which stays split.

    The transpose is one reduce-scatter of the gradient: never an all-reduce that is then cut.
    """
    for dimension, axes in enumerate(spec):
        axes = (axes,) if isinstance(axes, str) else axes or ()
        axes = tuple(a for a in axes if a != keep and jax.lax.axis_size(a) > 1)
        w = jax.lax.all_gather(w, axes, axis=dimension, tiled=True) if axes else w
    return vary(w)
