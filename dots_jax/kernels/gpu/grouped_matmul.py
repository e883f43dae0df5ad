"""Grouped matmul on GPUs, in Pallas' Triton dialect. Shape suffixes as in `model/layers.py`.

XLA multiplies every row with every expert for `ragged_dot` on a GPU (jax 0.10 to 0.12): 128 times the work of dots.llm1's
experts. Hence kernels of our own, small ones: a program for each tile of an expert's rows and of the columns.
jax 0.12 still runs Pallas' Triton dialect, and announces its end; Mosaic is to take its place, on Hopper and later only.
`interpret` runs them on a CPU, for the tests that compare them with their references.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

# Tiles of rows, of columns and of the contracted axis: the usual ones of Triton's matmuls for 16-bit operands.
ROWS, COLUMNS, DEPTH = 128, 128, 64
PARAMS = plgpu.CompilerParams(num_warps=8, num_stages=3)


def _tiles(sizes_E: jax.Array, rows: int, tile: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """For each tile of rows its expert, its first row and the end of the expert's rows; where there are fewer tiles than
    room for them, the rest is empty: first row = end."""
    ends_E = jnp.cumsum(sizes_E)
    ends_of_tiles_E = jnp.cumsum(-(-sizes_E // tile))
    count = -(-rows // tile) + sizes_E.shape[0]
    index_P = jnp.arange(count, dtype=jnp.int32)  # P: programs
    expert_P = jnp.minimum(jnp.searchsorted(ends_of_tiles_E, index_P, side="right"), sizes_E.shape[0] - 1)
    end_P = ends_E[expert_P]
    before_P = ends_of_tiles_E[expert_P] - -(-sizes_E[expert_P] // tile)
    first_P = end_P - sizes_E[expert_P] + (index_P - before_P) * tile
    return expert_P.astype(jnp.int32), jnp.minimum(first_P, end_P).astype(jnp.int32), end_P.astype(jnp.int32)


def _dot(a, b):
    """Summed in float32; float32 operands are not rounded to TF32."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.dot(a, b, precision=precision, preferred_element_type=jnp.float32)


