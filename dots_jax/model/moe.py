"""A mixture of experts: route, dispatch, expert feed-forward, combine (report, section 2).

Shape suffixes as in `layers.py`; N here counts the tokens that one device holds after the exchange.

No token is ever dropped: the row buffer has room for every copy that could arrive, and the grouped matmul works only on
the rows that did.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, PartitionSpec

from dots_jax.model import router
from dots_jax.model.grouped_matmul import grouped_matmul
from dots_jax.model.layers import FeedForward, RouterBias, weight
from dots_jax.parallel.mesh import BATCH_AXES, gather_parameter, parameter_spec, vary


class RouterStats(NamedTuple):
    """What one layer's router did with the whole global batch.

    load_E: real tokens that chose each expert, int32. balance: sequence balance losses, summed over sequences, float32.
    """

    load_E: jax.Array
    balance: jax.Array


# --- dispatch and combine: each is the other's transpose, and both only gather, in either direction -----------------


@jax.custom_vjp
def dispatch(x_ND: jax.Array, source_R: jax.Array, row_NK: jax.Array) -> jax.Array:
    """x_RD: row r is the token source_R[r]. row_NK says where each copy of a token went; places past R do not exist."""
    return x_ND[source_R]


@jax.custom_vjp
def combine(y_RD: jax.Array, source_R: jax.Array, row_NK: jax.Array) -> jax.Array:
    """y_ND: the sum of a token's rows, in the order of its choices, so that the sum does not depend on the sharding."""
    # One gather for each choice: they fuse into one pass, where a gather of [N, K, D] would be written out and read again.
    return sum(y_RD.at[row_N].get(mode="fill", fill_value=0) for row_N in row_NK.T)


dispatch.defvjp(
    lambda x, source, row: (dispatch(x, source, row), (source, row)),
    lambda residuals, dx_RD: (combine(dx_RD, *residuals), None, None),
)
combine.defvjp(
    lambda y, source, row: (combine(y, source, row), (source, row)),
    lambda residuals, dy_ND: (dispatch(dy_ND, *residuals), None, None),
)


