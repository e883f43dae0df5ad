"""`after`: a dependence that changes no bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dots_jax.parallel.order import after

ODD = [0.0, -0.0, 1.5, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("other", [np.float32(ODD), np.int32([-1, 7]), np.array(ODD[::-1], jnp.bfloat16)], ids=str)
@pytest.mark.parametrize("x", [np.float32(ODD), np.array(ODD, jnp.bfloat16), np.int32([-5, 0, 2**31 - 1])], ids=str)
def test_not_a_bit_changes(x, other):
    actual = np.asarray(jax.jit(after)(x, other, other[:, None]))
    assert actual.dtype == x.dtype and actual.tobytes() == x.tobytes()


def test_the_compiler_cannot_tell():
    """What the other comes from is still computed in the compiled program."""
    text = jax.jit(lambda x, y: after(x, jnp.sin(y))).lower(jnp.ones(8), jnp.ones(64)).compile().as_text()
    assert " sine(" in text


def test_gradients_pass_as_if_it_were_not_there():
    dx, dy = jax.grad(lambda x, y: jnp.sum(after(x, y) ** 3), (0, 1))(jnp.arange(4.0), jnp.ones(2))
    np.testing.assert_array_equal(dx, 3 * jnp.arange(4.0) ** 2)
    np.testing.assert_array_equal(dy, 0)
