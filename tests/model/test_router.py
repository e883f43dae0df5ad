"""Routing, load counts, the balance loss and the bias rule, against arithmetic done by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numerics import MODULE, assert_close, input_dtypes

from dots_jax.model import router

E, K = 6, 2


@jax.jit
def route(x_BTD, w_DE, bias_E):
    return router.route(x_BTD, w_DE, bias_E, experts_per_token=K, scaling_factor=2.5)


@pytest.fixture
def operands():
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in ((3, 7, 8), (8, E), (E,)))


def test_choice_is_by_biased_score_and_gates_are_not(operands):
    x_BTD, w_DE, bias_E = (np.asarray(a, np.float64) for a in operands)
    scores_BTE = 1 / (1 + np.exp(-(x_BTD @ w_DE)))
    chosen_BTK = np.argsort(-(scores_BTE + bias_E), axis=-1)[..., :K]
    unbiased_BTK = np.argsort(-scores_BTE, axis=-1)[..., :K]
    assert (np.sort(chosen_BTK) != np.sort(unbiased_BTK)).any(), "the bias must matter here"
    gates_BTK = np.take_along_axis(scores_BTE, chosen_BTK, -1)
    gates_BTK = 2.5 * gates_BTK / gates_BTK.sum(-1, keepdims=True)

    ids, gates, scores = route(*operands)
    np.testing.assert_array_equal(ids, chosen_BTK)
    assert_close((gates, scores), (gates_BTK, scores_BTE), MODULE)
    np.testing.assert_allclose(gates.sum(-1), 2.5, rtol=1e-6)


def test_scores_of_zero_give_finite_gates():
    """sigmoid(-200) is 0 in float32; the epsilon keeps 0 / 0 away."""
    _, gates, _ = route(np.full((3, 7, 8), -50, np.float32), np.ones((8, E), np.float32), np.zeros(E, np.float32))
    np.testing.assert_array_equal(gates, 0)


def test_no_gradient_reaches_the_bias(operands):
    def total(x_BTD, w_DE, bias_E):
        ids, gates, scores = route(x_BTD, w_DE, bias_E)
        load = router.count_load(ids, jnp.ones(x_BTD.shape[:2], bool), E)
        balance = router.sequence_balance_loss(scores, load, jnp.ones(x_BTD.shape[:2], bool), K)
        return jnp.sum(gates * jnp.arange(K)) + jnp.sum(scores**2) + jnp.sum(balance)

    _, dw_DE, dbias_E = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*operands)
    np.testing.assert_array_equal(dbias_E, 0)
    assert np.abs(dw_DE).min() > 0


def test_everything_is_float32_even_for_bfloat16_inputs(operands):
    x_BTD, w_DE, bias_E = operands
    x_BTD = x_BTD.astype(jnp.bfloat16)  # numpy knows it through jax
    jaxpr = jax.make_jaxpr(route)(x_BTD, w_DE, bias_E)
    assert input_dtypes(jaxpr, "dot_general") == input_dtypes(jaxpr, "logistic") == {"float32"}
    assert input_dtypes(jaxpr, "top_k") == {"float32"}
    ids, gates, scores = route(x_BTD, w_DE, bias_E)
    assert (ids.dtype, gates.dtype, scores.dtype) == (jnp.int32, jnp.float32, jnp.float32)
    # Not merely stored in float32: computed in it.
    exact = 1 / (1 + np.exp(-(np.asarray(x_BTD, np.float64) @ np.asarray(w_DE, np.float64))))
    assert_close(scores, exact, 1e-6)


def test_counts():
    ids_BTK = jnp.array([[[0, 1], [1, 2], [5, 0]], [[3, 4], [3, 5], [3, 0]]])
    token_mask_BT = jnp.array([[True, True, False], [True, True, True]])
    load_BE = router.count_load(ids_BTK, token_mask_BT, E)
    assert load_BE.dtype == jnp.int32
    np.testing.assert_array_equal(load_BE, [[1, 2, 1, 0, 0, 0], [1, 0, 0, 3, 1, 1]])


@jax.jit
def balance_by_hand(scores, real):
    """One expert a token of two, scores [B][T][2]; f and P spelled out."""
    scores_BTE, token_mask_BT = jnp.array(scores), jnp.array(real)
    load_BE = router.count_load(jnp.argmax(scores_BTE, -1)[..., None], token_mask_BT, 2)
    return router.sequence_balance_loss(scores_BTE, load_BE, token_mask_BT, 1)


def test_balance_loss_by_hand():
    even = [[0.6, 0.2], [0.3, 0.9]]  # f = (1, 1), P = (3/4 + 1/4, 1/4 + 3/4) / 2
    skewed = [[0.6, 0.2], [0.9, 0.3]]  # f = (2, 0), P = (3/4, 1/4)
    both = [[True, True]] * 2
    np.testing.assert_allclose(balance_by_hand([even, skewed], both), [1.0, 1.5], rtol=1e-6)
    np.testing.assert_allclose(balance_by_hand([even, skewed], [[True] * 2, [False] * 2]), [1.0, 0.0], rtol=1e-6)
    # Of three tokens, one is padding; it would have evened things out.
    padded = [[0.6, 0.2], [0.1, 0.9], [0.9, 0.3]]
    np.testing.assert_allclose(balance_by_hand([padded], [[True, False, True]]), [1.5], rtol=1e-6)


def test_balance_loss_gradient_lowers_the_scores_of_overloaded_experts():
    """d/ds of f . s / sum(s) by hand, for one token that is the complete sequence: ((f - loss) / sum(s))."""
    scores, load, real = np.array([[[0.6, 0.2]]], np.float32), np.array([[1, 0]]), np.array([[True]])
    gradient = jax.jit(jax.grad(lambda s: router.sequence_balance_loss(s, load, real, 1)[0]))(scores)
    np.testing.assert_allclose(gradient, [[[(2 - 1.5) / 0.8, (0 - 1.5) / 0.8]]], rtol=1e-5)


def test_bias_steps_towards_the_mean_load():
    bias_LE = jnp.array([[0.5, 0.0, -0.5], [0.0, 0.0, 0.0]])
    load_LE = jnp.array([[9, 3, 0], [2, 2, 2]], jnp.int32)
    updated = router.update_bias(bias_LE, load_LE, 0.25)
    np.testing.assert_array_equal(updated, [[0.25, 0.25, -0.25], [0.0, 0.0, 0.0]])
    assert updated.dtype == jnp.float32
    np.testing.assert_array_equal(router.update_bias(bias_LE, load_LE, 0.0), bias_LE)
