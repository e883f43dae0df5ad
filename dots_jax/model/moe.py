"""A mixture of experts: route, dispatch, expert feed-forward, combine (report, section 2).

Shape suffixes as in `model/layers.py`; N here counts tokens, R the rows of one block: copies of tokens, sorted by expert.

No token is ever dropped, and no buffer takes the worst case: rows are worked off in blocks of somewhat more than the
balanced load, until none is left. At balanced load that is one block; at full skew it is many, slower and not wrong.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from dots_jax.kernels.select import Kernels
from dots_jax.model import router
from dots_jax.model.layers import FeedForward, whole
from dots_jax.model.parameters import router_bias, weight
from dots_jax.parallel.collectives import axis_sizes, vary
from dots_jax.parallel.mesh import AXES, BATCH_AXES


class RouterStats(NamedTuple):
    """What one layer's router did with a batch.

    load_E: real tokens that chose each expert, int32. balance: sequence balance losses, summed over sequences, float32.
    overflow_rounds: blocks beyond the first that the busiest device needed, int32. dropped: copies of tokens that met no
    expert, int32; always 0, and counted all the same.
    """

    load_E: jax.Array
    balance: jax.Array
    overflow_rounds: jax.Array
    dropped: jax.Array


# --- dispatch and combine: each is the other's transpose, and both only gather, in either direction -----------------


@jax.custom_vjp
def dispatch(x_ND: jax.Array, source_R: jax.Array, row_NK: jax.Array) -> jax.Array:
    """x_RD: row r is the token source_R[r]. row_NK says where each copy of a token went; places past R do not exist."""
    return x_ND.at[source_R].get(mode="promise_in_bounds")


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


class Sorted(NamedTuple):
    """Copies of tokens in the order of their experts.

    copy_S: the copy (token * K + choice) at each place; places past the last hold copy 0. place_NK: of each copy; past the
    end for copies whose expert is elsewhere. ends_E: the place behind the last copy of each expert.
    """

    copy_S: jax.Array
    place_NK: jax.Array
    ends_E: jax.Array


def sort_by_expert(ids_NK: jax.Array, first_expert: jax.Array, num_experts: int) -> Sorted:
    """The copies of tokens by expert, and by token within an expert, for `num_experts` experts from `first_expert`.

    A counting sort: a copy's place is where its expert begins plus the number of earlier tokens that chose the same expert.
    """
    N, K = ids_NK.shape
    # A token sends at most one copy to each expert, so this many places hold everything that can arrive.
    S = N * min(K, num_experts)
    local_NK = ids_NK - first_expert
    chosen_NE = jnp.sum(local_NK[:, :, None] == jnp.arange(num_experts), axis=1, dtype=jnp.int32)
    up_to_NE = jnp.cumsum(chosen_NE, axis=0)
    ends_E = jnp.cumsum(up_to_NE[-1])
    start_NE = ends_E - up_to_NE[-1] + up_to_NE - chosen_NE
    here_NK = (local_NK >= 0) & (local_NK < num_experts)
    place_NK = jnp.where(here_NK, jnp.take_along_axis(start_NE, local_NK, axis=1, mode="clip"), S)
    copy_NK = jnp.arange(N * K, dtype=jnp.int32).reshape(N, K)
    copy_S = jnp.zeros((S,), jnp.int32).at[place_NK].set(copy_NK, mode="drop")
    return checkpoint_name(Sorted(copy_S, place_NK, ends_E), "routing")


def block_of(order: Sorted, start: jax.Array, rows: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The block of places start .. start + rows: copy_R, row_NK (`rows` for copies outside it), sizes_E."""
    copy_S = jnp.pad(order.copy_S, (0, -order.copy_S.shape[0] % rows))
    copy_R = jax.lax.dynamic_slice_in_dim(copy_S, start, rows)
    row_NK = order.place_NK - start
    inside = (row_NK >= 0) & (row_NK < rows) & (order.place_NK < order.copy_S.shape[0])
    ends_E = jnp.clip(order.ends_E - start, 0, rows)
    return copy_R, jnp.where(inside, row_NK, rows), jnp.diff(ends_E, prepend=0)


