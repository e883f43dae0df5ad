"""The attention module against a plain float64 computation, token by token; rotary positions; packed documents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numerics import MODULE, assert_close, input_dtypes, random_weights

from dots_jax.config import MeshConfig
from dots_jax.kernels.reference.attention import attention
from dots_jax.kernels.select import kernels_for
from dots_jax.model.attention import Attention
from dots_jax.model.rope import rope_table
from dots_jax.parallel.context import attention_over_context, context_order
from dots_jax.parallel.mesh import make_mesh
from dots_jax.parallel.sharding import TOKENS

B, T, D, N, H, THETA = 2, 13, 12, 3, 8, 100.0
SEGMENTS = np.array([[1] * 5 + [2] * 6 + [0] * 2, [1] * 13])
POSITIONS = np.array([[*range(5), *range(6), 0, 0], [*range(13)]])


def make(dtype):
    """The jitted module as a function of its arrays, and arrays."""
    module = lambda: Attention(
        D,
        N,
        H,
        norm_epsilon=1e-5,
        init_std=1.0,
        dtype=jnp.dtype(dtype),
        kernels=kernels_for("cpu"),
        rngs=nnx.Rngs(params=0),
    )
    graph, state = nnx.split(nnx.eval_shape(module))
    arrays = random_weights(nnx.to_pure_dict(state), 0.5)

    @jax.jit
    def run(arrays, x_BTD, positions_BT, segments_BT):
        filled = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(filled, arrays)
        return nnx.merge(graph, filled)(x_BTD, rope_table(positions_BT, H, THETA), segments_BT)

    return run, arrays


@pytest.fixture(scope="module")
def float32():
    return make("float32")


@pytest.fixture(scope="module")
def x_BTD():
    return np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)


def plain(arrays, x_BTD, positions_BT, segments_BT):
    """Each token by itself: its query against the keys of its document so far. Rotation by complex numbers."""
    w = jax.tree.map(lambda a: np.asarray(a, np.float64), arrays)

    def rotated(x_D, kind, position):
        x_NH = np.einsum("d,dnh->nh", x_D, w[f"w{kind}_DNH"])
        x_NH = x_NH / np.sqrt((x_NH**2).mean(-1, keepdims=True) + 1e-5) * w[f"{kind}_norm"]["scale"]
        turn = np.exp(1j * position * THETA ** (-np.arange(H // 2) / (H // 2)))
        pairs = (x_NH[:, : H // 2] + 1j * x_NH[:, H // 2 :]) * turn
        return np.concatenate([pairs.real, pairs.imag], -1)

    y_BTD = np.zeros((B, T, D))
    for b, t in np.ndindex(B, T):
        seen = [s for s in range(t + 1) if segments_BT[b, s] == segments_BT[b, t]]
        q_NH = rotated(x_BTD[b, t], "q", positions_BT[b, t])
        k_SNH = np.stack([rotated(x_BTD[b, s], "k", positions_BT[b, s]) for s in seen])
        v_SNH = np.einsum("sd,dnh->snh", x_BTD[b, seen], w["wv_DNH"])
        probs_SN = np.exp(np.einsum("nh,snh->sn", q_NH, k_SNH) / np.sqrt(H))
        probs_SN /= probs_SN.sum(0)
        y_BTD[b, t] = np.einsum("sn,snh,nhd->d", probs_SN, v_SNH, w["wo_NHD"])
    return y_BTD


def test_values_are_those_of_the_plain_computation(float32, x_BTD):
    run, arrays = float32
    actual, expected = (
        run(arrays, x_BTD, POSITIONS, SEGMENTS),
        plain(arrays, x_BTD.astype(np.float64), POSITIONS, SEGMENTS),
    )
    real = SEGMENTS != 0
    assert_close(actual[real], expected[real], MODULE)
    assert np.isfinite(actual).all()


def test_packed_documents_are_as_if_alone(float32, x_BTD):
    run, arrays = float32
    packed = run(arrays, x_BTD, POSITIONS, SEGMENTS)
    alone = np.zeros_like(x_BTD)
    alone[0, :5], alone[1, :6] = x_BTD[0, :5], x_BTD[0, 5:11]
    segments, positions = np.zeros_like(SEGMENTS), np.zeros_like(POSITIONS)
    segments[0, :5], segments[1, :6] = 1, 1
    positions[0, :5], positions[1, :6] = range(5), range(6)
    y_BTD = run(arrays, alone, positions, segments)
    assert_close((packed[0, :5], packed[0, 5:11]), (y_BTD[0, :5], y_BTD[1, :6]), MODULE)


def test_later_tokens_other_documents_and_padding_reach_nothing(float32, x_BTD):
    """To the bit: what a token may not see is multiplied with an exact zero."""
    run, arrays = float32
    before = run(arrays, x_BTD, POSITIONS, SEGMENTS)
    changed = x_BTD.copy()
    changed[0, 3], changed[0, 11:], changed[1, 9] = 7, -7, 7
    after = run(arrays, changed, POSITIONS, SEGMENTS)
    np.testing.assert_array_equal(before[0, [0, 1, 2, 5, 6, 7, 8, 9, 10]], after[0, [0, 1, 2, 5, 6, 7, 8, 9, 10]])
    np.testing.assert_array_equal(before[1, :9], after[1, :9])
    assert (np.abs(before - after)[0, [3, 4]].max(-1) > 1e-3).all()
    assert (np.abs(before - after)[1, 9:].max(-1) > 1e-3).all()


def test_only_distances_count(float32, x_BTD):
    run, arrays = float32
    here, there = (run(arrays, x_BTD, POSITIONS + shift, SEGMENTS) for shift in (0, 8))
    assert_close(there[SEGMENTS != 0], here[SEGMENTS != 0], MODULE)
    stretched = run(arrays, x_BTD, POSITIONS * 2, SEGMENTS)
    assert np.abs(stretched - here)[SEGMENTS != 0].max() > 1e-2


def test_rope_table_of_far_positions_is_exact_to_float32_angles():
    """The angle of position 32 767 is rounded once, not summed up: cos is off by no more than half an ulp of the angle."""
    cos, sin = rope_table(jnp.array([[0, 1, 32_767]]), 128, 1e7)
    angle = np.array([0, 1, 32_767])[:, None] * 1e7 ** (-np.arange(64) / 64)
    for table, exact in ((cos, np.cos(angle)), (sin, np.sin(angle))):
        assert table.shape == (1, 3, 1, 128) and table.dtype == jnp.float32
        assert np.abs(table[0, :, 0] - np.tile(exact, 2)).max() < 32_767 * 2.0**-22


def test_softmax_and_norms_are_float32_in_bfloat16_compute(float32, x_BTD):
    run, arrays = make("bfloat16")
    x = jnp.asarray(x_BTD, jnp.bfloat16)
    jaxpr = jax.make_jaxpr(run)(arrays, x, POSITIONS, SEGMENTS)
    assert input_dtypes(jaxpr, "exp", "rsqrt", "cos", "sin") == {"float32"}
    y_BTD = run(arrays, x, POSITIONS, SEGMENTS)
    assert y_BTD.dtype == jnp.bfloat16
    exact = float32[0](arrays, x.astype(jnp.float32), POSITIONS, SEGMENTS)
    assert_close(np.asarray(y_BTD, np.float32), exact, 0.02)  # 2.5 ulps of bfloat16


# --- sequences in pieces ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [2, 4])
def test_sequences_in_pieces_along_the_context_axis(pieces):
    """Values and gradients of complete sequences, from devices that hold an early and a late chunk of each."""
    rng = np.random.default_rng(0)
    length = 16
    segments_BT = np.repeat([[1, 2, 2, 0], [1, 1, 1, 1]], length // 4, axis=1)
    q, k, v, dy = (rng.normal(size=(2, length, 2, 6)).astype(np.float32) for _ in range(4))
    mesh = make_mesh(MeshConfig(data=1, fsdp=1, expert=1, context=pieces))

    def in_pieces(q, k, v):
        chunk = length // (2 * pieces)
        order = np.concatenate([np.arange(i * chunk, (i + 1) * chunk) for i in context_order(pieces)])
        over = jax.shard_map(
            lambda q, k, v, s: attention_over_context(q, k, v, s, attention),
            mesh=mesh, in_specs=(TOKENS,) * 4, out_specs=TOKENS,
        )  # fmt: skip
        return over(q[:, order], k[:, order], v[:, order], segments_BT[:, order])[:, np.argsort(order)]

    def both(function):
        y, transpose = jax.vjp(function, q, k, v)
        return y, transpose(dy)

    complete = lambda q, k, v: attention(q, k, v, segments_BT, segments_BT, 0)
    assert_close(jax.jit(lambda: both(in_pieces))(), jax.jit(lambda: both(complete))(), MODULE)


@pytest.mark.parametrize("pieces", [1, 2, 8])
def test_pieces_have_as_many_pairs_of_chunks(pieces):
    """Chunk i of the queries meets i + 1 chunks of keys: on each device the same number together."""
    order = context_order(pieces)
    assert sorted(order) == list(range(2 * pieces))
    assert {a + 1 + b + 1 for a, b in zip(order[::2], order[1::2])} == {2 * pieces + 1}
