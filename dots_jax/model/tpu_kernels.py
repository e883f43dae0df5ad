"""Kernels for TPUs: attention and the grouped matmul, each with the signature of its plain reference.

Both are JAX's own Pallas kernels; what is decided here is how they are called. Shape suffixes as in `layers.py`.
`interpret` runs them on a CPU, for the tests that compare them with their references.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm, tgmm
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask

# Tiles of queries and keys: as large as on-chip memory allows, and fewer are left half empty by the causal mask than by 2048.
QUERIES, KEYS, KEYS_AT_ONCE = 1024, 1024, 512


def attention(q_BTNH, k_BSNH, v_BSNH, segments_BT, segments_BS, start: int, *, interpret: bool = False) -> jax.Array:
    """`kernels.attention` by splash attention: tiles above the causal diagonal are skipped, scores stay on the chip."""
    T, S = q_BTNH.shape[1], k_BSNH.shape[1]
    mask = splash_attention_mask.MultiHeadMask(
        [splash_attention_mask.CausalMask((T, S), offset=start)] * q_BTNH.shape[2]
    )
    q, k, k_back, at_once = (_block(*pair) for pair in ((QUERIES, T), (KEYS, S), (2 * KEYS, S), (KEYS_AT_ONCE, S)))
    blocks = splash.BlockSizes(
        block_q=q, block_kv=k, block_kv_compute=at_once, block_q_dkv=q, block_kv_dkv=k_back, block_kv_dkv_compute=at_once,
        use_fused_bwd_kernel=True,
    )  # fmt: skip
    # Under jit the mask's tables must not become tracers: they are the same for every layer.
    with jax.ensure_compile_time_eval():
        kernel = splash.make_splash_mha(
            mask, block_sizes=blocks, head_shards=1, q_seq_shards=1, residual_checkpoint_name="attention",
            interpret=interpret,
        )  # fmt: skip
    q_BNTH, k_BNSH, v_BNSH = (a.swapaxes(1, 2) for a in (q_BTNH * q_BTNH.shape[3] ** -0.5, k_BSNH, v_BSNH))
    y_BNTH = jax.vmap(kernel)(q_BNTH, k_BNSH, v_BNSH, splash.SegmentIds(segments_BT, segments_BS))
    return y_BNTH.swapaxes(1, 2)


def _block(largest: int, size: int) -> int:
    """The largest tile, `largest` or a half, a quarter, ... of it, that divides the axis; a short axis is one tile."""
    halves = [largest >> i for i in range(8) if largest >> i >= 128]
    return next((tile for tile in halves if size % tile == 0), size)


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
    dx_RD = _grouped_matmul(dy_RF, w_EDF, sizes_E, not transpose_w, interpret)
    left, right = (dy_RF, x_RD) if transpose_w else (x_RD, dy_RF)
    dw_EDF = tgmm(
        left.T, right, sizes_E, w_EDF.dtype, _tiling(left.shape[0], left.shape[1], right.shape[1], sizes_E.shape[0]),
        interpret=interpret,
    )  # fmt: skip
    return dx_RD, dw_EDF, np.zeros(sizes_E.shape, jax.dtypes.float0)


_grouped_matmul.defvjp(_forward, _backward)


def grouped_matmul(x_RD, w_EDF, sizes_E, *, transpose_w: bool = False, interpret: bool = False) -> jax.Array:
    """`grouped_matmul.grouped_matmul` by megablox, with one difference: what stands in unused rows is nobody's.

    The gradient of the weights comes in their own dtype, summed in float32.
    """
    return _grouped_matmul(x_RD, w_EDF.astype(x_RD.dtype), sizes_E.astype(jnp.int32), transpose_w, interpret)
