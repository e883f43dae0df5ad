"""Which experts a token is sent to, and how their load is kept even (report, section 2; DeepSeek-V3, section 2.1.2).

Shape suffixes as in `model/layers.py`. Everything here is float32, whatever the compute dtype.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dots_jax.parallel.collectives import psum
from dots_jax.parallel.mesh import CONTEXT


def route(
    x_BTD: jax.Array, w_DE: jax.Array, bias_E: jax.Array, *, experts_per_token: int, scaling_factor: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Chooses K experts for each token.

    Scores are sigmoid(x @ w). The K largest of score + bias are chosen; their gates are the scores without the bias,
    normalised to sum 1 (epsilon 1e-20), times scaling_factor. The bias therefore gets no gradient.

    Returns:
      ids_BTK int32, gates_BTK float32, scores_BTE float32.
    """
    logits_BTE = jnp.matmul(x_BTD.astype(jnp.float32), w_DE, precision=jax.lax.Precision.HIGHEST)
    scores_BTE = jax.nn.sigmoid(logits_BTE)
    _, ids_BTK = jax.lax.top_k(jax.lax.stop_gradient(scores_BTE) + bias_E, experts_per_token)
    scores_BTE, ids_BTK = checkpoint_name((scores_BTE, ids_BTK), "routing")
    gates_BTK = jnp.take_along_axis(scores_BTE, ids_BTK, axis=-1)
    gates_BTK = gates_BTK / (jnp.sum(gates_BTK, axis=-1, keepdims=True) + 1e-20) * scaling_factor
    return ids_BTK, gates_BTK, scores_BTE


def count_load(ids_BTK: jax.Array, token_mask_BT: jax.Array, num_experts: int) -> jax.Array:
    """How many tokens of each sequence chose each expert, without padding, int32 [B, E]."""
    chosen_BTKE = (ids_BTK[..., None] == jnp.arange(num_experts)) & token_mask_BT[:, :, None, None]
    return jnp.sum(chosen_BTKE, axis=(1, 2), dtype=jnp.int32)


def sequence_balance_loss(
    scores_BTE: jax.Array, load_BE: jax.Array, token_mask_BT: jax.Array, experts_per_token: int
) -> jax.Array:
    """sum_e f_e * P_e for each sequence, float32 [B]; 1 when perfectly even (DeepSeek-V3, equations 17-20).

    f_e is the load of expert e over its even share, P_e the mean over tokens of its score normalised over experts.
    The load is that of the choice with the bias: what the loss evens out. Padding does not count; sequences of padding give 0.
    Inside shard_map a sequence may be split along the context axis: its sums are taken over all pieces.
    """
    num_experts = scores_BTE.shape[-1]
    normalised_BTE = scores_BTE / (jnp.sum(scores_BTE, axis=-1, keepdims=True) + 1e-20)
    sums = (jnp.sum(token_mask_BT, axis=1), load_BE, jnp.sum(normalised_BTE * token_mask_BT[:, :, None], axis=1))
    count_B, load_BE, P_BE = psum(sums, CONTEXT)
    count_B = jnp.maximum(count_B, 1).astype(jnp.float32)
    f_BE = load_BE * (num_experts / experts_per_token) / count_B[:, None]
    return jnp.sum(f_BE * P_BE / count_B[:, None], axis=-1)


def update_bias(bias_LE: jax.Array, load_LE: jax.Array, rate: float) -> jax.Array:
    """bias += rate * sign(mean load - load): once a step, from the counts of the global batch.

    The counts are integers summed over every shard and microbatch before the sign is taken, so the result is the
    same to the bit however the batch was split.
    """
    load_LE = load_LE.astype(jnp.float32)
    mean_L1 = jnp.mean(load_LE, axis=-1, keepdims=True)
    return bias_LE + rate * jnp.sign(mean_L1 - load_LE)