# --- the experts on one block ------------------------------------------------------------------------------------------


def feed_forward(x_RD, gates_R, w_gate_up_EDF, w_down_EFD, sizes_E, grouped_matmul: Callable) -> jax.Array:
    """gate * SwiGLU(x) of each row's own expert, [R, D]. What stands in rows past sum(sizes_E) is nobody's.

    The gate is folded into the narrow activation before the down projection, not into its wide output.
    """
    h_RF = checkpoint_name(grouped_matmul(x_RD, w_gate_up_EDF, sizes_E), "expert_ffn_hidden")
    gate_RF, up_RF = jnp.split(h_RF, 2, axis=-1)
    a_RF = jax.nn.silu(gate_RF) * up_RF * gates_R[:, None].astype(up_RF.dtype)
    return grouped_matmul(a_RF, w_down_EFD, sizes_E)


def local_block(start, floats, order: Sorted, *, rows: int, grouped_matmul: Callable) -> jax.Array:
    """What the experts held here add to each token in the rows from place `start` on: [N, D]."""
    x_ND, gates_NK, w_gate_up_EDF, w_down_EFD = floats
    with jax.named_scope("dispatch"):
        copy_R, row_NK, sizes_E = block_of(order, start, rows)
        source_R = copy_R // gates_NK.shape[1]
        x_RD = dispatch(x_ND, source_R, row_NK)
        gates_R = dispatch(gates_NK.reshape(-1), copy_R, row_NK.reshape(-1, 1))
    with jax.named_scope("experts"):
        y_RD = feed_forward(x_RD, gates_R, w_gate_up_EDF, w_down_EFD, sizes_E, grouped_matmul)
    with jax.named_scope("combine"):
        return combine(y_RD, source_R, row_NK)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def all_blocks(block: Callable, num_blocks: jax.Array, floats: tuple, integers) -> jax.Array:
    """sum over i < num_blocks of block(i, floats, integers), the first of which always runs.

    num_blocks may be traced. Only the first block keeps what its backward pass needs; the others, which a balanced load
    never runs, are computed again.
    """
    return _all_blocks_forward(block, num_blocks, floats, integers)[0]


def _all_blocks_forward(block, num_blocks, floats, integers):
    y_ND, pullback = jax.vjp(lambda floats: block(0, floats, integers), floats)

    def one_more(carry):
        i, y_ND = carry
        return i + 1, y_ND + block(i, floats, integers)

    _, y_ND = jax.lax.while_loop(lambda carry: carry[0] < num_blocks, one_more, (jnp.int32(1), y_ND))
    return y_ND, (pullback, num_blocks, floats, integers)


def _all_blocks_backward(block, residuals, dy_ND):
    pullback, num_blocks, floats, integers = residuals

    def one_more(carry):
        i, total = carry
        (grads,) = jax.vjp(lambda floats: block(i, floats, integers), floats)[1](dy_ND)
        return i + 1, jax.tree.map(jnp.add, total, grads)

    (first,) = pullback(dy_ND)
    _, total = jax.lax.while_loop(lambda carry: carry[0] < num_blocks, one_more, (jnp.int32(1), first))
    return None, total, None


all_blocks.defvjp(_all_blocks_forward, _all_blocks_backward)


def buffer_rows(balanced: float, buffer: float, worst: int) -> int:
    """Rows of a block: `buffer` times the balanced load in whole tiles, and never more than can arrive."""
    tile = 512 if balanced >= 4096 else 8
    return min(math.ceil(buffer * balanced / tile) * tile, worst)


# --- how tokens meet their experts: each gives y_ND, the blocks that it took, and the copies that it worked on ----------


class Met(NamedTuple):
    y_ND: jax.Array
    num_blocks: jax.Array
    copies: jax.Array


