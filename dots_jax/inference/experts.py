"""The routed experts for a few tokens: only the chosen ones' weights are read.

Shape suffixes as in `model/layers.py`; N counts tokens, X blocks, C the rows of a block, S = X * C their slots.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from dots_jax.inference.weights import ROWS
from dots_jax.kernels.select import kernels_for
from dots_jax.model.experts.local import local_experts
from dots_jax.model.experts.routing_layout import sort_by_expert
from dots_jax.parallel.collectives import pvary
from dots_jax.parallel.mesh import CONTEXT

# Rows an expert from which an accelerator runs the grouped matmul of training.
_MANY_ROWS = 16
# Blocks of a turn are independent, so a CPU runs them on several cores.
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
        local = map(pvary, (x_BTD, ids_BTK, gates_BTK, w_gate_up_LEDF, w_down_LEFD))
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
        kernel = kernels_for(platform, default_vmem=True).grouped_matmul
        return local_experts(*flat, *experts, grouped_matmul=kernel).y_ND.reshape(B, T, D)
    rows = 1 if B * T == 1 else 4 if rows_per_expert <= 4 else 16
    return expert_blocks(*flat, w_gate_up_LEDF, w_down_LEFD, layer, rows).reshape(B, T, D)


def expert_blocks(x_ND, ids_NK, gates_NK, w_gate_up_LEDF, w_down_LEFD, layer: int, rows: int) -> jax.Array:
    """The sum over each token's experts on this device of gate * SwiGLU(x), [N, D], in blocks of `rows` rows.

    A block slices one expert's weights out of the stack and runs them: a chosen expert is read once for every `rows` tokens
    that chose it, and the others not at all. The results replace the rows.
    Measured on two cores with 16 tokens and 64 experts: a batched matmul over all experts, which reads them all and packs
    each for a few rows, takes seven times as long, and one block a turn, which leaves the second core idle, a third longer.
    """
    D, E = x_ND.shape[1], w_gate_up_LEDF.shape[1]
    layout = block_layout(ids_NK, E, rows)
    x_XCD = x_ND.at[layout.token_S].get(mode="fill", fill_value=0).reshape(-1, rows, D)
    y_SD = run_blocks(x_XCD, layout, w_gate_up_LEDF, w_down_LEFD, layer).reshape(-1, D)
    y_NKD = y_SD.at[layout.slot_NK].get(mode="fill", fill_value=0)
    return jnp.einsum("NKD,NK->ND", y_NKD, gates_NK.astype(y_NKD.dtype))


class BlockLayout(NamedTuple):
    """Copies of tokens in blocks (X), each of which belongs to one expert. Three tokens of one choice each, (1), (0) and (1), in
    blocks of two rows:

    slots       block 0: 0 1 | block 1: 2 3, of _BLOCKS_PER_TURN
    token_S     [1, 3, 0, 2]        the token in each slot; 3, one past the last, marks an unused slot
    slot_NK     [[2], [0], [3]]     the slot of each copy; past the end for copies whose expert is on another device
    expert_X    [0, 1]              the expert of each block
    num_blocks  2                   blocks in use
    """

    token_S: jax.Array
    slot_NK: jax.Array
    expert_X: jax.Array
    num_blocks: jax.Array


def block_layout(ids_NK: jax.Array, num_experts: int, rows: int) -> BlockLayout:
    """Each expert's copies from the first row of a block on, in their order; as many blocks as can be needed."""
    (N, K), E = ids_NK.shape, num_experts
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
    slot_NK = jnp.where(here_NK, order.place_NK + shift_E[jnp.clip(ids_NK, 0, E - 1)], X * rows)
    expert_X = jnp.minimum(jnp.sum(last_E <= jnp.arange(X)[:, None], axis=1, dtype=jnp.int32), E - 1)
    token_S = jnp.full(X * rows, N, jnp.int32).at[slot_NK].set(jnp.arange(N, dtype=jnp.int32)[:, None], mode="drop")
    return BlockLayout(token_S, slot_NK, expert_X, last_E[-1])


def run_blocks(x_XCD: jax.Array, layout: BlockLayout, w_gate_up_LEDF, w_down_LEFD, layer: int) -> jax.Array:
    """SwiGLU of each block in use by its expert, in place of its rows; a few blocks at a turn, on several cores."""

    def one_block(x_CD, e):
        gate_CF, up_CF = jnp.split(_rows_times(x_CD, w_gate_up_LEDF[layer, e]), 2, axis=-1)
        return _rows_times(jax.nn.silu(gate_CF) * up_CF, w_down_LEFD[layer, e])

    def turn(i, x_XCD):
        first = i * _BLOCKS_PER_TURN
        blocks = lax.dynamic_slice_in_dim(x_XCD, first, _BLOCKS_PER_TURN)
        results = [one_block(x_CD, layout.expert_X[first + j]) for j, x_CD in enumerate(blocks)]
        return lax.dynamic_update_slice_in_dim(x_XCD, jnp.stack(results), first, 0)

    turns = (layout.num_blocks + _BLOCKS_PER_TURN - 1) // _BLOCKS_PER_TURN
    return lax.fori_loop(0, turns, turn, x_XCD)


def _rows_times(x_CD, w_DF):
    """x @ w; of one row as a vector, for which XLA on a CPU has a better way than for a matrix of one row."""
    return (x_CD[0] @ w_DF)[None] if x_CD.shape[0] == 1 else x_CD @ w_DF
