"""The work of Pallas kernels, for which the compiler has no cycles.

A grouped matmul takes the rows that are expected to be in use, not those that its buffer has room for; causal attention half
of the square. A kernel that declares its cost (pl.CostEstimate) is believed; the others are known by name and shapes.
"""

import dataclasses
import json
import re

from dots_jax.hlo.parser import Array, Computation, Operation

TPU_KERNEL = "tpu_custom_call"
_GROUPED = re.compile(r"ragged-dot|ragged_dot|gmm|grouped_matmul")
_ATTENTION = re.compile(r"splash|flash|attention")
# Matrix products over the square of queries and keys: forward q.k and p.v; backward again q.k, and dv, dp, dq, dk.
_FORWARD, _DQ, _DKV, _FUSED_BACKWARD = 2, 3, 4, 5


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What a device expects of its experts: rows of a layer at balanced load (tokens x choices), and the capacity factor."""

    rows: float = 0.0
    buffer: float = 1.0

    def share(self, room: int) -> float:
        """The share of a buffer of `room` rows that is in use. Tokens may come in several pieces, each with its own buffer."""
        if not self.rows or not room:
            return 1.0
        pieces = max(1, round(self.rows * self.buffer / room))
        return min(1.0, self.rows / pieces / room)


def is_kernel(op: Operation) -> bool:
    return op.opcode == "custom-call" and op.target == TPU_KERNEL


def kernel_work(op: Operation, computation: Computation, expected: Expectation) -> tuple[float, float]:
    """FLOPs and bytes of one call."""
    operands = [
        a for name in op.operands for a in computation.operations[name].arrays if name in computation.operations
    ]
    moved = float(sum(a.bytes for a in operands) + op.bytes)
    name = op.op_name.split("/")[-1] + " " + op.name
    declared = _declared(op)
    matrices = [a for a in operands if a.dtype in ("bf16", "f32", "f16", "f8e4m3fn", "s8")]
    if _GROUPED.search(name) or _GROUPED.search(op.op_name):
        share = expected.share(grouped_rows(matrices))
        flops = declared["flops"] if declared else 0.0
        return share * flops, share * min(declared["bytes_accessed"] if declared else moved, moved)
    if declared:
        return declared["flops"], declared["bytes_accessed"] or moved
    if _ATTENTION.search(name) or _ATTENTION.search(op.op_name):
        return _attention_flops(name + " " + op.op_name, op, matrices), moved
    return 0.0, moved


def grouped_rows(matrices: list[Array]) -> int:
    """R of x[R, D] @ w[E, D, F], or of dw[E, D, F] = x[D, R] @ dy[R, F]."""
    flat = [a for a in matrices if len(a.dims) == 2]
    return flat[-1 if len(flat) > 1 else 0].dims[0] if flat else 0


def _declared(op: Operation) -> dict[str, float] | None:
    found = re.search(r'"cost_estimate":(\{[^}]*\})', op.attributes)
    return {key: float(value) for key, value in json.loads(found[1]).items()} if found else None


def _attention_flops(name: str, op: Operation, matrices: list[Array]) -> float:
    """Of splash attention: q [..., N, T, H], k [..., N, S, H], the last query at the last key."""
    heads = [a for a in matrices if len(a.dims) >= 3 and a.dtype in ("bf16", "f32")]  # not the tables of the mask
    if len(heads) < 2:
        return 0.0
    *batch, T, H = heads[0].dims
    S = heads[1].dims[-2]
    pairs = T * S - T * T / 2 if T <= S else T * S / 2
    if "dkv" in name or "bwd" in name:
        products = _FUSED_BACKWARD if len([a for a in op.arrays if len(a.dims) >= 3]) > 2 else _DKV
    else:
        products = _DQ if "dq" in name else _FORWARD
    count = 1
    for size in batch:
        count *= size
    return 2.0 * products * count * pairs * H
