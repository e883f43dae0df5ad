"""The experts of this device on rows of this device: no communication. Every strategy ends here.

Shape suffixes as in `experts/routing_layout.py`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dots_jax.model.experts.routing_layout import ExpertPermutation, combine, dispatch, round_rows, sort_by_expert


class ExpertOutput(NamedTuple):
    """What a strategy returns.

    y_ND: what the routed experts add to each token. num_rounds: rounds that it took, int32. num_copies: copies of tokens
    that experts worked on, int32.
    """

    y_ND: jax.Array
    num_rounds: jax.Array
    num_copies: jax.Array


def feed_forward(x_RD, gates_R, w_gate_up_EDF, w_down_EFD, sizes_E, grouped_matmul: Callable) -> jax.Array:
    """gate * SwiGLU(x) of each row's own expert, [R, D]. Rows past sum(sizes_E) are undefined (masked by `combine`).

    The gate is folded into the narrow activation before the down projection, not into its wide output.
    """
    h_RF = checkpoint_name(grouped_matmul(x_RD, w_gate_up_EDF, sizes_E), "expert_ffn_hidden")
    gate_RF, up_RF = jnp.split(h_RF, 2, axis=-1)
    a_RF = jax.nn.silu(gate_RF) * up_RF * gates_R[:, None].astype(up_RF.dtype)
    return grouped_matmul(a_RF, w_down_EFD, sizes_E)


def local_round(
    start, diff_args: tuple, permutation: ExpertPermutation, *, rows: int, grouped_matmul: Callable
) -> jax.Array:
    """What the experts of this device add to each token in the rows from place `start` on: [N, D]."""
    x_ND, gates_NK, w_gate_up_EDF, w_down_EFD = diff_args
    with jax.named_scope("dispatch"):
        copy_R, row_NK, sizes_E = round_rows(permutation, start, rows)
        source_R = copy_R // gates_NK.shape[1]
        x_RD = dispatch(x_ND, source_R, row_NK)
        gates_R = dispatch(gates_NK.reshape(-1), copy_R, row_NK.reshape(-1, 1))
    with jax.named_scope("experts"):
        y_RD = feed_forward(x_RD, gates_R, w_gate_up_EDF, w_down_EFD, sizes_E, grouped_matmul)
    with jax.named_scope("combine"):
        return combine(y_RD, source_R, row_NK)


def local_experts(
    x_ND: jax.Array, ids_NK: jax.Array, gates_NK: jax.Array, w_gate_up_EDF: jax.Array, w_down_EFD: jax.Array, *,
    grouped_matmul: Callable,
) -> ExpertOutput:  # fmt: skip
    """All experts are on this device: one round with as many rows as copies, whatever the load."""
    permutation = sort_by_expert(ids_NK, 0, w_gate_up_EDF.shape[0])
    diff_args = (x_ND, gates_NK, w_gate_up_EDF, w_down_EFD)
    y_ND = local_round(0, diff_args, permutation, rows=ids_NK.size, grouped_matmul=grouped_matmul)
    return ExpertOutput(y_ND, jnp.int32(1), permutation.ends_E[-1])
