"""Reads the text of a compiled XLA module: computations, operations in their schedule, shapes, trip counts.

Only what an estimate needs, and nothing but the standard library: `compiled.as_text()` of a TPU module is the schedule that
the chip runs, with the compiler's own estimate of the cycles of each operation in `backend_config`.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_BITS = {
    "pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16,
    "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128, "token": 0,
    "f4e2m1fn": 4, "f8e3m4": 8, "f8e4m3": 8, "f8e4m3b11fnuz": 8, "f8e4m3fn": 8, "f8e4m3fnuz": 8, "f8e5m2": 8,
    "f8e5m2fnuz": 8, "f8e8m0fnu": 8,
}  # fmt: skip
_NO_ESTIMATE = 9223372036854775807
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_OPERATION = re.compile(r"^  (ROOT )?%?([\w.\-]+) = ")
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """dtype, dimensions and memory space of one array: 0 is HBM, 1 the chip's vector memory, 5 the host.

    layout: axes from the innermost on; tile: of the innermost axes, which are padded to complete tiles in memory.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int = 0
    layout: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        return self.size * _BITS.get(self.dtype, 32) // 8

    @property
    def padded_bytes(self) -> int:
        """What it takes in memory."""
        if not self.dims:
            return 0
        sizes = list(self.dims)
        for axis, tile in zip(self.layout, reversed(self.tile)):
            sizes[axis] = -(-sizes[axis] // tile) * tile
        return math.prod(sizes) * _BITS.get(self.dtype, 32) // 8


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One line. operands: names in the same computation. attributes: the rest of the line, as text."""

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    argument: str
    attributes: str
    root: bool

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of its result; of a tuple all of them, nested ones included."""
        return parse_arrays(self.type)

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays)

    @functools.cached_property
    def cycles(self) -> int | None:
        """The compiler's own estimate, where it has one."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found[1]) if found and int(found[1]) != _NO_ESTIMATE else None

    @functools.cached_property
    def op_name(self) -> str:
        """Where in the JAX program it is from: `jit(train_step)/jvp()/while/body/attention/dot_general`."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    def called(self, key: str) -> str:
        """The computation named by `key=`: calls, to_apply, body, condition. Empty if the line has no such key."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else ""

    @property
    def branches(self) -> list[str]:
        found = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if found:
            return _NAME.findall(found[1])
        return [name for name in (self.called("true_computation"), self.called("false_computation")) if name]

    @functools.cached_property
    def target(self) -> str:
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True, eq=False)
class Computation:
    """operations: by name, in the order of the schedule."""

    name: str
    operations: dict[str, Operation]

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations.values())

    @functools.cached_property
    def parameters(self) -> list[Operation]:
        found = {int(op.argument): op for op in self if op.opcode == "parameter"}
        return [found[index] for index in sorted(found)]

    @functools.cached_property
    def root(self) -> Operation:
        return next((op for op in self if op.root), list(self)[-1])

    @functools.cached_property
    def users(self) -> dict[str, list[Operation]]:
        found: dict[str, list[Operation]] = {}
        for op in self:
            for operand in dict.fromkeys(op.operands):
                found.setdefault(operand, []).append(op)
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class Module:
    header: str
    computations: dict[str, Computation]
    entry: str

    @property
    def num_partitions(self) -> int:
        found = re.search(r"num_partitions=(\d+)", self.header)
        return int(found[1]) if found else 1

    def trip_count(self, loop: Operation, within: Computation) -> int:
        """How often a while loop runs: as the compiler says, or from its condition.

        A limit that depends on data is taken as 1: the loops over blocks of experts' rows, which count the first block as
        one, have one block at balanced load.
        """
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known[1])
        compare = self._compare(self.computations[loop.called("condition")])
        if compare is None:
            return 1
        index, limit, inclusive = compare
        last = _integer(limit) if limit.opcode == "constant" else self._start(loop, within, _tuple_index(limit))
        first = self._start(loop, within, index)
        if last is None:
            return max(0, 1 - (first or 0))
        return abs(last - (first or 0)) + inclusive

    def _compare(self, condition: Computation) -> tuple[int, Operation, bool] | None:
        """(place of the counter in the tuple, the limit, whether it is reached) of a condition `counter < limit`."""
        op, computation, outer = _through(condition.root, condition), condition, {}
        if op.opcode in ("fusion", "call"):
            computation = self.computations[op.called("calls") or op.called("to_apply")]
            outer = dict(zip((p.name for p in computation.parameters), op.operands))
            op = computation.root
        if op.opcode != "compare":
            return None
        sides = []
        for name in op.operands:
            side = _through(computation.operations[name], computation)
            if side.name in outer:
                side = _through(condition.operations[outer[side.name]], condition)
            sides.append(side)
        inclusive = "direction=LE" in op.attributes or "direction=GE" in op.attributes
        counter = _tuple_index(sides[0])
        return None if counter is None else (counter, sides[1], inclusive)

    def _start(self, loop: Operation, within: Computation, index: int | None) -> int | None:
        """The constant that element `index` of the loop's tuple has at first."""
        init = within.operations[loop.operands[0]]
        if init.opcode != "tuple" or index is None:
            return None
        value = _through(within.operations[init.operands[index]], within)
        if value.opcode == "fusion" and not value.operands:
            value = self.computations[value.called("calls")].root
        return _integer(value) if value.opcode == "constant" else None


