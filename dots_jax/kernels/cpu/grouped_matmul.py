"""Grouped matmul: rows sorted by expert, each expert's rows times that expert's own matrix.

Names: R rows = routed token copies sorted by expert, D input width, F output width, E experts;
on the CPU path also C rows of an expert's tile and B rows of a block.

The cost is that of the routed rows, about 2 sum(sizes) D F floating-point operations, on every backend.
`jax.lax.ragged_dot` keeps that promise on a TPU only; elsewhere it multiplies every row with every expert, so the CPU has
a blocked implementation here, and GPUs have kernels in `kernels/gpu`, as TPUs have in `kernels/tpu`. Which of those
here runs is decided when the program is lowered for a platform
(a program lowered for a TPU from a CPU process gets the TPU one), never by asking which devices this process has.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def grouped_matmul(x_RD, w_EDF, sizes_E, *, transpose_w=False):
    """y[r] = x[r] @ w[e] for the expert e of row r: the first sizes_E[0] rows take w[0], the next sizes_E[1] take w[1], ...

    x_RD: [R, D], float32 or bfloat16, sorted by expert. Rows past sum(sizes_E) are unused: whatever they hold (NaN included)
        reaches nothing, their output and their gradient are zero.
    w_EDF: [E, D, F]; with `transpose_w` it is [E, F, D] and row r is multiplied by w[e].T.
    sizes_E: [E] int32, may be traced, sum(sizes_E) <= R.
    Returns y_RF: [R, F] in x's dtype, accumulated in float32. Differentiable in x and w; dw is accumulated in float32 too
    and is zero for an expert without rows.
    """
    # Before the custom derivative, so that the transpose of this cast sums the gradient of an operand that shards share.
    x_RD, w_EDF, sizes_E = _same_varying(x_RD, w_EDF, sizes_E)
    return _grouped_matmul(transpose_w, x_RD, w_EDF, sizes_E)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _grouped_matmul(transpose_w, x_RD, w_EDF, sizes_E):
    return lax.platform_dependent(
        x_RD,
        w_EDF.astype(x_RD.dtype),
        sizes_E,
        cpu=functools.partial(_matmul_cpu, transpose_w),
        default=functools.partial(_matmul_ragged, transpose_w),
    )


def _grouped_matmul_fwd(transpose_w, x_RD, w_EDF, sizes_E):
    return _grouped_matmul(transpose_w, x_RD, w_EDF, sizes_E), (x_RD, w_EDF, sizes_E)


def _grouped_matmul_bwd(transpose_w, saved, dy_RF):
    x_RD, w_EDF, sizes_E = saved
    dx_RD = _grouped_matmul(not transpose_w, dy_RF, w_EDF, sizes_E)
    dw_EDF = grouped_outer(dy_RF, x_RD, sizes_E) if transpose_w else grouped_outer(x_RD, dy_RF, sizes_E)
    return dx_RD.astype(x_RD.dtype), dw_EDF.astype(w_EDF.dtype), np.zeros(sizes_E.shape, jax.dtypes.float0)


_grouped_matmul.defvjp(_grouped_matmul_fwd, _grouped_matmul_bwd)


def grouped_outer(x_RD, dy_RF, sizes_E):
    """dw[e] = x[rows of e].T @ dy[rows of e]: [E, D, F] float32, zero for an expert without rows. Not differentiable itself."""
    x_RD, dy_RF, sizes_E = _same_varying(x_RD, dy_RF, sizes_E)
    return lax.platform_dependent(x_RD, dy_RF, sizes_E, cpu=_outer_cpu, default=_outer_ragged)


# --- CPU --------------------------------------------------------------------------------------------------------
#
# Two parts. The first C rows of every expert fill a tile, and all tiles are one batched matmul: no copy of the weights,
# every core busy. Rows beyond C are worked off in a loop over blocks of B rows, each meeting one expert's weights.
# C is chosen while running from the few heights that were compiled, so the work follows the load: balanced experts leave
# few blocks, one expert with every row is all blocks, an almost empty buffer takes small tiles or none.
#
# Tiles cost a pass over the rows on the way in and one on the way out, about a fifth of the matmul. Blocks alone copy an
# expert's weights for every block, and a small matmul runs on one core: 1.0 (forward, narrow D) to 1.7 times (dw) the
# time on two cores, for 192 rows an expert give or take a quarter. On a single core the two are about even.

_BLOCK_ROWS = 64
# Tile heights in multiples of R / E: the first leaves a balanced load few blocks; the second is for a buffer with room to
# spare, as under expert parallelism; no tiles, for very uneven loads. Each one adds about 0.1 s of compilation.
_TILE_HEIGHTS = (1.125, 0.375, 0.0)
# Measured, in rows' worth of multiplying: reading one expert's weights; one complete block with its copies.
_WEIGHTS_COST, _BLOCK_COST = 16, 96


def _choose_tiles(rows, sizes_E):
    """The tile heights to compile (static), and the index (traced) of the cheapest for this load."""
    experts = sizes_E.shape[0]
    heights = sorted({min(rows, math.ceil(rows / experts * f / 8) * 8) for f in _TILE_HEIGHTS}, reverse=True)
    cost = lambda c: (experts * (c + _WEIGHTS_COST) if c else 0) + _BLOCK_COST * _blocks(rows, c, sizes_E)[0]
    return heights, jnp.argmin(jnp.stack([cost(c) for c in heights]))


def _blocks(rows, c, sizes_E):
    """Cuts the rows that tiles of height c leave over into blocks of B rows. Returns their number and, for block i,
    a function that gives its expert, the row it starts at, and which of its rows are its own ([B, 1]): a block at the end
    of an expert, or moved back to end at the last row, reaches into rows that are not."""
    b = min(rows, _BLOCK_ROWS)
    count_E = (jnp.maximum(sizes_E - c, 0) + b - 1) // b
    block_ends_E, row_ends_E = jnp.cumsum(count_E), jnp.cumsum(sizes_E)
    first_row_E = row_ends_E - sizes_E + c - b * (block_ends_E - count_E)

    def block(i):
        e = jnp.sum(block_ends_E <= i, dtype=jnp.int32)
        first = first_row_E[e] + i * b
        start = jnp.minimum(first, rows - b)
        row_B = start + jnp.arange(b)
        return e, start, ((row_B >= first) & (row_B < row_ends_E[e]))[:, None]

    return block_ends_E[-1], block


def _tile_rows(c, sizes_E):
    """[E, C]: the row in each place of the tiles, and whether it is the expert's own (or else another's, or out of range)."""
    rank_C = jnp.arange(c)
    return (jnp.cumsum(sizes_E) - sizes_E)[:, None] + rank_C, rank_C < sizes_E[:, None]


def _matmul_cpu(transpose_w, x_RD, w_EDF, sizes_E):
    rows = x_RD.shape[0]
    heights, choice = _choose_tiles(rows, sizes_E)
    tiles = [functools.partial(_matmul_tiles, c, transpose_w) for c in heights]
    y_RF = lax.switch(choice, tiles, x_RD, w_EDF, sizes_E)
    count, block = _blocks(rows, jnp.array(heights, jnp.int32)[choice], sizes_E)
    contract = (((1,), (1 if transpose_w else 0,)), ((), ()))

    def body(i, y_RF):
        e, start, own_B1 = block(i)
        x_BD = lax.dynamic_slice_in_dim(x_RD, start, own_B1.shape[0])
        w_DF = lax.dynamic_index_in_dim(w_EDF, e, keepdims=False)
        y_BF = lax.dot_general(x_BD, w_DF, contract, preferred_element_type=jnp.float32).astype(x_RD.dtype)
        y_BF = jnp.where(own_B1, y_BF, lax.dynamic_slice_in_dim(y_RF, start, own_B1.shape[0]))
        return lax.dynamic_update_slice_in_dim(y_RF, y_BF, start, 0)

    return lax.fori_loop(0, count, body, y_RF)


def _matmul_tiles(c, transpose_w, x_RD, w_EDF, sizes_E):
    """[R, F]: right for the first c rows of each expert, zero for unused rows, anything for the rows left to blocks."""
    f = w_EDF.shape[1 if transpose_w else 2]
    if c == 0:
        return _varying_zeros((x_RD.shape[0], f), x_RD.dtype, x_RD)
    # A place that is not the expert's own holds a row that is multiplied by the wrong weights; nothing reads its result.
    row_EC, _ = _tile_rows(c, sizes_E)
    contract = (((2,), (2 if transpose_w else 1,)), ((0,), (0,)))
    x_ECD = x_RD.at[row_EC].get(mode="clip")
    y_ECF = lax.dot_general(x_ECD, w_EDF, contract, preferred_element_type=jnp.float32).astype(x_RD.dtype)
    # Row r of expert e stands at e c + (r - start of e): r, plus c - size for every expert before e.
    row_R, ends_E = jnp.arange(x_RD.shape[0]), jnp.cumsum(sizes_E)
    place_R = row_R + jnp.sum(jnp.where(row_R[:, None] >= ends_E, c - sizes_E, 0), axis=1)
    y_RF = y_ECF.reshape(-1, f).at[place_R].get(mode="clip")
    return jnp.where((row_R < ends_E[-1])[:, None], y_RF, 0)


def _outer_cpu(x_RD, dy_RF, sizes_E):
    rows = x_RD.shape[0]
    heights, choice = _choose_tiles(rows, sizes_E)
    dw_EDF = lax.switch(choice, [functools.partial(_outer_tiles, c) for c in heights], x_RD, dy_RF, sizes_E)
    count, block = _blocks(rows, jnp.array(heights, jnp.int32)[choice], sizes_E)

    def body(i, dw_EDF):
        e, start, own_B1 = block(i)
        # Both are masked: zero times the NaN of an unused row would be NaN.
        x_BD = jnp.where(own_B1, lax.dynamic_slice_in_dim(x_RD, start, own_B1.shape[0]), 0)
        dy_BF = jnp.where(own_B1, lax.dynamic_slice_in_dim(dy_RF, start, own_B1.shape[0]), 0)
        dw_DF = lax.dot_general(x_BD, dy_BF, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
        dw_DF += lax.dynamic_index_in_dim(dw_EDF, e, keepdims=False)
        return lax.dynamic_update_index_in_dim(dw_EDF, dw_DF, e, 0)

    return lax.fori_loop(0, count, body, dw_EDF)


def _outer_tiles(c, x_RD, dy_RF, sizes_E):
    """[E, D, F] float32: what the first c rows of each expert add."""
    if c == 0:
        return _varying_zeros((sizes_E.shape[0], x_RD.shape[1], dy_RF.shape[1]), jnp.float32, x_RD)
    row_EC, own_EC = _tile_rows(c, sizes_E)
    x_ECD = jnp.where(own_EC[:, :, None], x_RD.at[row_EC].get(mode="clip"), 0)
    dy_ECF = jnp.where(own_EC[:, :, None], dy_RF.at[row_EC].get(mode="clip"), 0)
    return lax.dot_general(x_ECD, dy_ECF, (((1,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float32)


# --- TPU, GPU ---------------------------------------------------------------------------------------------------


def _used_rows(x_RD, sizes_E):
    """x with zeros in the unused rows: what they hold is anyone's guess, and NaN times zero is NaN."""
    return jnp.where((jnp.arange(x_RD.shape[0]) < sizes_E.sum())[:, None], x_RD, 0)


