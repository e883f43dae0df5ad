"""What one operation of a compiled module has to do: bytes that must move, multiplications, and where it belongs.

The bytes are a floor: each array that it reads or writes once, but of an array that it only looks into (a slice of stacked
weights, gathered rows) just what it takes.
"""

import dataclasses
import functools
import math
import re

from dots_jax.hlo.parser import Computation, Module, Operation

# Scopes of the model and the step (jax.named_scope), in the order of the report.
PARTS = (
    "embed", "attention", "router", "dispatch", "experts", "combine", "shared", "dense", "head", "optimizer",
)  # fmt: skip
OTHER = "other"
_SCOPE = re.compile(r"(?<![\w.])(" + "|".join(PARTS) + r")(?![\w.])")
_KERNELS = (("splash", "attention"), ("flash", "attention"), ("ragged-dot", "experts"), ("gmm", "experts"))

# Operations that cost nothing: names for what is already there.
FREE = frozenset((
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "add-dependency", "partition-id",
    "replica-id", "opt-barrier", "iota", "domain", "get-dimension-size", "send",  # what it sends counts where it comes back
))  # fmt: skip
_LOOKS_INTO = ("dynamic-slice", "slice", "gather")
_PASSES_ON = ("bitcast", "reshape", "convert", "copy", "transpose", "negate")


@dataclasses.dataclass(frozen=True)
class Work:
    """bytes: the floor. flops: of its matrix products. rows: single rows that a gather or scatter looks up."""

    bytes: float
    flops: float
    rows: float = 0.0


def part_of(name: str, operation: str = "") -> str:
    """The innermost scope in a JAX name; else by the kernel that the name or the operation's own names."""
    found = _SCOPE.findall(name)
    if found:
        return found[-1]
    return next((part for kernel, part in _KERNELS if kernel in name or kernel in operation), OTHER)


class Reader:
    """Work and part of the operations of one module; remembers what it has read."""

    def __init__(self, module: Module):
        self.module = module
        self.work = functools.cache(self._work)
        self._flops = functools.cache(self._computation_flops)

    # --- part and pass ---

    def part(self, op: Operation, computation: Computation) -> str:
        """The innermost scope that its name, or that of what it is made of, is in."""
        return part_of(self.name(op, computation), op.name)

    def direction(self, op: Operation, computation: Computation) -> str:
        name = self.name(op, computation)
        if "rematted_computation" in name:
            return "recomputed"
        return "backward" if "transpose(" in name else "forward"

    def name(self, op: Operation, computation: Computation) -> str:
        """The JAX name of an operation; one that the compiler made takes it from what it reads, or from what reads it."""
        own = self._own_name(op)
        if own:
            return own
        near, seen = [op], {op.name}
        for neighbours in (lambda o: o.operands, lambda o: [u.name for u in computation.users.get(o.name, ())]):
            layer = near
            for _ in range(3):
                names = [name for o in layer for name in neighbours(o) if name in computation.operations]
                layer = [computation.operations[name] for name in dict.fromkeys(names) if name not in seen]
                layer = [o for o in layer if o.opcode not in ("parameter", "tuple", "while")]
                seen.update(o.name for o in layer)
                found = next(filter(None, map(self._own_name, layer)), "")
                if found:
                    return found
        return ""

    def _own_name(self, op: Operation) -> str:
        if _SCOPE.search(op.op_name):
            return op.op_name
        inner = self.module.computations.get(op.called("calls"))
        names = [op.op_name] if inner is None else [op.op_name, inner.root.op_name, *(o.op_name for o in inner)]
        return next((name for name in names if _SCOPE.search(name)), next(filter(None, names), ""))

    # --- work ---

    def _work(self, op: Operation, computation: Computation) -> Work:
        if op.opcode in FREE or op.opcode.endswith("-done"):  # what it waits for was counted where it starts
            return Work(0, 0)
        inner = self.module.computations.get(op.called("calls")) if op.opcode == "fusion" else None
        if inner is not None:
            reads = sum(self._read(parameter, inner) for parameter in inner.parameters)
            return Work(reads + self._written(inner), self._flops(inner), self._rows(inner))
        if op.opcode in ("call-start", "async-start", "call"):
            return self._called(op.called("to_apply") or op.called("calls"))
        operands = [computation.operations[name] for name in op.operands if name in computation.operations]
        rows = float(_index_rows(op, computation)) if op.opcode in ("gather", "scatter") else 0.0
        flops = _convolution_flops(op, computation) if op.opcode in ("convolution", "dot") else 0.0
        if op.opcode in _LOOKS_INTO or op.opcode in ("broadcast", "pad"):
            return Work(2 * op.bytes, flops, rows)
        if op.opcode == "dynamic-update-slice":
            return Work(2 * operands[1].bytes, 0)
        if op.opcode == "scatter":
            return Work(3 * operands[-1].bytes, 0, rows)
        if op.opcode == "sort":
            passes = max(1, math.log2(max(2, op.arrays[0].dims[-1])))
            return Work(2 * op.bytes * passes, 0)
        if op.opcode == "custom-call":  # markers of the compiler; Pallas kernels are costed in `kernels`
            return Work(0, 0)
        reads = sum(operand.bytes for operand in operands)
        return Work(reads + op.bytes, flops, rows)

    def _called(self, name: str) -> Work:
        inner = self.module.computations[name]
        parts = [self.work(op, inner) for op in inner]
        return Work(*(sum(getattr(part, field) for part in parts) for field in ("bytes", "flops", "rows")))

    def _read(self, value: Operation, inner: Computation) -> float:
        """Bytes that a fused computation needs of one of its parameters."""
        total = 0.0
        for user in inner.users.get(value.name, ()):
            if user.opcode in _LOOKS_INTO and user.operands[0] == value.name:
                total += user.bytes
            elif user.opcode in ("dynamic-update-slice", "scatter") and user.operands[0] == value.name:
                total += 0
            elif user.opcode in _PASSES_ON:
                total += self._read(user, inner) * value.bytes / max(user.bytes, 1)
            elif user.opcode == "fusion":
                nested = self.module.computations[user.called("calls")]
                places = [i for i, name in enumerate(user.operands) if name == value.name]
                total += sum(self._read(nested.parameters[i], nested) for i in places)
            else:
                return value.bytes
        return min(total, value.bytes)

    def _written(self, inner: Computation) -> float:
        roots = [inner.root]
        if inner.root.opcode == "tuple":
            roots = [inner.operations[name] for name in inner.root.operands]
        total = 0.0
        for root in roots:
            all_bytes, origin = root.bytes, root
            while origin.opcode in _PASSES_ON and origin.operands:
                origin = inner.operations[origin.operands[0]]
            if origin.opcode == "dynamic-update-slice":
                total += inner.operations[origin.operands[1]].bytes
            elif origin.opcode == "scatter":
                total += 2 * inner.operations[origin.operands[-1]].bytes
            elif origin.opcode == "fusion":
                total += min(all_bytes, self._written(self.module.computations[origin.called("calls")]))
            elif origin.opcode == "parameter":
                total += 0 if root is origin else all_bytes
            else:
                total += all_bytes
        return total

    def _computation_flops(self, inner: Computation) -> float:
        total = 0.0
        for op in inner:
            if op.opcode in ("convolution", "dot"):
                total += _convolution_flops(op, inner)
            elif op.opcode == "fusion":
                total += self._flops(self.module.computations[op.called("calls")])
        return total

    def _rows(self, inner: Computation) -> float:
        total = 0.0
        for op in inner:
            if op.opcode in ("gather", "scatter"):
                total += _index_rows(op, inner)
            elif op.opcode == "fusion":
                total += self._rows(self.module.computations[op.called("calls")])
        return total


