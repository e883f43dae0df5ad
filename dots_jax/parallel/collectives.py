"""Collectives of the code inside shard_map. Outside of one, each function is what it is for a single device.

`unshard` is the one door through which layers read their weights.
"""

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from dots_jax.parallel.mesh import AXES
from dots_jax.parallel.sharding import parameter_spec

_TILE_ROWS = 8  # of the last two axes of an array on a TPU


def axis_sizes() -> dict[str, int]:
    """The mesh axes of the shard_map around the caller; empty outside of one."""
    mesh = jax.sharding.get_abstract_mesh()
    return dict(mesh.shape) if mesh.manual_axes else {}


def pvary(x: jax.Array) -> jax.Array:
    """Marks x as varying over all mesh axes; the transpose sums its gradient over the axes where it was a copy."""
    missing = tuple(a for a in AXES if a not in jax.typeof(x).manual_axis_type.varying)
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def psum(tree, axes: str | tuple[str, ...]):
    """The sum over the devices along these mesh axes, and outside of shard_map the tree itself."""
    return jax.lax.psum(tree, axes) if axis_sizes() else tree


# --- a parameter from its shards --------------------------------------------------------------------------------------


def unshard(param, keep: str = "", *, fused: bool = False) -> jax.Array:
    """The parameter in its compute dtype, gathered from all its shards but for the mesh axis `keep`, along which it stays split.

    param: an array with a `Declaration` (model/parameters.py). Cast before the gather: half the bytes on the links in
    bfloat16. Its gradient is scattered back in that dtype. fused: in one collective over all mesh axes, not one for each.
    """
    return unshard_fn(param, keep, fused=fused)(param[...])


def unshard_fn(param, keep: str = "", *, fused: bool = False) -> Callable[[jax.Array], jax.Array]:
    """`unshard` of this parameter, as a function of its array, for code that differentiates it by itself."""
    declared, sizes = param.get_metadata("declared"), axis_sizes()
    if not sizes:
        return lambda w: w.astype(declared.compute_dtype)
    spec = parameter_spec(declared.logical, declared.shape, sizes)
    if fused:
        return lambda w: gather_parameter_fused(w.astype(declared.compute_dtype), spec)
    return lambda w: gather_parameter(w.astype(declared.compute_dtype), spec, keep)


def gather_parameter(w: jax.Array, spec: PartitionSpec, keep: str = "") -> jax.Array:
    """The unsharded parameter from this device's shard, but for the mesh axis `keep`, along which it stays split.

    One collective for each mesh axis: the TPU compiler has all-gathers for lines and planes of the torus, and would run
    an all-reduce, with twice the bytes, for a cube. The transpose is a reduce-scatter for each, and then a sum over the
    axes where the shard was a copy: never an all-reduce whose result is then cut.
    """
    w = pvary(w)
    for dimension, axes in reversed(list(enumerate(spec))):
        axes = (axes,) if isinstance(axes, str) else axes or ()
        for axis in reversed(axes):  # the minor one first: each step after it moves complete blocks
            if axis != keep:
                w = _gather(w, axis, dimension)
    return w


def gather_parameter_fused(w: jax.Array, spec: PartitionSpec) -> jax.Array:
    """`gather_parameter` in one collective over all mesh axes, which then uses all the links of a 2D torus.

    Possible where the shards, in the order of the devices, follow each other in the memory of the parameter. Three matrices
    and the shards a to d of four devices:

        a a a a       a a b b       a a b b
        b b b b       c c d d       a a b b
        c c c c                     c c d d
        d d d d                     c c d d
        possible      possible      not: a, b, a, b, ... in memory

    So: split along one dimension, or along several neighbouring ones if a shard has one entry of each but the last. Any other
    parameter is gathered axis by axis.
    """
    split = [dimension for dimension, axes in enumerate(spec) if axes]
    first, last = (split[0], split[-1]) if split else (0, 0)
    if split != list(range(first, last + 1)) or any(w.shape[dimension] != 1 for dimension in split[:-1]):
        return gather_parameter(w, spec)
    names = [(spec[dimension],) if isinstance(spec[dimension], str) else spec[dimension] for dimension in split]
    unsharded = [jax.lax.axis_size(axes) * w.shape[dimension] for axes, dimension in zip(names, split)]
    shard = pvary(w).reshape(*w.shape[:first], *w.shape[last:])
    stacked = jax.lax.all_gather(shard, sum(names, ()), axis=first)
    return stacked.reshape(*w.shape[:first], *unsharded, *w.shape[last + 1 :])


def _gather(w: jax.Array, axis: str, dimension: int) -> jax.Array:
    # A few rows that do not fill the tiles of a TPU are gathered as a stack and joined then: the compiler would run the
    # reduce-scatter of such rows while nothing else runs. Many rows (the embedding) are not worth the copy.
    rows = w.shape[dimension]
    stacked = dimension == w.ndim - 2 and rows % _TILE_ROWS != 0 and rows < 16 * _TILE_ROWS
    gathered = jax.lax.all_gather(w, axis, axis=dimension, tiled=not stacked)
    return gathered.reshape(*w.shape[:dimension], -1, *w.shape[dimension + 1 :]) if stacked else gathered
