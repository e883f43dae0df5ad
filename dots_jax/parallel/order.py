"""In which order a program runs what does not depend on each other."""

import jax
import jax.numpy as jnp


@jax.custom_jvp
def after(x: jax.Array, *others: jax.Array) -> jax.Array:
    """x, bit for bit, once the others are there: a real dependence, for x of 16 or 32 bits a number.

    The TPU compiler drops an optimization_barrier before it makes its schedule. So the lowest bits of x are combined with
    a zero that it cannot know to be one: the upper 16 of 32 bits that hold 16 bits of each of the others. What combines them
    fuses into whatever makes x.
    """
    zero = jnp.uint32(0)
    for other in others:
        first = jax.lax.convert_element_type(other[(0,) * other.ndim], jnp.bfloat16)
        zero |= jax.lax.bitcast_convert_type(first, jnp.uint16).astype(jnp.uint32) >> 16
    bits = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(x, bits) | zero.astype(bits), x.dtype)


@after.defjvp
def _after_jvp(primals, tangents):
    return after(*primals), tangents[0]
