"""Draws: their frequencies, what top-k and top-p leave, and what they depend on.

Claim: draws have the frequencies of their probabilities.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dots_jax.config import UserError
from dots_jax.inference.sampling import Sampling, sample

LOGITS = np.array([2.0, 1.5, 1.0, 0.0, -1.0, -np.inf, 1.5, -3.0], np.float32)
DRAWS = 20_000
CHI_SQUARE_1_IN_10000 = {1: 15.1, 2: 18.4, 3: 21.1, 6: 27.9}  # by degrees of freedom


def draw(sampling: Sampling, number: int = 0, index: int = 0) -> np.ndarray:
    """One token for each of many rows. number: of the sample."""
    logits_BV = jnp.tile(LOGITS, (DRAWS, 1))
    same = [jnp.full(DRAWS, n) for n in (number, index)]
    return np.asarray(jax.jit(sample, static_argnums=1)(logits_BV, sampling, jnp.arange(DRAWS), *same))


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits.astype(np.float64) - logits.max())
    return e / e.sum()


def assert_frequencies(tokens: np.ndarray, probabilities: np.ndarray) -> None:
    counts, possible = np.bincount(tokens, minlength=len(probabilities)), probabilities > 0
    assert not counts[~possible].any()
    expected = DRAWS * probabilities[possible]
    statistic = ((counts[possible] - expected) ** 2 / expected).sum()
    assert statistic < CHI_SQUARE_1_IN_10000[possible.sum() - 1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_probabilities(temperature):
    assert_frequencies(draw(Sampling(temperature, seed=7)), softmax(LOGITS / temperature))


def keep(probabilities: np.ndarray, kept: list[int]) -> np.ndarray:
    left = np.where(np.isin(np.arange(len(probabilities)), kept), probabilities, 0)
    return left / left.sum()


def test_top_k():
    assert_frequencies(draw(Sampling(1.0, top_k=4)), keep(softmax(LOGITS), [0, 1, 2, 6]))
    # Two that tie for the last place: exactly k stay.
    assert_frequencies(draw(Sampling(1.0, top_k=2)), keep(softmax(LOGITS), [0, 1]))
    assert (draw(Sampling(1.0, top_k=1)) == 0).all()
    assert_frequencies(draw(Sampling(1.0, top_k=1000)), softmax(LOGITS))


def test_top_p():
    probabilities = softmax(LOGITS)  # 0.38, 0.23, 0.23, 0.14, ...
    assert_frequencies(draw(Sampling(1.0, top_p=probabilities[[0, 1, 6]].sum() - 0.01)), keep(probabilities, [0, 1, 6]))
    assert_frequencies(
        draw(Sampling(1.0, top_p=probabilities[[0, 1, 6]].sum() + 0.01)), keep(probabilities, [0, 1, 2, 6])
    )
    assert (draw(Sampling(1.0, top_p=1e-6)) == 0).all()
    # After top_k: of the two that are left, the first has 0.62.
    assert (draw(Sampling(1.0, top_k=2, top_p=0.6)) == 0).all()
    # After temperature: colder, the first has more than 0.6 alone.
    assert (draw(Sampling(0.2, top_p=0.6)) == 0).all()


def test_greedy_is_the_largest():
    assert (draw(Sampling()) == 0).all()


def test_draws_depend_on_seed_row_sample_and_index():
    one = draw(Sampling(1.0, seed=1))
    np.testing.assert_array_equal(one, draw(Sampling(1.0, seed=1)))
    others = draw(Sampling(1.0, seed=2)), draw(Sampling(1.0, seed=1), index=1), np.roll(one, 1)
    others += (draw(Sampling(1.0, seed=1), number=1),)
    agreement = (softmax(LOGITS) ** 2).sum()
    for other in others:
        assert abs((one == other).mean() - agreement) < 0.02  # as often as independent draws agree


@pytest.mark.parametrize(
    "fields, named",
    [({"temperature": -1.0}, "--temperature"), ({"temperature": float("nan")}, "--temperature"),
     ({"top_p": 0.0}, "--top_p"), ({"top_p": 1.5}, "--top_p"), ({"top_k": -1}, "--top_k"), ({"seed": 2**31}, "--seed")],
)  # fmt: skip
def test_settings_that_cannot_work(fields, named):
    with pytest.raises(UserError, match=named):
        Sampling(**fields)