def _through(op: Operation, computation: Computation) -> Operation:
    """Behind copies, bitcasts and conversions of a scalar."""
    while (
        op.opcode in ("copy", "bitcast", "reshape", "convert", "copy-done", "copy-start", "broadcast") and op.operands
    ):
        op = computation.operations[op.operands[0]]
    return op


def _tuple_index(op: Operation) -> int | None:
    found = re.search(r"index=(\d+)", op.attributes) if op.opcode == "get-tuple-element" else None
    return int(found[1]) if found else None


def _integer(op: Operation) -> int | None:
    try:
        return int(op.argument.strip("{} "))
    except ValueError:
        return None


def parse_arrays(text: str) -> tuple[Array, ...]:
    found = []
    for dtype, dims, layout in _ARRAY.findall(text):
        if dtype not in _BITS:
            continue
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(d.lstrip("<=")) for d in dims.split(",") if d)
        order, _, tiles = layout.partition(":")
        tile = re.match(r"T\(([\d,]+)\)", tiles)
        found.append(
            Array(dtype, sizes, int(space[1]) if space else 0, _integers(order), _integers(tile[1]) if tile else ())
        )
    return tuple(found)


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n.isdigit())


def _balanced(line: str, start: int) -> int:
    """Index behind the bracket that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(line, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    raise ValueError(f"unbalanced brackets: {line[:120]}")


def parse_operation(line: str) -> Operation:
    """One operation of a computation."""
    head = _OPERATION.match(line)
    if head is None:
        raise ValueError(f"not an operation of a compiled module: {line[:120]}")
    start = head.end()
    end = _balanced(line, start) if line[start] == "(" else line.index(" ", start)
    opening = line.index("(", end)
    closing = _balanced(line, opening)
    argument = line[opening + 1 : closing - 1]
    opcode = line[end:opening].strip()
    operands = () if opcode in ("constant", "parameter", "iota") else tuple(_NAME.findall(argument))
    return Operation(head[2], opcode, line[start:end], operands, argument, line[closing:], bool(head[1]))


def parse(text: str) -> Module:
    """The module of this text."""
    header, computations, entry, current, name = "", {}, "", None, ""
    for line in text.splitlines():
        if line.startswith("HloModule"):
            header = line
        elif current is None:
            found = _COMPUTATION.match(line)
            if found:
                name, current = found[2], []
                entry = name if found[1] else entry
        elif line == "}" or line.startswith("}, execution_thread="):
            computations[name] = Computation(name, {op.name: op for op in map(parse_operation, current)})
            current = None
        elif _OPERATION.match(line):
            current.append(line)
        elif current:  # attributes may run over several lines
            current[-1] += " " + line
    return Module(header, computations, entry)
