"""Causal attention inside segments for TPUs: a forward and a backward kernel that take projections as they come.

q, k, v and the result have the shape [B, T, M], M = N * H, the heads flattened into one axis: the layout of matrix products, which
would lose half of their speed to a transpose in their epilogue. The backward kernel sums dq in float32 on the chip while blocks of
keys go by; JAX's splash attention writes a dq for each of them and leaves their sum to XLA. Otherwise the plan is the same:
tiles above the diagonal are skipped, scores stay on the chip, softmax by base 2 (FlashAttention-2, arXiv 2307.08691).
Scores have the shape [keys, queries], so that sums over keys run down the registers and not across them, and statistics are rows.
Shape suffixes as in `model/layers.py`; `interpret` runs the kernels on a CPU, for the tests.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dots_jax.kernels.reference.attention import attention as plain_attention

# Tiles of queries and keys: as large as on-chip memory allows, and fewer are left half empty by the causal mask than by 2048.
QUERIES, KEYS, KEYS_AT_ONCE = 1024, 1024, 512
LANES = 128  # of a register: heads are cut out of rows in complete registers
HIDDEN = -0.7 * float(jnp.finfo(jnp.float32).max)  # a score that softmax does not see; the difference of two is finite


def attention(q_BTNH, k_BSNH, v_BSNH, segments_BT, segments_BS, start: int, *, interpret: bool = False) -> jax.Array:
    """`kernels.attention`; heads whose size is no multiple of 128, those of tiny models, take the plain one."""
    if q_BTNH.shape[3] % LANES:
        return plain_attention(q_BTNH, k_BSNH, v_BSNH, segments_BT, segments_BS, start)
    flat = (a.reshape(*a.shape[:2], -1) for a in (q_BTNH, k_BSNH, v_BSNH))
    return _attention(*flat, segments_BT, segments_BS, q_BTNH.shape[3], start, interpret).reshape(q_BTNH.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _attention(q_BTM, k_BSM, v_BSM, segments_BT, segments_BS, H, start, interpret):
    return _forward(q_BTM, k_BSM, v_BSM, segments_BT, segments_BS, H, start, interpret)[0]


def _forward(q_BTM, k_BSM, v_BSM, segments_BT, segments_BS, H, start, interpret):
    (B, T, M), S = q_BTM.shape, k_BSM.shape[1]
    Q, K = _tile(QUERIES, T), _tile(KEYS, S)

    def keys(i, j):  # a step without work, above the diagonal, holds what the last one with work had
        return jnp.minimum(j, jax.lax.div(start + (i + 1) * Q - 1, K))

    of_q = pl.BlockSpec((None, Q, H), lambda b, n, i, j: (b, i, n))
    of_k = pl.BlockSpec((None, K, H), lambda b, n, i, j: (b, keys(i, j), n))
    y_BTM, lse_BN1T = pl.pallas_call(
        functools.partial(_forward_kernel, start=start, at_once=_tile(KEYS_AT_ONCE, K)),
        grid=(B, M // H, T // Q, S // K),
        in_specs=[
            of_q, of_k, of_k,
            pl.BlockSpec((None, 1, Q), lambda b, n, i, j: (b, 0, i)),
            pl.BlockSpec((None, K, 1), lambda b, n, i, j: (b, keys(i, j), 0)),
        ],
        out_specs=[of_q, pl.BlockSpec((None, None, 1, Q), lambda b, n, i, j: (b, n, 0, i))],
        out_shape=[
            jax.ShapeDtypeStruct(q_BTM.shape, q_BTM.dtype), jax.ShapeDtypeStruct((B, M // H, 1, T), jnp.float32)
        ],
        scratch_shapes=[pltpu.VMEM((rows, Q), jnp.float32) for rows in (H, 1, 1)],
        cost_estimate=_cost(2, T, S, H, [q_BTM, k_BSM, v_BSM, q_BTM]),
        name="attention_forward", interpret=interpret, **_ORDER,
    )(q_BTM, k_BSM, v_BSM, segments_BT[:, None, :], segments_BS[:, :, None])  # fmt: skip
    y_BTM, lse_BN1T = checkpoint_name((y_BTM, lse_BN1T), "attention")
    return y_BTM, (q_BTM, k_BSM, v_BSM, segments_BT, segments_BS, y_BTM, lse_BN1T)


def _backward(H, start, interpret, saved, dy_BTM):
    q_BTM, k_BSM, v_BSM, segments_BT, segments_BS, y_BTM, lse_BN1T = saved
    (B, T, M), S = q_BTM.shape, k_BSM.shape[1]
    Q, K = _tile(QUERIES, T), _tile(KEYS, S)
    last = S // K - 1

    def queries(j, i):  # a step without work holds what the next one with work needs
        return jnp.maximum(i, jax.lax.div(jnp.maximum(0, j * K - start), Q))

    of_q = pl.BlockSpec((None, Q, H), lambda b, n, j, i: (b, queries(j, i), n))
    of_k = pl.BlockSpec((None, K, H), lambda b, n, j, i: (b, j, n))
    # y is read with the first keys only. dq is complete after the last keys: until then its block is the first one, which
    # is not written out.
    of_y = pl.BlockSpec((None, Q, H), lambda b, n, j, i: (b, jnp.where(j == 0, i, T // Q - 1), n))
    of_dq = pl.BlockSpec((None, Q, H), lambda b, n, j, i: (b, jnp.where(j == last, i, 0), n))
    dq_BTM, dk_BSM, dv_BSM = pl.pallas_call(
        functools.partial(_backward_kernel, start=start, last=last, at_once=_tile(KEYS_AT_ONCE, K)),
        grid=(B, M // H, S // K, T // Q),
        in_specs=[
            of_q, of_k, of_k,
            pl.BlockSpec((None, 1, Q), lambda b, n, j, i: (b, 0, queries(j, i))),
            pl.BlockSpec((None, K, 1), lambda b, n, j, i: (b, j, 0)),
            pl.BlockSpec((None, None, 1, Q), lambda b, n, j, i: (b, n, 0, queries(j, i))),
            of_y, of_q,
        ],
        out_specs=[of_dq, of_k, of_k],
        out_shape=[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (q_BTM, k_BSM, v_BSM)],
        scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in ((T // Q, Q, H), (K, H), (K, H), (T // Q, 1, Q))],
        cost_estimate=_cost(5, T, S, H, [q_BTM, k_BSM, v_BSM, y_BTM, dy_BTM, q_BTM, k_BSM, v_BSM]),
        name="attention_backward", interpret=interpret, **_ORDER,
    )(q_BTM, k_BSM, v_BSM, segments_BT[:, None, :], segments_BS[:, :, None], lse_BN1T, y_BTM, dy_BTM)  # fmt: skip
    return dq_BTM, dk_BSM, dv_BSM, None, None


_attention.defvjp(_forward, _backward)


# --- the kernels: one block of queries, Q, with one of keys, K --------------------------------------------------------

_ORDER = {
    "compiler_params": pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary"))
}


def _forward_kernel(
    q_ref, k_ref, v_ref, segments_q, segments_k, y_ref, lse_ref, y_HQ, largest_1Q, total_1Q, *, start, at_once
):
    i, j = pl.program_id(2), pl.program_id(3)
    (Q, H), K = q_ref.shape, k_ref.shape[0]

    @pl.when(j == 0)
    def _():
        y_HQ[...] = jnp.zeros_like(y_HQ)
        total_1Q[...] = jnp.zeros_like(total_1Q)
        largest_1Q[...] = jnp.full_like(largest_1Q, HIDDEN)

    def chunk(begin: int, on_diagonal: bool):
        part = pl.ds(begin, at_once)
        seen = _seen(segments_q, segments_k, part, start + i * Q, j * K + begin, on_diagonal)
        scores_KQ = jnp.where(seen, _dot(k_ref[part, :], _scaled(q_ref, H), 1, 1), HIDDEN)
        before, largest = largest_1Q[...], jnp.maximum(largest_1Q[...], jnp.max(scores_KQ, axis=0, keepdims=True))
        shrink, weights_KQ = jnp.exp2(before - largest), jnp.exp2(scores_KQ - largest)
        largest_1Q[...] = largest
        total_1Q[...] = shrink * total_1Q[...] + jnp.sum(weights_KQ, axis=0, keepdims=True)
        y_HQ[...] = shrink * y_HQ[...] + _dot(v_ref[part, :], weights_KQ.astype(v_ref.dtype), 0, 0)

    _for_chunks(chunk, K, at_once, start + i * Q, Q, j * K)

    @pl.when(j == pl.num_programs(3) - 1)
    def _():
        y_ref[...] = (y_HQ[...] / total_1Q[...]).T.astype(y_ref.dtype)
        lse_ref[...] = largest_1Q[...] + jnp.log2(total_1Q[...])


def _backward_kernel(
    q_ref, k_ref, v_ref, segments_q, segments_k, lse_ref, y_ref, dy_ref, dq_ref, dk_ref, dv_ref,
    dq_QH, dk_KH, dv_KH, mean_1Q, *, start, last, at_once,
):  # fmt: skip
    j, i = pl.program_id(2), pl.program_id(3)
    (Q, H), K = q_ref.shape, k_ref.shape[0]

    @pl.when(i == 0)
    def _():
        dk_KH[...] = jnp.zeros_like(dk_KH)
        dv_KH[...] = jnp.zeros_like(dv_KH)

    @pl.when(j == 0)
    def _():
        dq_QH[i] = jnp.zeros((Q, H), jnp.float32)
        # The weights of a query sum to one: the derivative of softmax takes their mean of dy.v off, which is y.dy.
        product_QH = y_ref[...].astype(jnp.float32) * dy_ref[...].astype(jnp.float32)
        mean_1Q[i] = _dot(jnp.ones((8, H), jnp.float32), product_QH, 1, 1, jax.lax.Precision.HIGHEST)[:1]

    def chunk(begin: int, on_diagonal: bool):
        part = pl.ds(begin, at_once)
        q, k, v, dy = _scaled(q_ref, H), k_ref[part, :], v_ref[part, :], dy_ref[...]
        seen = _seen(segments_q, segments_k, part, start + i * Q, j * K + begin, on_diagonal)
        weights_KQ = jnp.exp2(jnp.where(seen, _dot(k, q, 1, 1), HIDDEN) - lse_ref[...])
        dv_KH[part, :] += _dot(weights_KQ.astype(dy.dtype), dy, 1, 0)
        dscores_KQ = (weights_KQ * (_dot(v, dy, 1, 1) - mean_1Q[i])).astype(q.dtype)
        dk_KH[part, :] += _dot(dscores_KQ, q, 1, 0)
        dq_QH[i] += _dot(dscores_KQ, k, 0, 0)

    _for_chunks(chunk, K, at_once, start + i * Q, Q, j * K)

    @pl.when(i == pl.num_programs(3) - 1)
    def _():
        dk_ref[...] = (dk_KH[...] * math.log(2)).astype(dk_ref.dtype)
        dv_ref[...] = dv_KH[...].astype(dv_ref.dtype)

    @pl.when(j == last)
    def _():
        dq_ref[...] = (dq_QH[i] * H**-0.5).astype(dq_ref.dtype)


def _scaled(q_ref, H: int):
    return q_ref[...] * (H**-0.5 * math.log2(math.e))


def _seen(segments_q, segments_k, part, first_query, first_key, on_diagonal: bool):
    """Which query sees which key: [keys, queries]."""
    seen = segments_k[part, :] == segments_q[...]
    if on_diagonal:
        key = first_key + jax.lax.broadcasted_iota(jnp.int32, seen.shape, 0)
        seen &= key <= first_query + jax.lax.broadcasted_iota(jnp.int32, seen.shape, 1)
    return seen


def _for_chunks(chunk, K: int, at_once: int, first_query, Q: int, first_key) -> None:
    """The keys of a block, `at_once` at a time: without the causal mask below the diagonal, not at all above it."""

    def whole_block(on_diagonal: bool) -> None:
        for begin in range(0, K, at_once):
            chunk(begin, on_diagonal)

    below = first_key + K - 1 <= first_query
    pl.when(below)(lambda: whole_block(False))
    pl.when(jnp.logical_not(below) & (first_key < first_query + Q))(lambda: whole_block(True))


def _dot(a, b, axis_a: int, axis_b: int, precision=None):
    """A matrix product over these axes, summed in float32."""
    return jax.lax.dot_general(
        a, b, (((axis_a,), (axis_b,)), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )


def _cost(products: int, T: int, S: int, H: int, moved: list) -> pl.CostEstimate:
    """Matrix products over all pairs of a query and a key that it may see."""
    pairs = moved[0].shape[0] * moved[0].shape[2] // H * (T * S - T * T // 2)
    return pl.CostEstimate(
        flops=products * 2 * pairs * H,
        transcendentals=pairs,
        bytes_accessed=sum(a.size * a.dtype.itemsize for a in moved),
    )


def _tile(largest: int, size: int) -> int:
    """The largest tile, `largest` or a half, a quarter, ... of it, that divides the axis; a short axis is one tile."""
    halves = [largest >> i for i in range(8) if largest >> i >= 128]
    return next((tile for tile in halves if size % tile == 0), size)