def exchange_weights(
    x_ND, ids_NK, gates_NK, w_gate_up_EDF, w_down_EFD, *, buffer: float, grouped_matmul: Callable
) -> Met:
    """All experts are here, as much of them as was elsewhere: as many rows as copies, in one block, whatever the load.

    Costs the weights of all experts a layer, however many tokens there are, and they can be fetched ahead.
    """
    order = sort_by_expert(ids_NK, 0, w_gate_up_EDF.shape[0])
    floats = (x_ND, gates_NK, w_gate_up_EDF, w_down_EFD)
    y_ND = local_block(0, floats, order, rows=ids_NK.size, grouped_matmul=grouped_matmul)
    return Met(y_ND, jnp.int32(1), order.ends_E[-1])


def exchange_all_gather(
    x_ND, ids_NK, gates_NK, w_gate_up_EDF, w_down_EFD, *, buffer: float, grouped_matmul: Callable
) -> Met:
    """Every device of an expert row sees all the row's tokens, adds what its own experts give, and the sum goes back.

    Costs D * N * (devices - 1) each way, whatever the routing; needs no ragged collective.
    """
    devices, experts = jax.lax.axis_size("expert"), w_gate_up_EDF.shape[0]
    rows = buffer_rows(ids_NK.size, buffer, worst=ids_NK.shape[0] * devices * min(ids_NK.shape[1], experts))
    with jax.named_scope("dispatch"):
        x_ND, ids_NK, gates_NK = (jax.lax.all_gather(a, "expert", tiled=True) for a in (x_ND, ids_NK, gates_NK))
    order = sort_by_expert(ids_NK, jax.lax.axis_index("expert") * experts, experts)
    num_blocks = jnp.maximum(1, -(-order.ends_E[-1] // rows))

    def block(i, floats, order):
        return local_block(i * rows, floats, order, rows=rows, grouped_matmul=grouped_matmul)

    y_ND = all_blocks(block, num_blocks, (x_ND, gates_NK, w_gate_up_EDF, w_down_EFD), order)
    copies = jnp.minimum(order.ends_E[-1], num_blocks * rows)
    with jax.named_scope("combine"):
        y_ND = jax.lax.psum_scatter(y_ND, "expert", tiled=True)
    return Met(y_ND, num_blocks, copies)


def exchange_all_to_all(
    x_ND, ids_NK, gates_NK, w_gate_up_EDF, w_down_EFD, *, buffer: float, grouped_matmul: Callable, ragged: bool = False
) -> Met:
    """Every copy of a token goes to the device of its expert and comes back: D * N * K * (devices - 1) / devices each way.

    A round has room for `rows` copies between each pair of devices; all devices go on until none has a copy left.
    ragged: only the copies travel (TPU); without it the room that is left travels too, the same in all else.
    """
    devices, experts, K = jax.lax.axis_size("expert"), w_gate_up_EDF.shape[0], ids_NK.shape[1]
    rows = buffer_rows(ids_NK.size / devices, buffer, worst=ids_NK.shape[0] * min(K, experts))
    order = sort_by_expert(ids_NK, 0, devices * experts)
    ends_P = order.ends_E[experts - 1 :: experts]  # P: peers, in the order of their experts
    starts_P = jnp.concatenate([jnp.zeros_like(ends_P[:1]), ends_P[:-1]])
    num_blocks = jax.lax.pmax(jnp.maximum(1, jnp.max(-(-(ends_P - starts_P) // rows))), "expert")

    def block(i, floats, integers):
        x_ND, gates_NK, w_gate_up_EDF, w_down_EFD = floats
        ids_NK, order, starts_P, ends_P = integers
        with jax.named_scope("dispatch"):
            place_PR = starts_P[:, None] + i * rows + jnp.arange(rows)
            real_PR = place_PR < ends_P[:, None]
            copy_S = order.copy_S.at[place_PR.reshape(-1)].get(mode="clip")
            expert_PR = jnp.searchsorted(order.ends_E, place_PR, side="right") % experts
            expert_PR = jnp.where(real_PR, expert_PR, experts)  # no expert: room that is left
            # Where a copy stands in what is sent: with its peer, as far behind its first as in the order.
            peer_NK = ids_NK // experts
            behind_NK = order.place_NK - starts_P[peer_NK] - i * rows
            sent_NK = jnp.where((behind_NK >= 0) & (behind_NK < rows), peer_NK * rows + behind_NK, devices * rows)
            x_SD = dispatch(x_ND, copy_S // K, sent_NK)
            gates_S = dispatch(gates_NK.reshape(-1), copy_S, sent_NK.reshape(-1, 1))
            counts_P = jnp.clip(ends_P - starts_P - i * rows, 0, rows).astype(jnp.int32)
            arriving_P = jax.lax.all_to_all(counts_P, "expert", 0, 0, tiled=True)
            x_SD = travel(ragged, x_SD, counts_P, arriving_P)
            gates_S = jax.lax.all_to_all(gates_S, "expert", 0, 0, tiled=True)
            ids_S1 = jax.lax.all_to_all(expert_PR, "expert", 0, 0, tiled=True).reshape(-1, 1)
            here = sort_by_expert(ids_S1, 0, experts)
        y_SD = local_block(0, (x_SD, gates_S[:, None], w_gate_up_EDF, w_down_EFD), here, rows=devices * rows,
                           grouped_matmul=grouped_matmul)  # fmt: skip
        with jax.named_scope("combine"):
            return combine(travel(ragged, y_SD, arriving_P, counts_P), copy_S // K, sent_NK)

    floats = (x_ND, gates_NK, w_gate_up_EDF, w_down_EFD)
    y_ND = all_blocks(block, num_blocks, floats, (ids_NK, order, starts_P, ends_P))
    return Met(y_ND, num_blocks, jnp.sum(jnp.minimum(ends_P - starts_P, num_blocks * rows)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def travel(ragged: bool, x_SD: jax.Array, sent_P: jax.Array, arriving_P: jax.Array) -> jax.Array:
    """Rows to their peers: x_SD holds as much room for each peer, of which the first sent_P rows are real.

    In the result the same room holds what each peer sent, arriving_P rows of it; the rest is nobody's. The transpose is
    the way back.
    """
    if not ragged:
        return jax.lax.all_to_all(x_SD, "expert", 0, 0, tiled=True)
    room = x_SD.shape[0] // sent_P.shape[0]
    offsets_P = jnp.arange(sent_P.shape[0], dtype=jnp.int32) * room
    there_P = jnp.full_like(offsets_P, jax.lax.axis_index("expert") * room)
    return jax.lax.ragged_all_to_all(
        x_SD, jnp.zeros_like(x_SD), offsets_P, sent_P, there_P, arriving_P, axis_name="expert"
    )


travel.defvjp(
    lambda ragged, x, sent, arriving: (travel(ragged, x, sent, arriving), (sent, arriving)),
    lambda ragged, residuals, dx: (travel(ragged, dx, *residuals[::-1]), None, None),
)

EXCHANGES: dict[str, Callable] = {
    "all_gather": exchange_all_gather,
    "all_to_all": exchange_all_to_all,
    "gather_weights": exchange_weights,
    "gather_weights_fused": exchange_weights,
}
TRAVELLING_WEIGHTS = ("gather_weights", "gather_weights_fused")

# --- the module ---------------------------------------------------------------------------------------------------------


class Experts(nnx.Module):
    """The weights of the routed experts. travel: they go to the tokens, and may be stored in any way."""

    def __init__(
        self, num_experts: int, hidden_size: int, ffn_size: int, *, travel: bool, init_std: float, dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        expert, embed, ffn = ("stored_expert", "embed", "ffn") if travel else ("expert", "expert_embed", "expert_ffn")
        declare = functools.partial(weight, rngs, std=init_std, part="routed experts", compute_dtype=dtype)
        self.w_gate_up_EDF = declare((num_experts, hidden_size, 2 * ffn_size), (expert, embed, ffn))
        self.w_down_EFD = declare((num_experts, ffn_size, hidden_size), (expert, ffn, embed))


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


class MoE(nnx.Module):
    """Routed experts plus the shared ones, which see every token.

    exchange, buffer: how tokens meet their experts over the `expert` mesh axis, and the rows of a block over the balanced
    load; of no effect where all experts are on one device.
    """

    def __init__(
        self, hidden_size: int, num_experts: int, experts_per_token: int, expert_ffn_size: int, shared_ffn_size: int, *,
        scaling_factor: float, exchange: str, buffer: float, init_std: float, dtype: jnp.dtype, kernels: Kernels,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        self.router = Router(hidden_size, num_experts, init_std=init_std, rngs=rngs)
        self.experts = Experts(
            num_experts,
            hidden_size,
            expert_ffn_size,
            travel=exchange in TRAVELLING_WEIGHTS,
            init_std=init_std,
            dtype=dtype,
            rngs=rngs,
        )
        self.shared = FeedForward(
            hidden_size, shared_ffn_size, part="shared experts", init_std=init_std, dtype=dtype, rngs=rngs
        )
        self.num_experts = num_experts
        self.experts_per_token = experts_per_token
        self.scaling_factor = scaling_factor
        self.exchange, self.buffer = exchange, buffer
        self.kernels = kernels

    def __call__(self, x_BTD: jax.Array, real_BT: jax.Array) -> tuple[jax.Array, RouterStats]:
        """x_BTD -> y_BTD and the router's statistics. real_BT is False on padding, which does not count as load.

        Inside shard_map both are of a device's own rows; see `sum_statistics`.
        """
        B, T, D = x_BTD.shape
        K, sizes = self.experts_per_token, axis_sizes()
        with jax.named_scope("router"):
            w_DE, bias_E = whole(self.router.w_DE), self.router.bias_E[...]
            ids_BTK, gates_BTK, scores_BTE = router.route(
                x_BTD, w_DE, vary(bias_E) if sizes else bias_E, experts_per_token=K, scaling_factor=self.scaling_factor
            )
            load_BE = router.count_load(ids_BTK, real_BT, self.num_experts)
            balance_B = router.sequence_balance_loss(scores_BTE, load_BE, real_BT, K)
        with jax.named_scope("shared"):
            shared_BTD = self.shared(x_BTD)
        with jax.named_scope("experts"):
            keep, at_once = (
                "" if self.exchange in TRAVELLING_WEIGHTS else "expert",
                self.exchange == "gather_weights_fused",
            )
            weights = [whole(w, keep, at_once=at_once) for w in (self.experts.w_gate_up_EDF, self.experts.w_down_EFD)]
        exchange = EXCHANGES[self.exchange] if sizes.get("expert", 1) > 1 else exchange_weights
        if exchange is exchange_all_to_all:
            exchange = functools.partial(exchange, ragged=self.kernels.ragged)
        met = exchange(
            x_BTD.reshape(-1, D), ids_BTK.reshape(-1, K), gates_BTK.reshape(-1, K), *weights,
            buffer=self.buffer, grouped_matmul=self.kernels.grouped_matmul,
        )  # fmt: skip
        stats = _statistics(load_BE, balance_B, met, ids_BTK.size)
        return met.y_ND.reshape(B, T, D) + shared_BTD, stats


def _statistics(load_BE, balance_B, met: Met, copies: int) -> RouterStats:
    return RouterStats(jnp.sum(load_BE, axis=0), jnp.sum(balance_B), met.num_blocks - 1, copies - met.copies)


def sum_statistics(stats: RouterStats) -> RouterStats:
    """What the devices of a shard_map counted, of one layer or of many, as that of the whole batch, on each of them."""
    load_E, dropped = jax.lax.psum((vary(stats.load_E), vary(stats.dropped)), AXES)
    balance = jax.lax.psum(stats.balance, BATCH_AXES)  # the pieces of a sequence have the same
    return RouterStats(load_E, balance, jax.lax.pmax(vary(stats.overflow_rounds), AXES), dropped)
