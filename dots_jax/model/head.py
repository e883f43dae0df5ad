"""The output head and its loss. Shape suffixes as in `model/layers.py`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from dots_jax.kernels.reference.cross_entropy import cross_entropy, token_nll
from dots_jax.model.parameters import weight
from dots_jax.model.shard_map_module import shard_map_module
from dots_jax.parallel.collectives import psum, unshard, unshard_fn
from dots_jax.parallel.mesh import AXES
from dots_jax.parallel.sharding import TOKENS


class Head(nnx.Module):
    """Hidden states -> logits over the vocabulary. Its matrix is not tied to the embedding."""

    def __init__(
        self, hidden_size: int, vocab_size: int, *, init_std: float, dtype: jnp.dtype, mesh: Mesh | None, rngs: nnx.Rngs
    ):
        self.w_DV = weight(
            rngs, (hidden_size, vocab_size), ("embed", "vocab"), std=init_std, part="head", compute_dtype=dtype
        )
        self.mesh = mesh

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """float32 logits [B, T, V], for a few tokens. Training and scoring never form all of them, see `loss_sum`."""
        return jnp.matmul(x_BTD, unshard(self.w_DV), preferred_element_type=jnp.float32)

    def loss_sum(self, x_BTD: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array, chunk_tokens: int) -> jax.Array:
        """Sum over the batch of weight * negative log-likelihood: a float32 scalar in nats.

        Logits of at most `chunk_tokens` tokens a device exist at a time (0: all). The matrix is gathered once, and its
        gradient scattered once, whatever the number of chunks.
        """

        def local(head, x_BTD, targets_BT, weights_BT):
            with jax.named_scope("head"):
                chunk, x, targets, weights = _rows(chunk_tokens, x_BTD, targets_BT, weights_BT)
                total = cross_entropy(x, head.w_DV[...], targets, weights, chunk, unshard_fn(head.w_DV))
                return psum(total, AXES)

        return self._on_mesh(local, x_BTD, targets_BT, weights_BT, out_specs=PartitionSpec())

    def token_nll(self, x_BTD: jax.Array, targets_BT: jax.Array, chunk_tokens: int) -> jax.Array:
        """The negative log-likelihood of each target, float32 [B, T] in nats; memory as in `loss_sum`."""

        def local(head, x_BTD, targets_BT):
            chunk, x, targets = _rows(chunk_tokens, x_BTD, targets_BT)
            nll = token_nll(x, unshard(head.w_DV), targets, chunk)
            return nll[: targets_BT.size].reshape(targets_BT.shape)

        return self._on_mesh(local, x_BTD, targets_BT, out_specs=TOKENS)

    def _on_mesh(self, local: Callable, *arrays: jax.Array, out_specs) -> jax.Array:
        if self.mesh is None:
            return local(self, *arrays)
        return shard_map_module(self, local, self.mesh, arrays, out_specs, check_vma=True)


def _rows(chunk_tokens: int, *arrays_BT: jax.Array) -> tuple:
    """The chunk size, and each [B, T, ...] as rows [R, ...], padded with zeros to full chunks; the loss weights of
    padding are zero."""
    rows = arrays_BT[0].shape[0] * arrays_BT[0].shape[1]
    chunk = min(chunk_tokens or rows, rows)
    flat = [a.reshape(rows, *a.shape[2:]) for a in arrays_BT]
    return chunk, *(jnp.pad(a, ((0, -rows % chunk),) + ((0, 0),) * (a.ndim - 1)) for a in flat)
