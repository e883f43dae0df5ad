"""The routed experts for a few tokens: only the chosen ones' weights are read.

Shape suffixes as in `model/layers.py`; N counts tokens, C the rows of a block.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from dots_jax.inference.weights import ROWS
from dots_jax.kernels.select import kernels_for
from dots_jax.model.moe import exchange_weights, sort_by_expert
from dots_jax.parallel.collectives import vary
from dots_jax.parallel.mesh import CONTEXT

# From so many rows an expert on, an accelerator takes the grouped matmul of training.
_MANY_ROWS = 16
# Blocks of a turn do not wait for each other, and a CPU runs them on several cores.
_BLOCKS_PER_TURN = 8


def routed_experts(
    x_BTD: jax.Array, ids_BTK: jax.Array, gates_BTK: jax.Array, w_gate_up_LEDF: jax.Array, w_down_LEFD: jax.Array,
    layer: int, mesh: Mesh,
) -> jax.Array:  # fmt: skip
    """What the chosen experts of one layer add to each token, [B, T, D]. An id of num_experts stands for no expert.

    Over a mesh each device runs its own experts for its rows of the batch, and the shares are summed: D numbers a token
    on the wire, whatever the routing.
    """
    arguments = x_BTD, ids_BTK, gates_BTK, w_gate_up_LEDF, w_down_LEFD
    platform = mesh.devices.flat[0].platform
    if mesh.size == 1:
        return _local(*arguments, layer, platform)

    def share(x_BTD, ids_BTK, gates_BTK, w_gate_up_LEDF, w_down_LEFD):
        ids_BTK -= lax.axis_index("expert") * w_gate_up_LEDF.shape[1]  # counted from this device's first
        local = map(vary, (x_BTD, ids_BTK, gates_BTK, w_gate_up_LEDF, w_down_LEFD))
        return lax.psum(_local(*local, layer, platform), ("expert", CONTEXT))

    rows, stack = PartitionSpec(ROWS), PartitionSpec(None, "expert")
    specs = (rows, rows, rows, stack, stack)
    # A TPU's kernels do not say over which axes their results vary, so it is checked where there are none.
    check = platform == "cpu"
    return jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=check)(*arguments)


def _local(x_BTD, ids_BTK, gates_BTK, w_gate_up_LEDF, w_down_LEFD, layer, platform):
    B, T, D = x_BTD.shape
    flat = (a.reshape(B * T, -1) for a in (x_BTD, ids_BTK, gates_BTK))
    rows_per_expert = ids_BTK.size / w_gate_up_LEDF.shape[1]
    if platform != "cpu" and rows_per_expert >= _MANY_ROWS:
        experts = w_gate_up_LEDF[layer], w_down_LEFD[layer]
        kernel = kernels_for(platform).grouped_matmul
        return exchange_weights(*flat, *experts, buffer=1.0, grouped_matmul=kernel).y_ND.reshape(B, T, D)
    block = 1 if B * T == 1 else 4 if rows_per_expert <= 4 else 16
    return expert_blocks(*flat, w_gate_up_LEDF, w_down_LEFD, layer, block).reshape(B, T, D)


def expert_blocks(x_ND, ids_NK, gates_NK, w_gate_up_LEDF, w_down_LEFD, layer: int, rows: int) -> jax.Array:
    """The sum over each token's experts held here of gate * SwiGLU(x), [N, D], in a loop over blocks of `rows` rows.

    Each expert's rows begin a new block, so a block slices one expert's weights out of the stack and runs them: a chosen
    expert is read once for every `rows` tokens that chose it, and the others not at all. The results replace the rows.
    Measured on two cores with 16 tokens and 64 experts: a batched matmul over all experts, which reads them all and packs
    each for a few rows, takes seven times as long, and one block a turn, which leaves the second core idle, a third longer.
    """
    (N, D), K, E = x_ND.shape, ids_NK.shape[1], w_gate_up_LEDF.shape[1]
    order = sort_by_expert(ids_NK, 0, E)
    sizes_E = jnp.diff(order.ends_E, prepend=0)
    blocks_E = (sizes_E + rows - 1) // rows
    last_E = jnp.cumsum(blocks_E)
    capacity = N * min(K, E)
    X = (capacity + min(capacity, E) * (rows - 1)) // rows
    X += -X % _BLOCKS_PER_TURN
    # A copy keeps its place among those of its expert, counted from the first row of the expert's first block.
    shift_E = (last_E - blocks_E) * rows - (order.ends_E - sizes_E)
    here_NK = (ids_NK >= 0) & (ids_NK < E)
    row_NK = jnp.where(here_NK, order.place_NK + shift_E[jnp.clip(ids_NK, 0, E - 1)], X * rows)
    expert_X = jnp.minimum(jnp.sum(last_E <= jnp.arange(X)[:, None], axis=1, dtype=jnp.int32), E - 1)
    source_S = jnp.full(X * rows, N, jnp.int32).at[row_NK].set(jnp.arange(N, dtype=jnp.int32)[:, None], mode="drop")
    x_XCD = x_ND.at[source_S].get(mode="fill", fill_value=0).reshape(X, rows, D)

    def one_block(x_CD, e):
        gate_CF, up_CF = jnp.split(_rows_times(x_CD, w_gate_up_LEDF[layer, e]), 2, axis=-1)
        return _rows_times(jax.nn.silu(gate_CF) * up_CF, w_down_LEFD[layer, e])

    def turn(i, x_XCD):
        first = i * _BLOCKS_PER_TURN
        blocks = lax.dynamic_slice_in_dim(x_XCD, first, _BLOCKS_PER_TURN)
        results = [one_block(x_CD, expert_X[first + j]) for j, x_CD in enumerate(blocks)]
        return lax.dynamic_update_slice_in_dim(x_XCD, jnp.stack(results), first, 0)

    turns = (last_E[-1] + _BLOCKS_PER_TURN - 1) // _BLOCKS_PER_TURN
    y_SD = lax.fori_loop(0, turns, turn, x_XCD).reshape(X * rows, D)
    y_NKD = y_SD.at[row_NK].get(mode="fill", fill_value=0)
    return jnp.einsum("NKD,NK->ND", y_NKD, gates_NK.astype(y_NKD.dtype))


def _rows_times(x_CD, w_DF):
    """x @ w; of one row as a vector, for which XLA on a CPU has a better way than for a matrix of one row."""
    return (x_CD[0] @ w_DF)[None] if x_CD.shape[0] == 1 else x_CD @ w_DF
