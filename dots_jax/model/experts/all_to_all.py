"""Strategy `all_to_all`: every copy of a token goes to the device of its expert, and the result comes back.

A device sends and receives D * N * K * (devices - 1) / devices numbers each way at balanced load.
Shape suffixes as in `experts/routing_layout.py`; P counts the devices of the `expert` mesh axis (peers), in the order of
their experts.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dots_jax.model.experts.local import ExpertOutput, local_round
from dots_jax.model.experts.rounds import rows_per_round, sum_over_rounds
from dots_jax.model.experts.routing_layout import ExpertPermutation, combine, dispatch, sort_by_expert


def all_to_all_experts(
    x_ND: jax.Array, ids_NK: jax.Array, gates_NK: jax.Array, w_gate_up_EDF: jax.Array, w_down_EFD: jax.Array, *,
    capacity_factor: float, grouped_matmul: Callable, ragged: bool,
) -> ExpertOutput:  # fmt: skip
    """The weights are those of this device's experts, not sharded further.

    A round has room for `rows` copies between each pair of devices. All devices go on until none has a copy to send.
    ragged: only the copies are sent (TPU); without it the unused room is sent as well, and all else is the same.
    """
    devices, experts, K = jax.lax.axis_size("expert"), w_gate_up_EDF.shape[0], ids_NK.shape[1]
    rows = rows_per_round(ids_NK.size / devices, capacity_factor, most=ids_NK.shape[0] * min(K, experts))
    permutation = sort_by_expert(ids_NK, 0, devices * experts)
    ends_P = permutation.ends_E[experts - 1 :: experts]
    starts_P = jnp.concatenate([jnp.zeros_like(ends_P[:1]), ends_P[:-1]])
    num_rounds = jax.lax.pmax(jnp.maximum(1, jnp.max(-(-(ends_P - starts_P) // rows))), "expert")

    def one_round(i, diff_args, routing):
        x_ND, gates_NK, w_gate_up_EDF, w_down_EFD = diff_args
        with jax.named_scope("dispatch"):
            plan = send_plan(*routing, i * rows, rows=rows, experts=experts)
            x_SD = dispatch(x_ND, plan.copy_S // K, plan.slot_NK)
            gates_S = dispatch(gates_NK.reshape(-1), plan.copy_S, plan.slot_NK.reshape(-1, 1))
            arriving_P = jax.lax.all_to_all(plan.counts_P, "expert", 0, 0, tiled=True)
            x_SD = ragged_all_to_all_rows(ragged, x_SD, plan.counts_P, arriving_P)
            gates_S = jax.lax.all_to_all(gates_S, "expert", 0, 0, tiled=True)
            ids_S1 = jax.lax.all_to_all(plan.expert_PR, "expert", 0, 0, tiled=True).reshape(-1, 1)
            arrived = sort_by_expert(ids_S1, 0, experts)
        y_SD = local_round(
            0, (x_SD, gates_S[:, None], w_gate_up_EDF, w_down_EFD), arrived, rows=devices * rows,
            grouped_matmul=grouped_matmul,
        )  # fmt: skip
        with jax.named_scope("combine"):
            y_SD = ragged_all_to_all_rows(ragged, y_SD, arriving_P, plan.counts_P)
            return combine(y_SD, plan.copy_S // K, plan.slot_NK)

    diff_args = (x_ND, gates_NK, w_gate_up_EDF, w_down_EFD)
    y_ND = sum_over_rounds(one_round, num_rounds, diff_args, (ids_NK, permutation, starts_P, ends_P))
    return ExpertOutput(y_ND, num_rounds, jnp.sum(jnp.minimum(ends_P - starts_P, num_rounds * rows)))


class SendPlan(NamedTuple):
    """What one device sends in one round, in slots: `rows` for each peer, S = P * rows in all. Three tokens of one choice
    each, (3), (0) and (2), two peers with two experts each, two rows:

    slots       peer 0: 0 1 | peer 1: 2 3
    copy_S      [1, 2, 2, 0]         the copy in each slot; slot 1 is unused, and what it names does not matter
    expert_PR   [[0, 2], [0, 1]]     the expert, counted from the peer's first; 2, one past the last, marks an unused slot
    slot_NK     [[3], [0], [2]]      the slot of each copy; past the end for copies of other rounds
    counts_P    [1, 2]               used slots of each peer: its first ones
    """

    copy_S: jax.Array
    expert_PR: jax.Array
    slot_NK: jax.Array
    counts_P: jax.Array


def send_plan(
    ids_NK: jax.Array, permutation: ExpertPermutation, starts_P: jax.Array, ends_P: jax.Array, first: jax.Array, *,
    rows: int, experts: int,
) -> SendPlan:  # fmt: skip
    """The slots of the round that sends each peer its copies first .. first + rows.

    ids_NK: experts chosen, over all devices. permutation: over all experts; a peer's copies have the places starts_P ..
    ends_P. experts: of one device.
    """
    place_PR = starts_P[:, None] + first + jnp.arange(rows)
    used_PR = place_PR < ends_P[:, None]
    copy_S = permutation.copy_S.at[place_PR.reshape(-1)].get(mode="clip")
    expert_PR = jnp.searchsorted(permutation.ends_E, place_PR, side="right") % experts
    expert_PR = jnp.where(used_PR, expert_PR, experts)
    peer_NK = ids_NK // experts
    behind_NK = permutation.place_NK - starts_P[peer_NK] - first
    unused = starts_P.shape[0] * rows
    slot_NK = jnp.where((behind_NK >= 0) & (behind_NK < rows), peer_NK * rows + behind_NK, unused)
    counts_P = jnp.clip(ends_P - starts_P - first, 0, rows).astype(jnp.int32)
    return SendPlan(copy_S, expert_PR, slot_NK, counts_P)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def ragged_all_to_all_rows(ragged: bool, x_SD: jax.Array, sent_P: jax.Array, arriving_P: jax.Array) -> jax.Array:
    """Exchanges rows over the `expert` mesh axis: x_SD has the same number of slots for each peer, of which the first
    sent_P are used.

    In the result the same slots hold what each peer sent, arriving_P rows of it; the other rows are undefined (masked).
    The transpose exchanges in the other direction.
    """
    if not ragged:
        return jax.lax.all_to_all(x_SD, "expert", 0, 0, tiled=True)
    rows = x_SD.shape[0] // sent_P.shape[0]
    offsets_P = jnp.arange(sent_P.shape[0], dtype=jnp.int32) * rows
    remote_P = jnp.full_like(offsets_P, jax.lax.axis_index("expert") * rows)
    return jax.lax.ragged_all_to_all(
        x_SD, jnp.zeros_like(x_SD), offsets_P, sent_P, remote_P, arriving_P, axis_name="expert"
    )


ragged_all_to_all_rows.defvjp(
    lambda ragged, x, sent, arriving: (ragged_all_to_all_rows(ragged, x, sent, arriving), (sent, arriving)),
    lambda ragged, residuals, dx: (ragged_all_to_all_rows(ragged, dx, *residuals[::-1]), None, None),
)