def _matmul_kernel(
    expert_P, first_P, end_P, x_RD, w_EDF, y_RF, *, depth: int, size: tuple[int, int], transpose_w: bool
):
    """One tile: `rows` rows of one expert times `columns` columns of its matrix."""
    rows, columns = size
    p, column, D, F = pl.program_id(0), pl.program_id(1), x_RD.shape[1], y_RF.shape[1]
    expert, first, end = expert_P[p], first_P[p], end_P[p]

    @pl.when(first < end)
    def _():
        row_R = first + jnp.arange(rows)
        column_F = column * columns + jnp.arange(columns)
        own_R, real_F = row_R < end, column_F < F

        def body(i, y_RF):
            depth_D = i * depth + jnp.arange(depth)
            real_D = depth_D < D
            x = plgpu.load(x_RD.at[row_R[:, None], depth_D[None]], mask=own_R[:, None] & real_D[None], other=0.0)
            if transpose_w:
                w = plgpu.load(
                    w_EDF.at[expert, column_F[:, None], depth_D[None]], mask=real_F[:, None] & real_D[None], other=0.0
                ).T
            else:
                w = plgpu.load(
                    w_EDF.at[expert, depth_D[:, None], column_F[None]], mask=real_D[:, None] & real_F[None], other=0.0
                )
            return y_RF + _dot(x, w)

        y = jax.lax.fori_loop(0, -(-D // depth), body, jnp.zeros((rows, columns), jnp.float32))
        plgpu.store(y_RF.at[row_R[:, None], column_F[None]], y.astype(y_RF.dtype), mask=own_R[:, None] & real_F[None])


def _outer_kernel(starts_E, ends_E, x_RD, dy_RF, dw_EDF, *, depth: int, size: tuple[int, int]):
    """One tile of one expert's gradient: a sum over the expert's rows."""
    height, columns = size
    expert, D, F = pl.program_id(0), x_RD.shape[1], dy_RF.shape[1]
    start, end = starts_E[expert], ends_E[expert]
    d_D = pl.program_id(1) * height + jnp.arange(height)
    f_F = pl.program_id(2) * columns + jnp.arange(columns)
    real_D, real_F = d_D < D, f_F < F

    def body(i, dw_DF):
        row_R = start + i * depth + jnp.arange(depth)
        own_R = row_R < end
        x = plgpu.load(x_RD.at[row_R[:, None], d_D[None]], mask=own_R[:, None] & real_D[None], other=0.0)
        dy = plgpu.load(dy_RF.at[row_R[:, None], f_F[None]], mask=own_R[:, None] & real_F[None], other=0.0)
        return dw_DF + _dot(x.T, dy)

    dw = jax.lax.fori_loop(0, (end - start + depth - 1) // depth, body, jnp.zeros((height, columns), jnp.float32))
    plgpu.store(
        dw_EDF.at[expert, d_D[:, None], f_F[None]], dw.astype(dw_EDF.dtype), mask=real_D[:, None] & real_F[None]
    )


def _tile_sizes(rows: int, columns: int, contracted: int) -> tuple[int, int, int]:
    """Triton's tiles are powers of two, and 16 at least."""
    fit = lambda most, n: min(most, max(16, pl.next_power_of_2(n)))
    return fit(ROWS, rows), fit(COLUMNS, columns), fit(DEPTH, contracted)


def _matmul(x_RD, w_EDF, sizes_E, transpose_w: bool, interpret: bool):
    R, D = x_RD.shape
    F = w_EDF.shape[1 if transpose_w else 2]
    rows, columns, depth = _tile_sizes(R, F, D)
    tiles = _tiles(sizes_E, R, rows)
    return pl.pallas_call(
        functools.partial(_matmul_kernel, depth=depth, size=(rows, columns), transpose_w=transpose_w),
        out_shape=jax.ShapeDtypeStruct((R, F), x_RD.dtype),
        grid=(tiles[0].shape[0], -(-F // columns)),
        compiler_params=PARAMS, interpret=interpret, name="grouped_matmul",
    )(*tiles, x_RD, w_EDF)  # fmt: skip


def _outer(x_RD, dy_RF, sizes_E, dtype, interpret: bool):
    D, F, ends_E = x_RD.shape[1], dy_RF.shape[1], jnp.cumsum(sizes_E)
    height, columns, depth = _tile_sizes(D, F, x_RD.shape[0])
    return pl.pallas_call(
        functools.partial(_outer_kernel, depth=depth, size=(height, columns)),
        out_shape=jax.ShapeDtypeStruct((sizes_E.shape[0], D, F), dtype),
        grid=(sizes_E.shape[0], -(-D // height), -(-F // columns)),
        compiler_params=PARAMS, interpret=interpret, name="grouped_outer",
    )(ends_E - sizes_E, ends_E, x_RD, dy_RF)  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _grouped_matmul(x_RD, w_EDF, sizes_E, transpose_w, interpret):
    return _matmul(x_RD, w_EDF, sizes_E, transpose_w, interpret)


def _forward(x_RD, w_EDF, sizes_E, transpose_w, interpret):
    return _grouped_matmul(x_RD, w_EDF, sizes_E, transpose_w, interpret), (x_RD, w_EDF, sizes_E)


def _backward(transpose_w, interpret, saved, dy_RF):
    x_RD, w_EDF, sizes_E = saved
    dx_RD = _grouped_matmul(dy_RF, w_EDF, sizes_E, not transpose_w, interpret)
    left, right = (dy_RF, x_RD) if transpose_w else (x_RD, dy_RF)
    return dx_RD, _outer(left, right, sizes_E, w_EDF.dtype, interpret), np.zeros(sizes_E.shape, jax.dtypes.float0)


_grouped_matmul.defvjp(_forward, _backward)


def grouped_matmul(x_RD, w_EDF, sizes_E, *, transpose_w: bool = False, interpret: bool = False) -> jax.Array:
    """`grouped_matmul.grouped_matmul`, with one difference: unused rows are undefined (masked).

    The gradient of the weights comes in their own dtype, summed in float32.
    """
    return _grouped_matmul(x_RD, w_EDF.astype(x_RD.dtype), sizes_E.astype(jnp.int32), transpose_w, interpret)
