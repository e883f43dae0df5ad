"""What the heads of one layer look at. Shape suffixes as in `model/layers.py`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dots_jax.analysis.restored_model import RestoredModel
from dots_jax.config import UserError
from dots_jax.model.rope import rope_table


def attention_map(model: RestoredModel, ids: Sequence[int], layer: int) -> np.ndarray:
    """The attention of every head of a layer (0 is the dense one) on one text, float32 [N, T, S]: rows sum to 1.

    Costs the layers up to that one, and N * T * T numbers.
    """
    if not 0 <= layer < model.config.num_layers:
        raise UserError(f"{layer} is out of range: the layers are 0 to {model.config.num_layers - 1}.")
    if not 0 < len(ids) <= model.config.max_seq_len:
        raise UserError(f"The text has {len(ids)} tokens, and the model takes 1 to {model.config.max_seq_len}.")
    tokens_BT = jnp.asarray(ids, jnp.int32)[None]
    return np.asarray(jax.jit(_attention_map, static_argnums=(0, 4))(
        model.definition, model.params, model.router_bias, tokens_BT, layer
    )[0])  # fmt: skip


def _attention_map(definition, params, router_bias, tokens_BT, layer):
    transformer = definition.bind(params, router_bias)
    graph, stack = nnx.split(transformer.moe_blocks)
    positions_BT, segments_BT = jnp.arange(tokens_BT.shape[1])[None], jnp.ones_like(tokens_BT)
    rope = rope_table(positions_BT, definition.config.head_dim, definition.config.rope_theta)
    x_BTD, block = transformer.embed(tokens_BT), transformer.dense_block
    for index in range(layer):
        y = block(x_BTD, rope, segments_BT)
        x_BTD = y if index == 0 else y[0]  # a mixture of experts also gives its router's statistics
        block = nnx.merge(graph, jax.tree.map(lambda a, place=index: a[place], stack))
    q_BTNH, k_BSNH, _ = block.attention.qkv(block.attention_norm(x_BTD), rope)
    scores_BNTS = jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BSNH, preferred_element_type=jnp.float32)
    causal_TS = jnp.tril(jnp.ones(scores_BNTS.shape[2:], bool))
    return jax.nn.softmax(jnp.where(causal_TS, scores_BNTS * q_BTNH.shape[3] ** -0.5, -jnp.inf), axis=-1)