def _matmul_ragged(transpose_w, x_RD, w_EDF, sizes_E):
    dims = lax.RaggedDotDimensionNumbers((((1,), (2 if transpose_w else 1,)), ((), ())), [0], [0])
    y_RF = lax.ragged_dot_general(_used_rows(x_RD, sizes_E), w_EDF, sizes_E, dims, preferred_element_type=jnp.float32)
    return _used_rows(y_RF, sizes_E).astype(x_RD.dtype)


def _outer_ragged(x_RD, dy_RF, sizes_E):
    dims = lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), [0], [])
    x_RD, dy_RF = _used_rows(x_RD, sizes_E), _used_rows(dy_RF, sizes_E)
    return lax.ragged_dot_general(x_RD, dy_RF, sizes_E, dims, preferred_element_type=jnp.float32)


# --- shard_map's varying types ----------------------------------------------------------------------------------


def _same_varying(*operands):
    """The operands, each cast to vary over every mesh axis that any of them varies over; outside shard_map, as they are."""
    axes = frozenset().union(*(jax.typeof(a).mat.varying for a in operands))
    return tuple(_to_varying(a, axes) for a in operands)


def _to_varying(a, axes):
    missing = tuple(sorted(axes - jax.typeof(a).mat.varying))
    return lax.pcast(a, missing, to="varying") if missing else a


def _varying_zeros(shape, dtype, like):
    """Zeros that vary as `like` does: a loop's carry must have one type before and after its body."""
    return _to_varying(jnp.zeros(shape, dtype), jax.typeof(like).mat.varying)
