"""Inside shard_map: which mesh axes there are, and a parameter gathered from its shards."""

import jax
from jax.sharding import PartitionSpec

from dots_jax.parallel.mesh import AXES

_TILE_ROWS = 8  # of the last two axes of an array on a TPU


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
