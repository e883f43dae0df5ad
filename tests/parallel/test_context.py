"""Sequences in pieces along the context axis: who has how much to do, and who may see what. Values: test_attention.py."""

import jax
import numpy as np
import pytest
from numerics import equations

from dots_jax.config import MeshConfig
from dots_jax.kernels import select as kernels
from dots_jax.parallel.context import attention_over_context, context_order
from dots_jax.parallel.mesh import make_mesh
from dots_jax.parallel.sharding import TOKENS

ROWS, LENGTH, HEADS, SIZE = 2, 64, 2, 6


def over_context(pieces: int, attention):
    mesh = make_mesh(MeshConfig(fsdp=1, context=pieces))
    function = lambda q, k, v, s: attention_over_context(q, k, v, s, attention)
    return jax.shard_map(function, mesh=mesh, in_specs=(TOKENS,) * 4, out_specs=TOKENS)


def arrays(seed: int = 0):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(ROWS, LENGTH, HEADS, SIZE)).astype(np.float32) for _ in range(3))
    return q, k, v, np.ones((ROWS, LENGTH), np.int32)


@pytest.mark.parametrize("pieces", [2, 4, 8])
def test_every_device_has_as_much_to_do(pieces):
    """As many pairs of query and key below the diagonal on each, and together all there are."""
    calls = []

    def spy(q_BTNH, k_BSNH, v_BSNH, segments_BT, segments_BS, start):
        T, S = q_BTNH.shape[1], k_BSNH.shape[1]
        assert start + T == S == v_BSNH.shape[1] == segments_BS.shape[1] and T == segments_BT.shape[1]
        calls.append(T * start + T * (T + 1) // 2)
        return q_BTNH

    jax.eval_shape(over_context(pieces, spy), *arrays())
    assert len(calls) == 2 * pieces  # each device's two chunks, device by device
    pairs = {first + second for first, second in zip(calls[::2], calls[1::2])}
    assert pairs == {LENGTH * (LENGTH + 1) // 2 // pieces}


def test_keys_and_values_are_gathered_once():
    names = [e.primitive.name for e in equations(jax.make_jaxpr(over_context(4, kernels.attention))(*arrays()))]
    assert sum("all_gather" in name for name in names) == 3  # keys, values and segments
    assert not any("ppermute" in name or "all_to_all" in name for name in names)


@pytest.mark.parametrize("pieces", [2, 4])
def test_no_token_sees_a_later_one_on_another_device(pieces):
    """To the bit: changes of the tokens from the middle of one chunk on reach none before them, wherever they lie."""
    place = np.concatenate([np.arange(LENGTH).reshape(2 * pieces, -1)[i] for i in context_order(pieces)])
    run = jax.jit(over_context(pieces, kernels.attention))
    complete = lambda q, k, v, s: np.asarray(run(q[:, place], k[:, place], v[:, place], s[:, place]))[
        :, np.argsort(place)
    ]
    q, k, v, segments = arrays()
    before = complete(q, k, v, segments)
    for first in range(5, LENGTH, LENGTH // 4):
        changed = [np.concatenate([a[:, :first], -a[:, first:]], axis=1) for a in (k, v)]
        after = complete(q, *changed, segments)
        np.testing.assert_array_equal(after[:, :first], before[:, :first])
        assert (np.abs(after - before)[:, first:].max(axis=(2, 3)) > 1e-3).all()
