"""Grouped matmul: rows sorted by expert, each expert's rows times that expert's own matrix.

Names: R rows = routed token copies sorted by expert, D input width, F output width, E experts;
B rows of one block on the CPU path.

The cost is that of the routed rows, about 2 sum(sizes) D F floating-point operations, on every backend.
`jax.lax.ragged_dot` keeps that promise on TPU and GPU; on CPU it multiplies every row with every expert,
so the CPU has a blocked implementation here. Which one runs is decided when the program is lowered for a platform
(a program lowered for a TPU from a CPU process gets the TPU one), never by asking which devices this process has.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np


def grouped_matmul(x_RD, w_EDF, sizes_E, *, transpose_w=False):
    """y[r] = x[r] @ w[e] for the expert e of row r: the first sizes_E[0] rows meet w[0], the next sizes_E[1] meet w[1], ...

    x_RD: [R, D], float32 or bfloat16, sorted by expert. Rows past sum(sizes_E) are unused: whatever they hold (NaN included)
        reaches nothing, their output and their gradient are zero.
    w_EDF: [E, D, F]; with `transpose_w` it is [E, F, D] and row r meets w[e].T.
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
        cpu=functools.partial(_matmul_blocked, transpose_w),
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
    return lax.platform_dependent(x_RD, dy_RF, sizes_E, cpu=_outer_blocked, default=_outer_ragged)


# --- the plain reference ----------------------------------------------------------------------------------------


def grouped_matmul_reference(x_RD, w_EDF, sizes_E, *, transpose_w=False):
    """The same as `grouped_matmul`, obviously: every row times every expert, one kept. Costs E times the work; for tests."""
    expert_RE = _expert_of_row(x_RD.shape[0], sizes_E)[:, None] == jnp.arange(w_EDF.shape[0])
    x_RD = jnp.where(expert_RE.any(1)[:, None], x_RD, 0)
    y_REF = jnp.einsum("rd,efd->ref" if transpose_w else "rd,edf->ref", x_RD.astype(jnp.float32), w_EDF.astype(jnp.float32))
    return jnp.where(expert_RE[:, :, None], y_REF, 0).sum(1).astype(x_RD.dtype)


def _expert_of_row(rows, sizes_E):
    """[R] int32: the expert of each row, E for the unused rows."""
    return jnp.searchsorted(jnp.cumsum(sizes_E), jnp.arange(rows), side="right").astype(jnp.int32)


# --- CPU --------------------------------------------------------------------------------------------------------


def _blocks(rows, sizes_E):
    """Cuts the rows of each expert into blocks of B. Returns B, the number of blocks, and what to look up for block i."""
    experts = sizes_E.shape[0]
    b = min(rows, max(16, -(-rows // experts // 16) * 16, 1))
    ends_E = jnp.cumsum(sizes_E)
    block_ends_E = jnp.cumsum((sizes_E + b - 1) // b)

    def block(i):
        e = jnp.searchsorted(block_ends_E, i, side="right").astype(jnp.int32)
        first = ends_E[e] - sizes_E[e] + (i - (block_ends_E[e] - (sizes_E[e] + b - 1) // b)) * b
        start = jnp.minimum(first, rows - b)  # a slice never passes the end
        row_B = start + jnp.arange(b)
        return e, start, ((row_B >= first) & (row_B < ends_E[e]))[:, None]

    return b, block_ends_E[-1], block


def _matmul_blocked(transpose_w, x_RD, w_EDF, sizes_E):
    b, count, block = _blocks(x_RD.shape[0], sizes_E)
    f = w_EDF.shape[1 if transpose_w else 2]

    def body(i, y_RF):
        e, start, mine_B1 = block(i)
        x_BD = lax.dynamic_slice_in_dim(x_RD, start, b)
        w_DF = lax.dynamic_index_in_dim(w_EDF, e, keepdims=False)
        contract = (((1,), (1 if transpose_w else 0,)), ((), ()))
        y_BF = lax.dot_general(x_BD, w_DF, contract, preferred_element_type=jnp.float32).astype(x_RD.dtype)
        y_BF = jnp.where(mine_B1, y_BF, lax.dynamic_slice_in_dim(y_RF, start, b))
        return lax.dynamic_update_slice_in_dim(y_RF, y_BF, start, 0)

    return lax.fori_loop(0, count, body, _varying_zeros((x_RD.shape[0], f), x_RD.dtype, x_RD))


def _outer_blocked(x_RD, dy_RF, sizes_E):
    b, count, block = _blocks(x_RD.shape[0], sizes_E)

    def body(i, dw_EDF):
        e, start, mine_B1 = block(i)
        x_BD = jnp.where(mine_B1, lax.dynamic_slice_in_dim(x_RD, start, b), 0)
        dy_BF = jnp.where(mine_B1, lax.dynamic_slice_in_dim(dy_RF, start, b), 0)
        dw_DF = lax.dot_general(x_BD, dy_BF, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
        dw_DF += lax.dynamic_index_in_dim(dw_EDF, e, keepdims=False)
        return lax.dynamic_update_index_in_dim(dw_EDF, dw_DF, e, 0)

    shape = (sizes_E.shape[0], x_RD.shape[1], dy_RF.shape[1])
    return lax.fori_loop(0, count, body, _varying_zeros(shape, jnp.float32, x_RD))


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
