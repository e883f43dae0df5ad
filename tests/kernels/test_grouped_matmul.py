"""Grouped matmul against its plain reference: values and gradients, over loads, dtypes and every way it is called."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from dots_jax.kernels.cpu import grouped_matmul as module
from dots_jax.kernels.cpu.grouped_matmul import grouped_matmul, grouped_outer
from dots_jax.kernels.reference.grouped_matmul import grouped_matmul_reference

# name -> (rows, experts, what each expert gets of them); few shapes, since each is a compilation
LOADS = {
    "random": (333, 7, lambda rng: rng.multinomial(333, rng.dirichlet(np.ones(7)))),
    "balanced": (333, 7, lambda rng: np.full(7, 47)),
    "balanced_with_room": (333, 7, lambda rng: np.full(7, 16)),
    "uneven_with_room": (333, 7, lambda rng: rng.multinomial(200, rng.dirichlet(np.ones(7) * 0.3))),
    "empty_experts": (333, 7, lambda rng: np.array([0, 150, 0, 0, 32, 151, 0])),
    "one_expert": (333, 7, lambda rng: np.array([0, 0, 333, 0, 0, 0, 0])),
    "last_expert": (333, 7, lambda rng: np.array([0, 0, 0, 0, 0, 0, 300])),
    "all_rows_unused": (333, 7, lambda rng: np.zeros(7)),
    "single_row": (1, 7, lambda rng: np.array([0, 0, 1, 0, 0, 0, 0])),
    "one_expert_only": (77, 1, lambda rng: np.array([70])),
    "many_experts": (1000, 128, lambda rng: rng.multinomial(990, rng.dirichlet(np.ones(128)))),
    "more_experts_than_rows": (12, 128, lambda rng: rng.multinomial(12, np.ones(128) / 128)),
}


def operands(load, transpose_w=False, dtype=np.float32, d=24, f=20):
    """x with NaN in the unused rows, w, sizes, and a gradient with NaN in its unused rows."""
    rng = np.random.default_rng(len(load))
    rows, experts, sizes = LOADS[load]
    sizes_E = sizes(rng).astype(np.int32)
    x_RD, dy_RF = rng.normal(size=(rows, d)), rng.normal(size=(rows, f))
    w_EDF = rng.normal(size=(experts, f, d) if transpose_w else (experts, d, f))
    x_RD[sizes_E.sum() :] = np.nan
    dy_RF[sizes_E.sum() :] = np.inf
    return jnp.asarray(x_RD, dtype), jnp.asarray(w_EDF, dtype), jnp.asarray(sizes_E), jnp.asarray(dy_RF, dtype)


@functools.partial(jax.jit, static_argnums=0, static_argnames="transpose_w")
def value_and_gradients(matmul, x_RD, w_EDF, sizes_E, dy_RF, transpose_w=False):
    y_RF, transpose = jax.vjp(lambda x, w: matmul(x, w, sizes_E, transpose_w=transpose_w), x_RD, w_EDF)
    return y_RF, *transpose(dy_RF)


def assert_close(actual, expected, tolerance):
    """Relative to the largest entry: rounding grows with the sums, not with what they happen to cancel to."""
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype and a.shape == e.shape
        a, e = np.asarray(a, np.float32), np.asarray(e, np.float32)
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * max(1, np.abs(e).max(initial=0)))


@pytest.mark.parametrize("transpose_w", [False, True])
@pytest.mark.parametrize("load", LOADS)
def test_values_and_gradients_are_those_of_the_reference(load, transpose_w):
    x_RD, w_EDF, sizes_E, dy_RF = operands(load, transpose_w)
    actual = value_and_gradients(grouped_matmul, x_RD, w_EDF, sizes_E, dy_RF, transpose_w=transpose_w)
    # The reference's own derivative would multiply the infinite gradient of unused rows by zero.
    used_R1 = jnp.arange(x_RD.shape[0])[:, None] < sizes_E.sum()
    dy_RF = jnp.where(used_R1, dy_RF, 0)
    expected = value_and_gradients(grouped_matmul_reference, x_RD, w_EDF, sizes_E, dy_RF, transpose_w=transpose_w)
    assert_close(actual, expected, 1e-5)
    unused = slice(int(sizes_E.sum()), None)
    assert not np.any(actual[0][unused]) and not np.any(actual[1][unused])
    assert not np.any(np.asarray(actual[2])[np.asarray(sizes_E) == 0])


@pytest.mark.parametrize("load", ["random", "uneven_with_room", "one_expert"])
def test_bfloat16_accumulates_in_float32(load):
    """Against the float32 result of the same bfloat16 operands: one rounding of the result, 2**-8, and no more."""
    *exact, sizes_E, dy_RF = operands(load, dtype=jnp.bfloat16)
    dy_RF = jnp.where(jnp.isfinite(dy_RF), dy_RF, 0)
    actual = value_and_gradients(grouped_matmul, *exact, sizes_E, dy_RF)
    widened = [a.astype(jnp.float32) for a in (*exact, dy_RF)]
    expected = value_and_gradients(grouped_matmul_reference, *widened[:2], sizes_E, widened[2])
    for a, e in zip(actual, expected):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(a, np.float32), e, rtol=2**-8, atol=1e-5)


def test_bfloat16_rows_with_float32_weights_keep_the_weights_dtype():
    x_RD, w_EDF, sizes_E, dy_RF = operands("random")
    y_RF, dx_RD, dw_EDF = value_and_gradients(
        grouped_matmul, x_RD.astype(jnp.bfloat16), w_EDF, sizes_E, dy_RF.astype(jnp.bfloat16)
    )
    assert (y_RF.dtype, dx_RD.dtype, dw_EDF.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize("height", module._TILE_HEIGHTS)
def test_every_tile_height_gives_the_same(monkeypatch, height):
    """Whatever the cost model picks: each height alone, on a load that overflows some tiles and not others."""
    monkeypatch.setattr(module, "_TILE_HEIGHTS", (height,))
    value_and_gradients.clear_cache()
    for load in ("random", "uneven_with_room", "one_expert"):
        x_RD, w_EDF, sizes_E, dy_RF = operands(load)
        dy_RF = jnp.where(jnp.isfinite(dy_RF), dy_RF, 0)
        actual = value_and_gradients(grouped_matmul, x_RD, w_EDF, sizes_E, dy_RF)
        assert_close(actual, value_and_gradients(grouped_matmul_reference, x_RD, w_EDF, sizes_E, dy_RF), 1e-5)
    value_and_gradients.clear_cache()


@pytest.mark.parametrize("load, height", [("balanced", 56), ("balanced_with_room", 24), ("one_expert", 0)])
def test_tiles_follow_the_load(load, height):
    """The cost of a balanced load is that of its tiles; a load with room takes small tiles; one expert takes none."""
    x_RD, _, sizes_E, _ = operands(load)
    heights, choice = module._choose_tiles(x_RD.shape[0], sizes_E)
    assert heights[int(choice)] == height


def layer(matmul, h_RD, w_EDF, sizes_E):
    """Two grouped matmuls, the second transposed, as a residual block."""
    return h_RD + matmul(jnp.tanh(matmul(h_RD, w_EDF, sizes_E)), w_EDF, sizes_E, transpose_w=True)


def stack(matmul, x_RD, w_LEDF, sizes_E, checkpoint=lambda f: f):
    body = checkpoint(lambda h_RD, w_EDF: (layer(matmul, h_RD, w_EDF, sizes_E), None))
    return jax.lax.scan(body, x_RD, w_LEDF)[0]


def test_inside_scan_and_checkpoint():
    x_RD, w_EDF, sizes_E, _ = operands("random")
    x_RD = jnp.where(jnp.isnan(x_RD), 0, x_RD)
    w_LEDF = 0.1 * jnp.stack([w_EDF, -w_EDF, w_EDF[::-1]])

    def loss(matmul, checkpoint, x_RD, w_LEDF):
        return jnp.sum(stack(matmul, x_RD, w_LEDF, sizes_E, checkpoint) ** 2)

    grad = jax.value_and_grad(loss, argnums=(2, 3))
    actual = jax.jit(grad, static_argnums=(0, 1))(grouped_matmul, jax.checkpoint, x_RD, w_LEDF)
    expected = jax.jit(grad, static_argnums=(0, 1))(grouped_matmul_reference, lambda f: f, x_RD, w_LEDF)
    assert_close(actual, expected, 1e-5)


def test_inside_shard_map_with_checked_replication():
    """8 shards with loads of their own and the weights shared: the weights' gradient is summed over the shards."""
    assert jax.device_count() >= 8
    rng = np.random.default_rng(0)
    shards, rows, d, f, experts = 8, 40, 16, 12, 5
    x_SRD = rng.normal(size=(shards, rows, d)).astype(np.float32)
    w_LEDF = 0.1 * rng.normal(size=(2, experts, d, f)).astype(np.float32)
    sizes_SE = rng.multinomial(rows - 5, rng.dirichlet(np.ones(experts), size=shards)).astype(np.int32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded, shared = PartitionSpec("data"), PartitionSpec()

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(sharded, shared, sharded), out_specs=shared, check_vma=True)
    def sharded_loss(x_1RD, w_LEDF, sizes_1E):
        h_RD = stack(grouped_matmul, x_1RD[0], w_LEDF, sizes_1E[0], jax.checkpoint)
        return jax.lax.psum(jnp.sum(h_RD**2), "data")

    def plain_loss(x_SRD, w_LEDF, sizes_SE):
        return sum(jnp.sum(stack(grouped_matmul_reference, x_SRD[s], w_LEDF, sizes_SE[s]) ** 2) for s in range(shards))

    actual = jax.jit(jax.value_and_grad(sharded_loss, argnums=(0, 1)))(x_SRD, w_LEDF, sizes_SE)
    expected = jax.jit(jax.value_and_grad(plain_loss, argnums=(0, 1)))(x_SRD, w_LEDF, sizes_SE)
    assert_close(actual, expected, 1e-5)


