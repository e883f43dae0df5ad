"""The output head and its loss. Shape suffixes as in `layers.py`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from dots_jax.model.kernels import cross_entropy, token_nll
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

        def local(w_DV, x_BTD, targets_BT, weights_BT):
            chunk, x, targets, weights = _rows(chunk_tokens, x_BTD, targets_BT, weights_BT)
            return cross_entropy(x, w_DV, targets, weights, chunk)

        return self._over_mesh(local, x_BTD, targets_BT, weights_BT, summed=True)

    def token_nll(self, x_BTD: jax.Array, targets_BT: jax.Array, chunk_tokens: int) -> jax.Array:
        """The negative log-likelihood of each target, float32 [B, T] in nats; memory as in `loss_sum`."""

        def local(w_DV, x_BTD, targets_BT):
            chunk, x, targets = _rows(chunk_tokens, x_BTD, targets_BT)
            return token_nll(x, w_DV, targets, chunk)[: targets_BT.size].reshape(targets_BT.shape)

        return self._over_mesh(local, x_BTD, targets_BT, summed=False)

    def _over_mesh(self, local: Callable, *batch_arrays: jax.Array, summed: bool) -> jax.Array:
        """`local(w_DV, *shards)` on every device with the whole matrix; the result summed, or one row of it for each row
        of the batch."""
        w_DV = self.w_DV[...].astype(self.dtype)
        if self.mesh is None:
            return local(w_DV, *batch_arrays)
        spec, batch = (
            parameter_spec(self.w_DV.get_metadata("logical"), w_DV.shape, self.mesh),
            PartitionSpec(BATCH_AXES),
        )

        def on_device(w_DV, *shards):
            result = local(gather_parameter(w_DV, spec), *shards)
            return jax.lax.psum(result, BATCH_AXES) if summed else result

        return jax.shard_map(
            on_device,
            mesh=self.mesh,
            in_specs=(spec,) + (batch,) * len(batch_arrays),
            out_specs=PartitionSpec() if summed else batch,
        )(w_DV, *batch_arrays)


def _rows(chunk_tokens: int, *arrays_BT: jax.Array) -> tuple:
    """The chunk size, and each [B, T, ...] as rows [R, ...], filled up with zeros to whole chunks: they weigh nothing."""
    rows = arrays_BT[0].shape[0] * arrays_BT[0].shape[1]
    chunk = min(chunk_tokens or rows, rows)
    flat = [a.reshape(rows, *a.shape[2:]) for a in arrays_BT]
    return chunk, *(jnp.pad(a, ((0, -rows % chunk),) + ((0, 0),) * (a.ndim - 1)) for a in flat)
