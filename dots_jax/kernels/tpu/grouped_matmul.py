"""The grouped matmul for TPUs: JAX's own Pallas kernel (megablox); what is decided here is how it is called.

Shape suffixes as in `layers.py`; `interpret` runs it on a CPU, for the test that compares it with its reference.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm, tgmm


def _tiling(rows: int, contracted: int, columns: int, experts: int) -> tuple[int, int, int]:
    """Tiles of rows, of the contracted axis and of columns. An expert's last tile of rows is partly another's, and is
    worked on twice: so few rows for each expert want small tiles. Columns of 1408 divide dots.llm1's experts evenly."""
    wide = lambda n: next((t for t in (1408, 1024, 512, 256, 128) if n % t == 0), n)
    return (min(rows, 512 if rows >= 3072 * experts else 256), wide(contracted), wide(columns))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _grouped_matmul(x_RD, w_EDF, sizes_E, transpose_w, interpret):
    columns = w_EDF.shape[1 if transpose_w else 2]
    return gmm(
        x_RD, w_EDF, sizes_E, x_RD.dtype, _tiling(*x_RD.shape, columns, w_EDF.shape[0]), transpose_rhs=transpose_w,
        interpret=interpret,
    )  # fmt: skip


def _forward(x_RD, w_EDF, sizes_E, transpose_w, interpret):
    return _grouped_matmul(x_RD, w_EDF, sizes_E, transpose_w, interpret), (x_RD, w_EDF, sizes_E)


def _backward(transpose_w, interpret, saved, dy_RF):
    x_RD, w_EDF, sizes_E = saved
    left, right = (dy_RF, x_RD) if transpose_w else (x_RD, dy_RF)
    dw_EDF = tgmm(
        left.T, right, sizes_E, w_EDF.dtype, _tiling(left.shape[0], left.shape[1], right.shape[1], sizes_E.shape[0]),
        interpret=interpret,
    )  # fmt: skip
    dx_RD = _grouped_matmul(dy_RF, w_EDF, sizes_E, not transpose_w, interpret)
    return dx_RD, dw_EDF, np.zeros(sizes_E.shape, jax.dtypes.float0)


_grouped_matmul.defvjp(_forward, _backward)


def grouped_matmul(x_RD, w_EDF, sizes_E, *, transpose_w: bool = False, interpret: bool = False) -> jax.Array:
    """`grouped_matmul.grouped_matmul` by megablox, with one difference: unused rows are undefined (masked).

    The gradient of the weights comes in their own dtype, summed in float32.
    """
    return _grouped_matmul(x_RD, w_EDF.astype(x_RD.dtype), sizes_E.astype(jnp.int32), transpose_w, interpret)
