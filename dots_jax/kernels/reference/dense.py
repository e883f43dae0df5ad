"""The dense matrix product in plain JAX. Its gradients are written out as in `kernels/tpu/dense.py`, from which it differs in
barriers alone."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def dense(x_BTD: jax.Array, w_DF: jax.Array) -> jax.Array:
    """x @ w: [B, T, F]."""
    return x_BTD @ w_DF


def _dense_backward(saved, dy_BTF):
    x_BTD, w_DF = saved
    return dy_BTF @ w_DF.T, jnp.einsum("BTD,BTF->DF", x_BTD, dy_BTF)


dense.defvjp(lambda x_BTD, w_DF: (x_BTD @ w_DF, (x_BTD, w_DF)), _dense_backward)


def keep_layout(x_BTD: jax.Array) -> jax.Array:
    """The compiler chooses the layout."""
    return x_BTD