@pytest.mark.parametrize("platform, uses_ragged_dot", [("tpu", True), ("cuda", True), ("cpu", False)])
def test_lowering_picks_the_platform_it_is_for(platform, uses_ragged_dot):
    """From a process that has only CPUs; forward and backward."""
    x_RD, w_EDF, sizes_E, dy_RF = operands("random")
    traced = value_and_gradients.trace(grouped_matmul, x_RD, w_EDF, sizes_E, dy_RF)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("ragged_dot" in text) == uses_ragged_dot
    assert ("stablehlo.while" in text) == (not uses_ragged_dot)


def test_ragged_path_agrees_with_the_reference():
    """The TPU and GPU path, run here: slow on a CPU, but the same function."""
    x_RD, w_EDF, sizes_E, dy_RF = operands("random")
    sizes_E = sizes_E.at[0].add(-sizes_E[0])  # an empty expert and unused rows
    expected = value_and_gradients(grouped_matmul_reference, x_RD, w_EDF, sizes_E, dy_RF)
    np.testing.assert_allclose(module._matmul_ragged(False, x_RD, w_EDF, sizes_E), expected[0], atol=1e-4)
    dx_RD = module._matmul_ragged(True, dy_RF, w_EDF, sizes_E)
    np.testing.assert_allclose(dx_RD, expected[1], atol=1e-4)
    np.testing.assert_allclose(module._outer_ragged(x_RD, dy_RF, sizes_E), expected[2], atol=1e-4)
    np.testing.assert_allclose(grouped_outer(x_RD, dy_RF, sizes_E), expected[2], atol=1e-4)
