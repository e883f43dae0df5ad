"""The output head and its loss. Shape suffixes as in `layers.py`."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from dots_jax.model.kernels import cross_entropy
from dots_jax.model.layers import weight
from dots_jax.parallel.mesh import BATCH_AXES, gather_parameter, parameter_spec


class Head(nnx.Module):
    """Hidden states -> logits over the vocabulary. Its matrix is not tied to the embedding."""

    def __init__(
        self, hidden_size: int, vocab_size: int, *, init_std: float, dtype: jnp.dtype, mesh: Mesh | None, rngs: nnx.Rngs
    ):
        self.w_DV = weight(rngs, (hidden_size, vocab_size), ("embed", "vocab"), init_std)
        self.dtype, self.mesh = dtype, mesh

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """float32 logits [B, T, V]: for a few tokens. Training and scoring never form them all, see `loss_sum`."""
        return jnp.matmul(x_BTD, self.w_DV[...].astype(self.dtype), preferred_element_type=jnp.float32)

    def loss_sum(self, x_BTD: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array, chunk_tokens: int) -> jax.Array:
        """Sum over the batch of weight * negative log-likelihood: a float32 scalar in nats.

        Logits of at most `chunk_tokens` tokens a device exist at a time (0: all). The matrix is gathered once, and its
        gradient scattered once, whatever the number of chunks.
        """
        w_DV = self.w_DV[...]
        if self.mesh is None:
            return _local_loss_sum(x_BTD, w_DV.astype(self.dtype), targets_BT, weights_BT, chunk_tokens)
        spec, batch = parameter_spec(self.w_DV.get_metadata("logical"), w_DV.shape, self.mesh), PartitionSpec(BATCH_AXES)

        def local(x_BTD, w_DV, targets_BT, weights_BT):
            w_DV = gather_parameter(w_DV.astype(self.dtype), spec)
            return jax.lax.psum(_local_loss_sum(x_BTD, w_DV, targets_BT, weights_BT, chunk_tokens), BATCH_AXES)

        return jax.shard_map(local, mesh=self.mesh, in_specs=(batch, spec, batch, batch), out_specs=PartitionSpec())(
            x_BTD, w_DV, targets_BT, weights_BT
        )


def _local_loss_sum(x_BTD, w_DV, targets_BT, weights_BT, chunk_tokens):
    rows = targets_BT.size
    chunk = min(chunk_tokens or rows, rows)
    # Rows that fill up the last chunk weigh nothing.
    padded = [
        jnp.pad(a, ((0, -rows % chunk),) + ((0, 0),) * (a.ndim - 1))
        for a in (x_BTD.reshape(rows, -1), targets_BT.reshape(-1), weights_BT.reshape(-1))
    ]
    return cross_entropy(padded[0], w_DV, padded[1], padded[2], chunk)
