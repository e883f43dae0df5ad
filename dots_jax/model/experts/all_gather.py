"""Strategy `all_gather`: every device of the `expert` mesh axis sees the tokens of all of them, adds what its own experts give,
and the sums are scattered back.

A device sends and receives D * N * (devices - 1) numbers each way, whatever the routing. Needs no ragged collective.
Shape suffixes as in `experts/routing_layout.py`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dots_jax.model.experts.local import ExpertOutput, local_round
from dots_jax.model.experts.rounds import rows_per_round, sum_over_rounds
from dots_jax.model.experts.routing_layout import sort_by_expert


def all_gather_experts(
    x_ND: jax.Array, ids_NK: jax.Array, gates_NK: jax.Array, w_gate_up_EDF: jax.Array, w_down_EFD: jax.Array, *,
    capacity_factor: float, grouped_matmul: Callable,
) -> ExpertOutput:  # fmt: skip
    """The weights are those of this device's experts, not sharded further."""
    devices, experts = jax.lax.axis_size("expert"), w_gate_up_EDF.shape[0]
    rows = rows_per_round(ids_NK.size, capacity_factor, most=ids_NK.shape[0] * devices * min(ids_NK.shape[1], experts))
    with jax.named_scope("dispatch"):
        x_ND, ids_NK, gates_NK = (jax.lax.all_gather(a, "expert", tiled=True) for a in (x_ND, ids_NK, gates_NK))
    permutation = sort_by_expert(ids_NK, jax.lax.axis_index("expert") * experts, experts)
    num_rounds = jnp.maximum(1, -(-permutation.ends_E[-1] // rows))

    def one_round(i, diff_args, permutation):
        return local_round(i * rows, diff_args, permutation, rows=rows, grouped_matmul=grouped_matmul)

    y_ND = sum_over_rounds(one_round, num_rounds, (x_ND, gates_NK, w_gate_up_EDF, w_down_EFD), permutation)
    num_copies = jnp.minimum(permutation.ends_E[-1], num_rounds * rows)
    with jax.named_scope("combine"):
        y_ND = jax.lax.psum_scatter(y_ND, "expert", tiled=True)
    return ExpertOutput(y_ND, num_rounds, num_copies)
