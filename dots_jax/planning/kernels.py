"""How much of a Pallas kernel's work is real: rows of experts that are expected to be in use, and the causal half."""

from collections.abc import Callable

from dots_jax.planning.hlo import Operation, parse_arrays

_GROUPED = ("ragged-dot", "ragged_dot", "gmm", "grouped")


def row_share(rows: float) -> Callable[[Operation], float]:
    """Of a grouped matmul whose buffer has room for more rows than the expected `rows`, the share that is in use."""

    def share(op: Operation) -> float:
        if not rows or op.target != "tpu_custom_call":
            return 1.0
        if not any(word in op.name or word in op.op_name for word in _GROUPED):
            return 1.0
        found = op.attributes.find("operand_layout_constraints=")
        sizes = [a.dims[0] for a in parse_arrays(op.attributes[found : found + 2000]) if len(a.dims) == 2]
        return min(1.0, rows / max(sizes)) if sizes else 1.0

    return share
