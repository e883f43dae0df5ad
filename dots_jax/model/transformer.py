"""dots.llm1: embed -> dense block -> scan over the mixture-of-experts blocks -> norm; then the head (report, section 2).

Shape suffixes as in `model/layers.py`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, PartitionSpec

from dots_jax.config import ComputeConfig, ModelConfig
from dots_jax.kernels.select import kernels_for
from dots_jax.model.attention import Attention
from dots_jax.model.experts.strategy import choose_strategy
from dots_jax.model.head import Head
from dots_jax.model.layers import FeedForward, RMSNorm
from dots_jax.model.moe import MoE, RouterStats, sum_statistics
from dots_jax.model.parameters import in_layers, weight
from dots_jax.model.rope import rope_table
from dots_jax.model.shard_map_module import shard_map_module
from dots_jax.parallel.collectives import unshard
from dots_jax.parallel.sharding import TOKENS


def remat_policy(compute: ComputeConfig) -> Callable | None:
    """What the backward pass finds saved, on the device or in host memory; None: nothing but the input of each layer."""
    if compute.offloaded:
        return jax.checkpoint_policies.save_and_offload_only_these_names(
            names_which_can_be_saved=sorted(compute.saved), names_which_can_be_offloaded=sorted(compute.offloaded),
            offload_src="device", offload_dst="pinned_host",
        )  # fmt: skip
    return jax.checkpoint_policies.save_only_these_names(*sorted(compute.saved)) if compute.saved else None


class Embedding(nnx.Module):
    """Token ids -> hidden states."""

    def __init__(self, vocab_size: int, hidden_size: int, *, init_std: float, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.w_VD = weight(
            rngs, (vocab_size, hidden_size), ("vocab", "embed"), std=init_std, part="embedding", compute_dtype=dtype
        )

    def __call__(self, tokens_BT: jax.Array) -> jax.Array:
        with jax.named_scope("embed"):
            return unshard(self.w_VD)[tokens_BT]


class DenseBlock(nnx.Module):
    """Layer 0: attention and a dense feed-forward, each after a norm and added to the residual stream."""

    def __init__(self, attention: Attention, ffn: FeedForward, hidden_size: int, *, norm_epsilon: float):
        self.attention_norm = RMSNorm(hidden_size, epsilon=norm_epsilon)
        self.attention = attention
        self.ffn_norm = RMSNorm(hidden_size, epsilon=norm_epsilon)
        self.ffn = ffn

    def __call__(self, x_BTD, rope, segments_BT):
        with jax.named_scope("attention"):
            x_BTD += self.attention(self.attention_norm(x_BTD), rope, segments_BT)
        with jax.named_scope("dense"):
            return x_BTD + self.ffn(self.ffn_norm(x_BTD))


class MoEBlock(nnx.Module):
    """Layers 1 and up: the same with a mixture of experts in place of the dense feed-forward."""

    def __init__(self, attention: Attention, moe: MoE, hidden_size: int, *, norm_epsilon: float):
        self.attention_norm = RMSNorm(hidden_size, epsilon=norm_epsilon)
        self.attention = attention
        self.ffn_norm = RMSNorm(hidden_size, epsilon=norm_epsilon)
        self.moe = moe

    def __call__(self, x_BTD, rope, segments_BT):
        with jax.named_scope("attention"):
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
    """The decoder. mesh: where it runs; None means this one device, with no shard_map at all. platform: of the devices,
    which decides the kernels. init_std: of the weights."""

    def __init__(
        self, config: ModelConfig, compute: ComputeConfig, *, init_std: float, mesh: Mesh | None, platform: str,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        c, D, kind, kernels = config, config.hidden_size, jnp.dtype(compute.dtype), kernels_for(platform)
        strategy = choose_strategy(
            compute.expert_strategy, expert_devices=mesh.shape["expert"] if mesh is not None else 1,
            capacity_factor=compute.expert_capacity_factor, kernels=kernels,
        )  # fmt: skip

        def attention(rngs):
            return Attention(
                D, c.num_heads, c.head_dim, norm_epsilon=c.norm_epsilon, init_std=init_std, dtype=kind, kernels=kernels,
                rngs=rngs,
            )  # fmt: skip

        def moe_block(rngs):
            moe = MoE(
                D, c.num_experts, c.experts_per_token, c.expert_ffn_size, c.shared_ffn_size,
                scaling_factor=c.routed_scaling_factor, expert_strategy=strategy, init_std=init_std, dtype=kind, kernels=kernels,
                rngs=rngs,
            )  # fmt: skip
            return MoEBlock(attention(rngs), moe, D, norm_epsilon=c.norm_epsilon)

        self.embed = Embedding(c.vocab_size, D, init_std=init_std, dtype=kind, rngs=rngs)
        dense_ffn = FeedForward(
            D, c.dense_ffn_size, part="dense feed-forward", init_std=init_std, dtype=kind, kernels=kernels, rngs=rngs
        )
        dense_block = DenseBlock(attention(rngs), dense_ffn, D, norm_epsilon=c.norm_epsilon)
        self.dense_block = in_layers(dense_block, 0, stacked=False)
        self.moe_blocks = in_layers(stack(moe_block, rngs, c.num_moe_layers), 1, stacked=True)
        self.final_norm = RMSNorm(D, epsilon=c.norm_epsilon)
        self.head = Head(D, c.vocab_size, init_std=init_std, dtype=kind, mesh=mesh, rngs=rngs)
        self.head_dim, self.rope_theta = c.head_dim, c.rope_theta
        self.compute, self.mesh, self.kernels, self.own_kernels = compute, mesh, kernels, platform != "cpu"

    def __call__(
        self, tokens_BT: jax.Array, positions_BT: jax.Array, segments_BT: jax.Array
    ) -> tuple[jax.Array, RouterStats]:
        """Hidden states before the head, [B, T, D] in the compute dtype, and the statistics of every MoE layer
        (load_E as [L, E], the others as [L]).

        positions_BT count from 0 in each document; segments_BT number the documents of a row from 1, and 0 is padding.
        """
        if self.mesh is None:
            return self._layers(tokens_BT, positions_BT, segments_BT)
        arrays, replicated = (tokens_BT, positions_BT, segments_BT), PartitionSpec()
        # The kernels' results do not say over which axes they vary, so JAX cannot check it where they run.
        return shard_map_module(
            self, Transformer._layers, self.mesh, arrays, (TOKENS, RouterStats(*[replicated] * 4)),
            check_vma=not self.own_kernels,
        )  # fmt: skip

    def _layers(self, tokens_BT, positions_BT, segments_BT):
        """`__call__` on one device's part of the batch."""
        rope = rope_table(positions_BT, self.head_dim, self.rope_theta)
        x_BTD = self.embed(tokens_BT)

        dense_graph, dense = nnx.split(self.dense_block)
        moe_graph, layers = nnx.split(self.moe_blocks)

        def dense_layer(x_BTD, arrays):
            return nnx.merge(dense_graph, arrays)(x_BTD, rope, segments_BT)

        def moe_layer(x_BTD, arrays):
            x_BTD, stats = nnx.merge(moe_graph, arrays)(x_BTD, rope, segments_BT)
            return self.kernels.keep_layout(x_BTD), stats

        x_BTD = self.kernels.keep_layout(self._rematerialised(dense_layer)(x_BTD, dense))
        x_BTD, stats = jax.lax.scan(self._rematerialised(moe_layer), x_BTD, layers)
        # Once for all layers: a sum over the pod in each of them would wait for the weights that are being gathered.
        return self.final_norm(x_BTD), sum_statistics(stats)

    def _rematerialised(self, layer: Callable) -> Callable:
        if self.compute.remat == "none":
            return layer
        return jax.checkpoint(
            lambda x_BTD, arrays: layer(checkpoint_name(x_BTD, "layer_input"), arrays),
            policy=remat_policy(self.compute),
        )
