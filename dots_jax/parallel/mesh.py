"""The device mesh and where things land on it.

Four axes: `data` (copies of the parameters), `fsdp` (shards of every parameter), `expert` (tokens meet their experts over it)
and `context` (pieces of every sequence). The batch is split over the first three, the tokens of a sequence over the last.
A parameter is split over all axes but `data`.
"""

from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dots_jax.config import MeshConfig, UserError

AXES = ("data", "fsdp", "expert", "context")
BATCH_AXES = ("data", "fsdp", "expert")
CONTEXT = "context"
SHARD = ("fsdp", "expert", "context")

# The rule table: the logical axis of a parameter -> the mesh axes that may split it. Each mesh axis goes to the first
# axis of the parameter that lists it and is a multiple of it: the leading one if it can, since whole rows are gathered
# without a change of layout. What divides nothing stays whole: small parameters of small models.
RULES: dict[str, tuple[str, ...]] = {
    "vocab": SHARD,
    "embed": SHARD,
    "ffn": SHARD,
    "expert": ("expert", "fsdp"),  # of experts to which tokens travel
    "expert_embed": ("fsdp", "context"),
    "expert_ffn": ("fsdp", "context"),
    "stored_expert": SHARD,  # of experts that travel to the tokens
    "heads": (),
    "head_dim": (),
    "router": (),
    "norm": (),
}


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of a resolved config over these devices (default: all), nearest neighbours along the last axes."""
    devices = jax.devices() if devices is None else devices
    shape = (config.data, config.fsdp, config.expert, config.context)
    # Auto, not Explicit (the default of jax.make_mesh): shard_map over some axes and the compiler's choice elsewhere.
    if len(devices) == config.size and devices[0].platform == "tpu":
        return Mesh(_over_slices(shape, devices), AXES, axis_types=(AxisType.Auto,) * 4)
    return Mesh(np.array(devices[: config.size]).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 4)


def _over_slices(shape: tuple[int, int, int, int], devices: list[jax.Device]) -> np.ndarray:
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
        parts.append(_over_cores(inner, own))
    return np.concatenate(parts, axis=axis)


def _over_cores(shape: list[int], devices: list[jax.Device]) -> np.ndarray:
    """The devices of one slice in the shape of a mesh.

    A TPU7x chip is two devices. They lie along `fsdp`, as its major part: what is gathered over it comes to a chip over the
    links once, one half to each device, and then from one half of the chip to the other, six times as fast.
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


def parameter_spec(logical: tuple[str, ...], shape: tuple[int, ...], axis_sizes: Mapping[str, int]) -> PartitionSpec:
    """The PartitionSpec of a parameter from the names of its axes, by the rule table. axis_sizes: `mesh.shape`.

    A stacked parameter has one axis more than names: the layer axis in front, which is never split.

    Raises:
      ValueError: an axis name without a rule.
    """
    names = ("layers",) * (len(shape) - len(logical)) + tuple(logical)
    entries, used = [], set()
    for name, size in zip(names, shape, strict=True):
        if name != "layers" and name not in RULES:
            raise ValueError(f"logical axis {name!r} has no rule in parallel.mesh.RULES")
        taken, parts = [], 1
        for axis in RULES.get(name, ()):
            if axis not in used and axis_sizes[axis] > 1 and size % (parts * axis_sizes[axis]) == 0:
                taken.append(axis)
                parts *= axis_sizes[axis]
        used |= set(taken)
        entries.append(tuple(taken) or None)
    return PartitionSpec(*entries)


_TILE_ROWS = 8  # of the last two axes of an array on a TPU

TOKENS = PartitionSpec(BATCH_AXES, CONTEXT)  # of [B, T, ...]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of the batch over three axes, their tokens over the fourth."""
    return NamedSharding(mesh, TOKENS)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


# --- inside shard_map -------------------------------------------------------------------------------------------------


def axis_sizes() -> dict[str, int]:
    """The mesh axes of the shard_map around the caller; empty outside of one."""
    mesh = jax.sharding.get_abstract_mesh()
    return dict(mesh.shape) if mesh.manual_axes else {}


def vary(x: jax.Array) -> jax.Array:
    """Marks x as varying over the whole mesh; the transpose sums its gradient over the axes where it was a copy."""
    missing = tuple(a for a in AXES if a not in jax.typeof(x).manual_axis_type.varying)
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def gather_parameter(w: jax.Array, spec: PartitionSpec, keep: str = "") -> jax.Array:
    """The whole of a parameter from this device's shard, but for the mesh axis `keep`, which stays split.

    One collective for each mesh axis: the TPU compiler has all-gathers for lines and planes of the torus, and would take
    an all-reduce, with twice the bytes, for a whole cube. The transpose is a reduce-scatter for each, and then a sum of
    what is left over the axes where the shard was a copy: never an all-reduce that is then cut.
    """
    w = vary(w)
    for dimension, axes in reversed(list(enumerate(spec))):
        axes = (axes,) if isinstance(axes, str) else axes or ()
        for axis in reversed(axes):  # the minor one first: each step after it moves whole blocks
            if axis != keep:
                w = _gather(w, axis, dimension)
    return w


def gather_at_once(w: jax.Array, spec: PartitionSpec) -> jax.Array:
    """`gather_parameter` in one collective over all mesh axes, which then takes all the links of a 2D torus.

    Where shards lie one behind the other in memory: along one dimension, or along several in a row if a shard has one row of
    each but the last. Any other parameter is gathered axis by axis.
    """
    split = [dimension for dimension, axes in enumerate(spec) if axes]
    first, last = (split[0], split[-1]) if split else (0, 0)
    if split != list(range(first, last + 1)) or any(w.shape[dimension] != 1 for dimension in split[:-1]):
        return gather_parameter(w, spec)
    names = [(spec[dimension],) if isinstance(spec[dimension], str) else spec[dimension] for dimension in split]
    whole = [jax.lax.axis_size(axes) * w.shape[dimension] for axes, dimension in zip(names, split)]
    shard = vary(w).reshape(*w.shape[:first], *w.shape[last:])
    stacked = jax.lax.all_gather(shard, sum(names, ()), axis=first)
    return stacked.reshape(*w.shape[:first], *whole, *w.shape[last + 1 :])


def _gather(w: jax.Array, axis: str, dimension: int) -> jax.Array:
    # A few rows that do not fill the tiles of a TPU are stacked on the way and joined then: the compiler would bring the
    # reduce-scatter of such rows about while nothing else runs. Many (the embedding) are not worth the copy.
    rows = w.shape[dimension]
    stacked = dimension == w.ndim - 2 and rows % _TILE_ROWS != 0 and rows < 16 * _TILE_ROWS
    gathered = jax.lax.all_gather(w, axis, axis=dimension, tiled=not stacked)
    return gathered.reshape(*w.shape[:dimension], -1, *w.shape[dimension + 1 :]) if stacked else gathered
