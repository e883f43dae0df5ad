"""Grouped matmul by definition, for tests. Names as in `kernels.cpu.grouped_matmul`."""

import jax.numpy as jnp


def grouped_matmul_reference(x_RD, w_EDF, sizes_E, *, transpose_w=False):
    """The same as `grouped_matmul`, obviously: every row times every expert, one kept. Costs E times the work; for tests."""
    expert_RE = _expert_of_row(x_RD.shape[0], sizes_E)[:, None] == jnp.arange(w_EDF.shape[0])
    x_RD = jnp.where(expert_RE.any(1)[:, None], x_RD, 0)
    y_REF = jnp.einsum(
        "rd,efd->ref" if transpose_w else "rd,edf->ref", x_RD.astype(jnp.float32), w_EDF.astype(jnp.float32)
    )
    return jnp.where(expert_RE[:, :, None], y_REF, 0).sum(1).astype(x_RD.dtype)


def _expert_of_row(rows, sizes_E):
    """[R] int32: the expert of each row, E for the unused rows."""
    return jnp.searchsorted(jnp.cumsum(sizes_E), jnp.arange(rows), side="right").astype(jnp.int32)
