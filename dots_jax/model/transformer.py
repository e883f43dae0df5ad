"""dots.llm1: embed -> dense block -> scan over the mixture-of-experts blocks -> norm; then the head (report, section 2).

Shape suffixes as in `layers.py`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from dots_jax.config import ModelConfig
from dots_jax.model.attention import Attention, rope_table
from dots_jax.model.head import Head
from dots_jax.model.layers import FeedForward, RMSNorm, weight
from dots_jax.model.moe import MoE, RouterStats
from dots_jax.parallel.mesh import BATCH_AXES, batch_sharding, gather_parameter, parameter_spec

REMAT_POLICIES: dict[str, Callable | None] = {
    "full": None,
    "attention": jax.checkpoint_policies.save_only_these_names("attention"),
    "matmuls": jax.checkpoint_policies.save_only_these_names("qkv", "attention", "attended", "routing", "hidden"),
}


class Embedding(nnx.Module):
    """Token ids -> hidden states."""

    def __init__(
        self, vocab_size: int, hidden_size: int, *, init_std: float, dtype: jnp.dtype, mesh: Mesh | None, rngs: nnx.Rngs
    ):
        self.w_VD = weight(rngs, (vocab_size, hidden_size), ("vocab", "embed"), init_std)
        self.dtype, self.mesh = dtype, mesh

    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        w_VD = self.w_VD[...].astype(self.dtype)
        if self.mesh is None:
            return w_VD[tokens_BT]
        # By hand: the partitioner would otherwise move the activations, and their gradients, through every device.
        spec, batch = (
            parameter_spec(self.w_VD.get_metadata("logical"), w_VD.shape, self.mesh),
            PartitionSpec(BATCH_AXES),
        )
        lookup = jax.shard_map(
            lambda w_VD, tokens_BT: gather_parameter(w_VD, spec)[tokens_BT],
            mesh=self.mesh, in_specs=(spec, batch), out_specs=batch,
        )  # fmt: skip
        return lookup(w_VD, tokens_BT)


class DenseBlock(nnx.Module):
    """Layer 0: attention and a dense feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, attention: Attention, ffn: FeedForward, hidden_size: int, *, norm_epsilon: float):
        self.attention_norm = RMSNorm(hidden_size, epsilon=norm_epsilon, logical="embed")
        self.attention = attention
        self.ffn_norm = RMSNorm(hidden_size, epsilon=norm_epsilon, logical="embed")
        self.ffn = ffn

    def __call__(self, x_BTD, rope, segments_BT):
        x_BTD += self.attention(self.attention_norm(x_BTD), rope, segments_BT)
        return x_BTD + self.ffn(self.ffn_norm(x_BTD))


class MoEBlock(nnx.Module):
    """Layers 1 and up: the same with a mixture of experts in place of the dense feed-forward."""

    def __init__(self, attention: Attention, moe: MoE, hidden_size: int, *, norm_epsilon: float):
        self.attention_norm = RMSNorm(hidden_size, epsilon=norm_epsilon, logical="embed")
        self.attention = attention
        self.ffn_norm = RMSNorm(hidden_size, epsilon=norm_epsilon, logical="embed")
        self.moe = moe

    def __call__(self, x_BTD, rope, segments_BT):
        x_BTD += self.attention(self.attention_norm(x_BTD), rope, segments_BT)
        y_BTD, stats = self.moe(self.ffn_norm(x_BTD), segments_BT != 0)
        return x_BTD + y_BTD, stats


def stack(make_block: Callable[[nnx.Rngs], nnx.Module], rngs: nnx.Rngs, num_layers: int) -> nnx.Module:
    """`num_layers` blocks as one module, every array with a leading layer axis, each layer with keys of its own."""
    graph, _ = nnx.split(nnx.eval_shape(lambda: make_block(nnx.Rngs(params=0))))
    arrays = jax.vmap(lambda key: nnx.state(make_block(nnx.Rngs(params=key))))(
        jax.random.split(rngs.params(), num_layers)
    )
    return nnx.merge(graph, arrays)


class Transformer(nnx.Module):
    """The decoder. mesh: where it runs; None means this one device, with no shard_map at all."""

    def __init__(
        self, config: ModelConfig, *, init_std: float, dtype: str, remat: str, mesh: Mesh | None, rngs: nnx.Rngs
    ):
        c, D, kind = config, config.hidden_size, jnp.dtype(dtype)

        def attention(rngs):
            return Attention(
                D, c.num_heads, c.head_dim, norm_epsilon=c.norm_epsilon, init_std=init_std, dtype=kind, rngs=rngs
            )

        def moe_block(rngs):
            moe = MoE(
                D, c.num_experts, c.experts_per_token, c.expert_ffn_size, c.shared_ffn_size,
                scaling_factor=c.routed_scaling_factor, init_std=init_std, dtype=kind, mesh=mesh, rngs=rngs,
            )  # fmt: skip
            return MoEBlock(attention(rngs), moe, D, norm_epsilon=c.norm_epsilon)

        self.embed = Embedding(c.vocab_size, D, init_std=init_std, dtype=kind, mesh=mesh, rngs=rngs)
        dense_ffn = FeedForward(D, c.dense_ffn_size, init_std=init_std, dtype=kind, rngs=rngs)
        self.dense_block = DenseBlock(attention(rngs), dense_ffn, D, norm_epsilon=c.norm_epsilon)
        self.moe_blocks = stack(moe_block, rngs, c.num_moe_layers)
        self.final_norm = RMSNorm(D, epsilon=c.norm_epsilon, logical="embed")
        self.head = Head(D, c.vocab_size, init_std=init_std, dtype=kind, mesh=mesh, rngs=rngs)
        self.head_dim, self.rope_theta = c.head_dim, c.rope_theta
        self.dtype, self.remat, self.mesh = kind, remat, mesh

    def __call__(
        self, tokens_BT: jax.Array, positions_BT: jax.Array, segments_BT: jax.Array
    ) -> tuple[jax.Array, RouterStats]:
        """Hidden states before the head, [B, T, D] in the compute dtype, and the statistics of every MoE layer
        (load_E as [L, E], balance as [L]).

        positions_BT count from 0 in each document; segments_BT number the documents of a row from 1, and 0 is padding.
        """
        rope = rope_table(positions_BT, self.head_dim, self.rope_theta)
        x_BTD = self.embed(tokens_BT)

        dense_graph, dense = nnx.split(self.dense_block)
        moe_graph, layers = nnx.split(self.moe_blocks)

        def dense_layer(x_BTD, arrays):
            return self._spread(nnx.merge(dense_graph, arrays)(x_BTD, rope, segments_BT))

        def moe_layer(x_BTD, arrays):
            x_BTD, stats = nnx.merge(moe_graph, arrays)(x_BTD, rope, segments_BT)
            return self._spread(x_BTD), stats

        x_BTD = self._rematerialised(dense_layer)(x_BTD, dense)
        x_BTD, stats = jax.lax.scan(self._rematerialised(moe_layer), x_BTD, layers)
        return self.final_norm(x_BTD), stats

    def _spread(self, x_BTD: jax.Array) -> jax.Array:
        return x_BTD if self.mesh is None else jax.lax.with_sharding_constraint(x_BTD, batch_sharding(self.mesh))

    def _rematerialised(self, body: Callable) -> Callable:
        return body if self.remat == "none" else jax.checkpoint(body, policy=REMAT_POLICIES[self.remat])
