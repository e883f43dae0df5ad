"""The routed experts for a few tokens: only the chosen ones' weights are read.

Shape suffixes as in `model/layers.py`; N counts tokens, C the rows of a block.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from dots_jax.inference.serving import ROWS
from dots_jax.model.kernels import kernels_for
from dots_jax.model.moe import combine, exchange_weights, sort_by_expert
from dots_jax.parallel.mesh import CONTEXT, vary

# From so many rows an expert on, an accelerator takes the grouped matmul of training.
_MANY_ROWS = 16


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


def expert_blocks(x_ND, ids_NK, gates_NK, w_gate_up_LEDF, w_down_LEFD, layer: int, block: int) -> jax.Array:
    """The sum over each token's experts held here of gate * SwiGLU(x), [N, D], in a loop over blocks of `block` rows.

    Each turn slices one expert's weights out of the stack and runs its rows, so a chosen expert is read once for every
    `block` tokens that chose it, and the others not at all. Measured on CPUs, where a batched matmul over all experts reads
    them all and packs each for a few rows: three times as fast for 16 tokens and 64 experts, and no slower for 2048.
    """
    E = w_gate_up_LEDF.shape[1]
    copy_R, row_NK, row_ends_E = sort_by_expert(ids_NK, 0, E)
    sizes_E = jnp.diff(row_ends_E, prepend=0)
    source_R = copy_R // ids_NK.shape[1]
    x_RD, gates_R1 = x_ND[source_R], gates_NK.reshape(-1, 1)[copy_R].astype(x_ND.dtype)
    R = x_RD.shape[0]
    C = min(block, R)
    count_E = (sizes_E + C - 1) // C
    block_ends_E = jnp.cumsum(count_E)
    first_row_E = row_ends_E - sizes_E - C * (block_ends_E - count_E)

    def one_block(i, y_RD):
        e = jnp.sum(block_ends_E <= i, dtype=jnp.int32)
        first = first_row_E[e] + i * C
        start = jnp.minimum(first, R - C)  # the last block moves back to end with the rows
        h_CF = _rows_times(lax.dynamic_slice_in_dim(x_RD, start, C), w_gate_up_LEDF[layer, e])
        gate_CF, up_CF = jnp.split(h_CF, 2, axis=-1)
        a_CF = jax.nn.silu(gate_CF) * up_CF * lax.dynamic_slice_in_dim(gates_R1, start, C)
        y_CD = _rows_times(a_CF, w_down_LEFD[layer, e])
        row_C = start + jnp.arange(C)
        own_C1 = ((row_C >= first) & (row_C < row_ends_E[e]))[:, None]
        y_CD = jnp.where(own_C1, y_CD, lax.dynamic_slice_in_dim(y_RD, start, C))
        return lax.dynamic_update_slice_in_dim(y_RD, y_CD, start, 0)

    y_RD = lax.fori_loop(0, block_ends_E[-1], one_block, x_RD * 0)  # zeros that vary over the mesh as x does
    return combine(y_RD, source_R, row_NK)


def _rows_times(x_CD, w_DF):
    """x @ w; of one row as a vector, for which XLA on a CPU has a better way than for a matrix of one row."""
    return (x_CD[0] @ w_DF)[None] if x_CD.shape[0] == 1 else x_CD @ w_DF
