"""Attention on GPUs, by cuDNN. Shape suffixes as in `model/layers.py`."""

import jax
import jax.numpy as jnp

from dots_jax.kernels.reference.attention import attention as plain_attention


def attention(q_BTNH, k_BSNH, v_BSNH, segments_BT, segments_BS, start: int) -> jax.Array:
    """`kernels.attention` by cuDNN's fused kernel, for half precision; what segments hide is an input of it, as a bias.

    Costs 2 B T S bytes for that bias, and as many for its gradient, which cuDNN writes and nobody reads. The kernel keeps
    no name for remat: what the backward pass needs of attention is computed again, unless remat is `none`.
    """
    if q_BTNH.dtype == jnp.float32:
        return plain_attention(q_BTNH, k_BSNH, v_BSNH, segments_BT, segments_BS, start)
    mask_BTS = segments_BT[:, :, None] == segments_BS[:, None, :]
    T, S = q_BTNH.shape[1], k_BSNH.shape[1]
    square = T == S  # then cuDNN applies the causal mask itself, and skips the tiles above the diagonal
    if not square:
        mask_BTS &= start + jnp.arange(T)[:, None] >= jnp.arange(S)
    return jax.nn.dot_product_attention(
        q_BTNH, k_BSNH, v_BSNH, mask=mask_BTS[:, None], is_causal=square, implementation="cudnn"
    )
