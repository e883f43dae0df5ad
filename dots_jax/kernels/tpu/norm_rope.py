"""QK norm and rotary positions for TPUs, in one pass over what a projection gives: [B, T, M], M = N * H, the heads
flattened into one axis. Fused into the projection by XLA the same arithmetic would slow the matrix unit down to a third.

Shape suffixes as in `layers.py`; `interpret` runs the kernels on a CPU, for the tests.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from dots_jax.kernels.reference import norm_rope as plain

TOKENS = 256  # at a time, with all their heads
LANES = 128  # of a register


def norm_rope(
    x_BTNH: jax.Array, scale_H: jax.Array, rope: tuple[jax.Array, jax.Array], *, epsilon: float, interpret: bool = False
) -> jax.Array:
    """`kernels.norm_rope`; heads whose size is no multiple of 128, those of tiny models, take the plain one."""
    if x_BTNH.shape[3] % LANES:
        return plain.norm_rope(x_BTNH, scale_H, rope, epsilon=epsilon)
    cos_BTH, sin_BTH = (a[:, :, 0] for a in rope)
    half = jnp.arange(cos_BTH.shape[-1]) < cos_BTH.shape[-1] // 2
    sin_BTH = jnp.where(half, -sin_BTH, sin_BTH)  # y[i] = x[i] cos - x[i + H/2] sin, and + for the other half
    x_BTM = x_BTNH.reshape(*x_BTNH.shape[:2], -1)
    return _norm_rope(x_BTM, scale_H[None], cos_BTH, sin_BTH, epsilon, interpret).reshape(x_BTNH.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _norm_rope(x_BTM, scale_1H, cos_BTH, sin_BTH, epsilon, interpret):
    return _call(_forward_kernel, (x_BTM,), (scale_1H, cos_BTH, sin_BTH), [], epsilon, interpret)[0]


def _forward(*arguments):
    return _norm_rope(*arguments), arguments[:4]


def _backward(epsilon, interpret, saved, dy_BTM):
    x_BTM, *tables = saved
    dscale_1H = jax.ShapeDtypeStruct(tables[0].shape, jnp.float32)
    return *_call(_backward_kernel, (x_BTM, dy_BTM), tables, [dscale_1H], epsilon, interpret), None, None


_norm_rope.defvjp(_forward, _backward)


def _call(kernel, rows, tables, more, epsilon, interpret):
    """rows: one or two [B, T, M], read; one such is written. tables: scale, cos, sin. more: other results, [1, H]."""
    (B, T, M), H = rows[0].shape, tables[1].shape[-1]
    tile = TOKENS if T % TOKENS == 0 else T
    of_rows = pl.BlockSpec((None, tile, M), lambda b, t: (b, t, 0))
    of_table = pl.BlockSpec((None, tile, H), lambda b, t: (b, t, 0))
    of_scale = pl.BlockSpec((1, H), lambda b, t: (0, 0))
    moved = sum(a.size * a.dtype.itemsize for a in (*rows, rows[0], *tables))
    return pl.pallas_call(
        functools.partial(kernel, epsilon=epsilon),
        grid=(B, T // tile),
        in_specs=[*[of_rows] * len(rows), of_scale, of_table, of_table],
        out_specs=[of_rows, *[of_scale] * len(more)],
        out_shape=[jax.ShapeDtypeStruct(rows[0].shape, rows[0].dtype), *more],
        # Of a v5p both cores work on parallel steps. A sum over steps, that of the scale's gradient, needs one core.
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary" if more else "parallel",) * 2),
        cost_estimate=pl.CostEstimate(flops=0, transcendentals=0, bytes_accessed=moved),
        name=kernel.__name__.strip("_").replace("kernel", "norm_rope"), interpret=interpret,
    )(*rows, *tables)  # fmt: skip


def _forward_kernel(x_ref, scale_ref, cos_ref, sin_ref, y_ref, *, epsilon):
    for head in _heads(x_ref, cos_ref):
        x, _ = _normalised(x_ref[:, head], epsilon)
        x = (x * scale_ref[...]).astype(y_ref.dtype).astype(jnp.float32)
        y_ref[:, head] = (x * cos_ref[...] + _other_half(x) * sin_ref[...]).astype(y_ref.dtype)


def _backward_kernel(x_ref, dy_ref, scale_ref, cos_ref, sin_ref, dx_ref, dscale_ref, *, epsilon):
    @pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0))
    def _():
        dscale_ref[...] = jnp.zeros_like(dscale_ref)

    for head in _heads(x_ref, cos_ref):
        x, inverse = _normalised(x_ref[:, head], epsilon)
        dy = dy_ref[:, head].astype(jnp.float32)
        dy = dy * cos_ref[...] + _other_half(dy * sin_ref[...])
        dscale_ref[...] += jnp.sum(dy * x, axis=0, keepdims=True)
        dx = dy * scale_ref[...]
        dx_ref[:, head] = (inverse * (dx - x * jnp.mean(dx * x, axis=-1, keepdims=True))).astype(dx_ref.dtype)


def _heads(x_ref, table_ref):
    H = table_ref.shape[1]
    return [pl.ds(begin, H) for begin in range(0, x_ref.shape[1], H)]


def _other_half(x):
    return pltpu.roll(x, x.shape[-1] // 2, 1)


def _normalised(x, epsilon):
    x = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon)
    return x * inverse, inverse