def _index_rows(op: Operation, computation: Computation) -> int:
    """Rows that a gather or a scatter moves one by one."""
    if op.opcode == "gather":
        sizes = re.search(r"slice_sizes=\{([\d,]*)\}", op.attributes)
        row = math.prod(int(n) for n in sizes[1].split(",") if n) if sizes else 1
        return op.arrays[0].size // max(row, 1)
    updates = computation.operations[op.operands[-1]].arrays[0]
    window = re.search(r"update_window_dims=\{([\d,]*)\}", op.attributes)
    dims = [int(n) for n in window[1].split(",") if n] if window else []
    return math.prod(size for i, size in enumerate(updates.dims) if i not in dims)


def _convolution_flops(op: Operation, computation: Computation) -> float:
    """Two for each multiplication of a convolution or dot, without those on padding. TPUs write dots as convolutions."""
    left, right = (computation.operations[name].arrays[0].dims for name in op.operands[:2])
    out = op.arrays[0].dims
    if op.opcode == "dot":
        (contracted,) = re.findall(r"lhs_contracting_dims=\{([\d,]*)\}", op.attributes)
        return 2.0 * math.prod(out) * math.prod(left[int(i)] for i in contracted.split(",") if i)
    groups = re.search(r"feature_group_count=(\d+)", op.attributes)
    batch_groups = re.search(r"batch_group_count=(\d+)", op.attributes)
    lhs, rhs, result = re.findall(r"dim_labels=(\w+)_(\w+)->(\w+)", op.attributes)[0]
    window = _window(op.attributes)
    total = 2.0 * out[result.index("b")] * out[result.index("f")] * right[rhs.index("i")]
    total /= int(batch_groups[1]) if batch_groups else 1
    del groups  # the kernel's input features are already those of one group
    for digit in sorted(c for c in result if c.isdigit()):
        place = int(digit)
        total *= _valid_pairs(
            left[lhs.index(digit)], right[rhs.index(digit)], out[result.index(digit)],
            *(window[key][place] if key in window else default for key, default in (
                ("stride", 1), ("pad", (0, 0)), ("lhs_dilate", 1), ("rhs_dilate", 1)
            )),
        )  # fmt: skip
    return total


def _window(attributes: str) -> dict[str, list]:
    found = re.search(r"window=\{([^}]*)\}", attributes)
    result: dict[str, list] = {}
    for item in found[1].split() if found else ():
        key, _, value = item.partition("=")
        parts = value.split("x")
        result[key] = [tuple(map(int, p.split("_"))) for p in parts] if key == "pad" else [
            int(p) if p.lstrip("-").isdigit() else 0 for p in parts
        ]  # fmt: skip
    return result


@functools.cache
def _valid_pairs(size: int, kernel: int, out: int, stride: int, pad: tuple, lhs_dilate: int, rhs_dilate: int) -> int:
    """Pairs of (output place, kernel place) of one spatial dimension whose input element is real."""
    count = 0
    for k in range(kernel):
        offset = k * rhs_dilate - pad[0]
        if lhs_dilate == 1:
            low = max(0, -(offset // stride))
            high = min(out - 1, (size - 1 - offset) // stride)
            count += max(0, high - low + 1)
        else:
            for o in range(out):
                place = o * stride + offset
                count += place % lhs_dilate == 0 and 0 <= place // lhs_dilate < size
    return count
