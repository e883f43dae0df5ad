"""The mixture-of-experts layer (report, section 2). Shape suffixes as in `model/layers.py`."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dots_jax.kernels.select import Kernels
from dots_jax.model import router
from dots_jax.model.experts.strategy import ExpertStrategy
from dots_jax.model.layers import FeedForward
from dots_jax.model.parameters import router_bias, weight
from dots_jax.parallel.collectives import axis_sizes, pvary, unshard
from dots_jax.parallel.mesh import AXES, BATCH_AXES


class RouterStats(NamedTuple):
    """The statistics of one layer's router on one batch."""

    load_E: jax.Array  # tokens that chose each expert, without padding, int32
    balance: jax.Array  # the sum over sequences of their balance losses, float32
    overflow_rounds: jax.Array  # rounds beyond the first that the busiest device needed, int32
    dropped: jax.Array  # copies of tokens that no expert worked on, int32; always 0, and counted to prove it


class Router(nnx.Module):
    """The router's matrix and its correction bias, both float32."""

    def __init__(self, hidden_size: int, num_experts: int, *, init_std: float, rngs: nnx.Rngs):
        self.w_DE = weight(
            rngs,
            (hidden_size, num_experts),
            ("embed", "router"),
            std=init_std,
            part="routers",
            compute_dtype=jnp.float32,
        )
        self.bias_E = router_bias(num_experts)


class Experts(nnx.Module):
    """The weights of the routed experts. axes: logical names of E, D and F, which decide how they are stored."""

    def __init__(
        self, num_experts: int, hidden_size: int, ffn_size: int, *, axes: tuple[str, str, str], init_std: float,
        dtype: jnp.dtype, rngs: nnx.Rngs,
    ):  # fmt: skip
        expert, embed, ffn = axes
        declare = functools.partial(weight, rngs, std=init_std, part="routed experts", compute_dtype=dtype)
        self.w_gate_up_EDF = declare((num_experts, hidden_size, 2 * ffn_size), (expert, embed, ffn))
        self.w_down_EFD = declare((num_experts, ffn_size, hidden_size), (expert, ffn, embed))


class MoE(nnx.Module):
    """A mixture of experts, without drops:

    1. Route: the router chooses K experts and K gates for each token, in float32 (`model/router.py`).
    2. Shared: the shared experts, one feed-forward, see every token.
    3. Apply: the routed experts run on the copies of tokens that chose them (`model/experts/`), and the results of each
       token are summed with its gates as weights.
    4. Add: the shared and the routed result.
    """

    def __init__(
        self, hidden_size: int, num_experts: int, experts_per_token: int, expert_ffn_size: int, shared_ffn_size: int, *,
        scaling_factor: float, expert_strategy: ExpertStrategy, init_std: float, dtype: jnp.dtype, kernels: Kernels,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        made = dict(init_std=init_std, rngs=rngs)
        axes = expert_strategy.weight_axes
        self.router = Router(hidden_size, num_experts, **made)
        self.experts = Experts(num_experts, hidden_size, expert_ffn_size, axes=axes, dtype=dtype, **made)
        self.shared = FeedForward(
            hidden_size, shared_ffn_size, part="shared experts", dtype=dtype, kernels=kernels, **made
        )
        self.num_experts, self.experts_per_token = num_experts, experts_per_token
        self.scaling_factor, self.expert_strategy = scaling_factor, expert_strategy

    def __call__(self, x_BTD: jax.Array, token_mask_BT: jax.Array) -> tuple[jax.Array, RouterStats]:
        """x_BTD -> y_BTD and the router's statistics. token_mask_BT is False on padding, which does not count as load.

        Inside shard_map both are of a device's own rows; see `sum_statistics`.
        """
        B, T, D = x_BTD.shape
        K = self.experts_per_token
        with jax.named_scope("router"):
            ids_BTK, gates_BTK, scores_BTE = router.route(
                x_BTD, unshard(self.router.w_DE), unshard(self.router.bias_E), experts_per_token=K,
                scaling_factor=self.scaling_factor,
            )  # fmt: skip
            load_BE = router.count_load(ids_BTK, token_mask_BT, self.num_experts)
            balance_B = router.sequence_balance_loss(scores_BTE, load_BE, token_mask_BT, K)
        with jax.named_scope("shared"):
            shared_BTD = self.shared(x_BTD)
        with jax.named_scope("experts"):
            weights = [self.expert_strategy.unshard(w) for w in (self.experts.w_gate_up_EDF, self.experts.w_down_EFD)]
        flat = (x_BTD.reshape(-1, D), ids_BTK.reshape(-1, K), gates_BTK.reshape(-1, K))
        routed = self.expert_strategy.apply(*flat, *weights)
        stats = RouterStats(
            jnp.sum(load_BE, axis=0), jnp.sum(balance_B), routed.num_rounds - 1, ids_BTK.size - routed.num_copies
        )
        return routed.y_ND.reshape(B, T, D) + shared_BTD, stats


def sum_statistics(stats: RouterStats) -> RouterStats:
    """The statistics of each device inside shard_map, of one layer or many, as those of the global batch, on every device."""
    if not axis_sizes():
        return stats
    load_E, dropped = jax.lax.psum((pvary(stats.load_E), pvary(stats.dropped)), AXES)
    balance = jax.lax.psum(stats.balance, BATCH_AXES)  # the pieces of a sequence have the same
    return RouterStats(load_E, balance, jax.lax.pmax(pvary(stats.overflow_rounds), AXES), dropped)
