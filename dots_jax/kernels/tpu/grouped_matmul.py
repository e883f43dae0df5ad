"""The grouped matmul for TPUs: JAX's own Pallas kernel (megablox); what is decided here is how it is called.

Shape suffixes as in `layers.py`; `interpret` runs it on a CPU, for the test that compares it with its reference.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm, tgmm

ROWS = (
    256  # of a tile: an expert's last tile is partly another's and is worked on twice, so larger ones cost more of it
)
LANES = 128
# Of the smallest scoped limit in `parallel/compiler_options.py`, 32 MiB of a TPU7x, and of the 16 MiB of a program without those
# options; the compiler takes some for itself.
VMEM_BYTES, DEFAULT_VMEM_BYTES = 30 * 2**20, 14 * 2**20
PARTS = (2, 4, 6, 8, 12, 16, 22, 32)  # of the columns: an even number, half for each core of a v5p


def tiles(
    rows: int, contracted: int, columns: int, vmem_bytes: int = VMEM_BYTES, width: int = 2
) -> tuple[int, int, int]:
    """Tiles of rows, of the contracted axis and of columns for x[R, K] @ w[E, K, N]. width: bytes of a number.

    All of K in one tile wherever VMEM allows: the weights of an expert are then read once for each tile of columns. With K in
    pieces they are read again for every tile of rows (20.6 GB instead of 2.95 for 4096 -> 2816 of dots.llm1). Of the columns as
    many as fit. One tile of all columns would leave the second core of a v5p idle.
    """
    R = min(rows, ROWS)
    for K in _divisors(contracted):
        for N in _column_tiles(columns):
            blocks = 2 * width * (R * K + K * N + R * N)  # and the next block on its way
            if blocks + 4 * R * N <= vmem_bytes:
                return R, K, N
    return R, _divisors(contracted)[-1], _column_tiles(columns)[-1]


def outer_tiles(rows: int, left: int, right: int, vmem_bytes: int = VMEM_BYTES, width: int = 2) -> tuple[int, int, int]:
    """Tiles of rows and of both axes of the result for dw[E, K, N] = x[R, K].T @ dy[R, N]: the larger they are, the fewer times
    x and dy are read."""
    R = min(rows, ROWS)
    for N in _column_tiles(right):
        for K in _divisors(left)[:3]:
            if 2 * width * R * (K + N) + (2 * width + 4) * K * N <= vmem_bytes:
                return R, K, N
    return R, _divisors(left)[-1], _column_tiles(right)[-1]


def _named(tiling: tuple[int, int, int]):
    """The planner reads the tiles from the name of the operation: a compiled module has them nowhere else."""
    return jax.named_scope("tiles_{}x{}x{}".format(*tiling))


def _divisors(size: int) -> list[int]:
    """`size`, and its half, quarter, ... in complete registers."""
    return [size, *(size // n for n in (2, 4, 8, 16) if size % (n * LANES) == 0)]


def _column_tiles(columns: int) -> list[int]:
    """Columns of a tile, in complete registers; the last tile of a row may be narrower than the others."""
    if columns % LANES or columns < 2 * LANES:
        return [columns]
    return list(dict.fromkeys(-(-columns // (part * LANES)) * LANES for part in PARTS))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _grouped_matmul(x_RD, w_EDF, sizes_E, transpose_w, vmem_bytes, interpret):
    columns = w_EDF.shape[1 if transpose_w else 2]
    tiling = tiles(*x_RD.shape, columns, vmem_bytes, x_RD.dtype.itemsize)
    with _named(tiling):
        return gmm(x_RD, w_EDF, sizes_E, x_RD.dtype, tiling, transpose_rhs=transpose_w, interpret=interpret)


def _forward(x_RD, w_EDF, sizes_E, transpose_w, vmem_bytes, interpret):
    return _grouped_matmul(x_RD, w_EDF, sizes_E, transpose_w, vmem_bytes, interpret), (x_RD, w_EDF, sizes_E)


def _backward(transpose_w, vmem_bytes, interpret, saved, dy_RF):
    x_RD, w_EDF, sizes_E = saved
    left, right = (dy_RF, x_RD) if transpose_w else (x_RD, dy_RF)
    tiling = outer_tiles(*left.shape, right.shape[1], vmem_bytes, w_EDF.dtype.itemsize)
    with _named(tiling):
        dw_EDF = tgmm(left.T, right, sizes_E, w_EDF.dtype, tiling, interpret=interpret)
    dx_RD = _grouped_matmul(dy_RF, w_EDF, sizes_E, not transpose_w, vmem_bytes, interpret)
    return dx_RD, dw_EDF, np.zeros(sizes_E.shape, jax.dtypes.float0)


_grouped_matmul.defvjp(_forward, _backward)


def grouped_matmul(
    x_RD, w_EDF, sizes_E, *, transpose_w: bool = False, vmem_bytes: int = VMEM_BYTES, interpret: bool = False
) -> jax.Array:
    """`grouped_matmul.grouped_matmul` by megablox, with one difference: unused rows are undefined (masked).

    The gradient of the weights comes in their own dtype, summed in float32. vmem_bytes: what the tiles may take.
    """
    arguments = x_RD, w_EDF.astype(x_RD.dtype), sizes_E.astype(jnp.int32)
    return _grouped_matmul(*arguments, transpose_w, vmem_bytes, interpret)