def expert_rows(ids_NK: jax.Array, first_expert: jax.Array, num_experts: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sorts the copies of tokens by expert, and by token within an expert, for `num_experts` experts from `first_expert`.

    A counting sort: a copy's row is where its expert begins plus the number of earlier tokens that chose the same expert.

    Returns:
      copy_R: the copy (token * K + choice) that stands in each row; rows past sum(sizes_E) hold copy 0.
      row_NK: the row of each copy; R for copies whose expert is elsewhere.
      sizes_E: rows of each expert.
    """
    N, K = ids_NK.shape
    # A token sends at most one copy to each expert, so this many rows hold everything that can arrive.
    R = N * min(K, num_experts)
    local_NK = ids_NK - first_expert
    chosen_NE = jnp.sum(local_NK[:, :, None] == jnp.arange(num_experts), axis=1, dtype=jnp.int32)
    up_to_NE = jax.lax.associative_scan(jnp.add, chosen_NE, axis=0)
    sizes_E = up_to_NE[-1]
    place_NE = jnp.cumsum(sizes_E) - sizes_E + up_to_NE - chosen_NE
    here_NK = (local_NK >= 0) & (local_NK < num_experts)
    row_NK = jnp.where(here_NK, jnp.take_along_axis(place_NE, local_NK, axis=1, mode="clip"), R)
    copy_NK = jnp.arange(N * K, dtype=jnp.int32).reshape(N, K)
    copy_R = jnp.zeros((R,), jnp.int32).at[row_NK].set(copy_NK, mode="drop")
    return checkpoint_name((copy_R, row_NK, sizes_E), "routing")


def expert_feed_forward(
    x_ND: jax.Array, ids_NK: jax.Array, gates_NK: jax.Array, w_gate_up_EDF: jax.Array, w_down_EFD: jax.Array,
    first_expert: jax.Array,
) -> jax.Array:  # fmt: skip
    """What the experts held here add to each token: sum over its choices among them of gate * SwiGLU(x), [N, D].

    The gate is folded into the narrow activation before the down projection, not into its wide output.
    """
    copy_R, row_NK, sizes_E = expert_rows(ids_NK, first_expert, w_gate_up_EDF.shape[0])
    source_R = copy_R // ids_NK.shape[1]
    x_RD = dispatch(x_ND, source_R, row_NK)
    h_RF = checkpoint_name(grouped_matmul(x_RD, w_gate_up_EDF, sizes_E), "hidden")
    gate_RF, up_RF = jnp.split(h_RF, 2, axis=-1)
    gates_R = dispatch(gates_NK.reshape(-1, 1), copy_R, row_NK.reshape(-1, 1))
    a_RF = jax.nn.silu(gate_RF) * up_RF * gates_R.astype(up_RF.dtype)
    return combine(grouped_matmul(a_RF, w_down_EFD, sizes_E), source_R, row_NK)


# --- over the mesh ----------------------------------------------------------------------------------------------------


def exchange_all_gather(x_ND, ids_NK, gates_NK, w_gate_up_EDF, w_down_EFD):
    """Every device of an expert row sees all the row's tokens, adds what its own experts give, and the sum goes back.

    Costs D * N * (devices - 1) each way, whatever the routing; needs no ragged collective.
    """
    if jax.lax.axis_size("expert") == 1:
        return expert_feed_forward(x_ND, ids_NK, gates_NK, w_gate_up_EDF, w_down_EFD, first_expert=0)
    x_ND, ids_NK, gates_NK = (jax.lax.all_gather(a, "expert", tiled=True) for a in (x_ND, ids_NK, gates_NK))
    first_expert = jax.lax.axis_index("expert") * w_gate_up_EDF.shape[0]
    y_ND = expert_feed_forward(x_ND, ids_NK, gates_NK, w_gate_up_EDF, w_down_EFD, first_expert)
    return jax.lax.psum_scatter(y_ND, "expert", tiled=True)


class Experts(nnx.Module):
    """The weights of the routed experts."""

    def __init__(self, num_experts: int, hidden_size: int, ffn_size: int, *, init_std: float, rngs: nnx.Rngs):
        self.w_gate_up_EDF = weight(
            rngs, (num_experts, hidden_size, 2 * ffn_size), ("expert", "expert_embed", "expert_ffn"), init_std
        )
        self.w_down_EFD = weight(
            rngs, (num_experts, ffn_size, hidden_size), ("expert", "expert_ffn", "expert_embed"), init_std
        )


class Router(nnx.Module):
    """The router's matrix and its correction bias, both float32."""

    def __init__(self, hidden_size: int, num_experts: int, *, init_std: float, rngs: nnx.Rngs):
        self.w_DE = weight(rngs, (hidden_size, num_experts), ("embed", "router"), init_std)
        self.bias_E = RouterBias(jnp.zeros((num_experts,), jnp.float32), logical=("router",))


class MoE(nnx.Module):
    """Routed experts plus the shared ones, which see every token."""

    def __init__(
        self, hidden_size: int, num_experts: int, experts_per_token: int, expert_ffn_size: int, shared_ffn_size: int, *,
        scaling_factor: float, init_std: float, dtype: jnp.dtype, mesh: Mesh | None, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.router = Router(hidden_size, num_experts, init_std=init_std, rngs=rngs)
        self.experts = Experts(num_experts, hidden_size, expert_ffn_size, init_std=init_std, rngs=rngs)
        self.shared = FeedForward(hidden_size, shared_ffn_size, init_std=init_std, dtype=dtype, rngs=rngs)
        self.num_experts = num_experts
        self.experts_per_token = experts_per_token
        self.scaling_factor = scaling_factor
        self.dtype = dtype
        self.mesh = mesh

    def __call__(self, x_BTD: jax.Array, real_BT: jax.Array) -> tuple[jax.Array, RouterStats]:
        """x_BTD -> y_BTD and the router's statistics. real_BT is False on padding, which does not count as load."""
        w_DE, bias_E = self.router.w_DE[...], self.router.bias_E[...]
        w_gate_up_EDF, w_down_EFD = self.experts.w_gate_up_EDF[...], self.experts.w_down_EFD[...]
        arguments = (x_BTD, real_BT, w_DE, bias_E, w_gate_up_EDF, w_down_EFD)
        if self.mesh is None:
            y_BTD, stats = self._routed(*arguments)
        else:
            y_BTD, stats = self._routed_over_mesh(*arguments)
        return y_BTD + self.shared(x_BTD), stats

    def _routed(self, x_BTD, real_BT, w_DE, bias_E, w_gate_up_EDF, w_down_EFD, experts=None):
        """Route, count, and run the experts; `experts` is how tokens meet them (default: all of them are here)."""
        B, T, D = x_BTD.shape
        K = self.experts_per_token
        ids_BTK, gates_BTK, scores_BTE = router.route(
            x_BTD, w_DE, bias_E, experts_per_token=K, scaling_factor=self.scaling_factor
        )
        load_BE = router.count_load(ids_BTK, real_BT, self.num_experts)
        balance_B = router.sequence_balance_loss(scores_BTE, load_BE, real_BT, K)
        experts = experts or (lambda *a: expert_feed_forward(*a, first_expert=0))
        y_ND = experts(
            x_BTD.reshape(-1, D), ids_BTK.reshape(-1, K), gates_BTK.reshape(-1, K),
            w_gate_up_EDF.astype(self.dtype), w_down_EFD.astype(self.dtype),
        )  # fmt: skip
        return y_ND.reshape(B, T, D), RouterStats(jnp.sum(load_BE, axis=0), jnp.sum(balance_B))

    def _routed_over_mesh(self, x_BTD, real_BT, w_DE, bias_E, w_gate_up_EDF, w_down_EFD):
        """`_routed` on every device's share of the batch, expert weights gathered over fsdp, statistics summed."""
        batch, P = PartitionSpec(BATCH_AXES), PartitionSpec
        specs = [
            parameter_spec(w.get_metadata("logical"), array.shape, self.mesh)
            for w, array in (
                (self.router.w_DE, w_DE),
                (self.experts.w_gate_up_EDF, w_gate_up_EDF),
                (self.experts.w_down_EFD, w_down_EFD),
            )
        ]

        def local(x_BTD, real_BT, w_DE, bias_E, w_gate_up_EDF, w_down_EFD):
            # Cast before the gather: half the bytes on the wire in bfloat16.
            y_BTD, stats = self._routed(
                x_BTD, real_BT, gather_parameter(w_DE, specs[0]), vary(bias_E),
                gather_parameter(w_gate_up_EDF.astype(self.dtype), specs[1], keep="expert"),
                gather_parameter(w_down_EFD.astype(self.dtype), specs[2], keep="expert"),
                experts=exchange_all_gather,
            )  # fmt: skip
            return y_BTD, jax.lax.psum(stats, BATCH_AXES)

        return jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=(batch, batch, specs[0], P(), specs[1], specs[2]),
            out_specs=(batch, RouterStats(P(), P())),
        )(x_BTD, real_BT, w_DE, bias_E, w_gate_up_EDF, w_down_EFD)
