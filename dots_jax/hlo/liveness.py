"""What lies in a chip's memory at the fullest moment of a compiled module, from its schedule.

Counts results of operations from where they are made to their last use; arguments, which are there all the time, are left
out. What shares memory is taken to be what the module says does: bitcasts, tuples, loops, updates in place. The compiler
packs better or worse than that; its own total is in `compiled.memory_analysis()`, and this names what it consists of.
"""

import dataclasses
import re
from typing import Any

from dots_jax.hlo.op_cost import OTHER, Reader
from dots_jax.hlo.parser import Array, Computation, Module, Operation, parse_arrays

_SAME = ("bitcast", "opt-barrier", "add-dependency", "domain")
_HBM = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Buffer:
    """One array in memory: bytes with padding, shape, the part of the step and the operation it comes from."""

    bytes: int
    shape: str
    part: str
    origin: str


@dataclasses.dataclass(frozen=True)
class Peak:
    bytes: int = 0
    buffers: tuple[Buffer, ...] = ()


def peak(module: Module) -> Peak:
    """The fullest moment, and all that lies there, the largest first."""
    found = _Liveness(module).computation(module.entry)
    return Peak(found.bytes, tuple(sorted(found.buffers, key=lambda b: -b.bytes)))


class _Liveness:
    """A value is a tree of tuples of Buffers; None where there is no memory of its own."""

    def __init__(self, module: Module):
        self.module, self.reader = module, Reader(module)
        self.peaks: dict[str, Peak] = {}

    def computation(self, name: str) -> Peak:
        if name in self.peaks:
            return self.peaks[name]
        home = self.module.computations[name]
        values: dict[str, Any] = {}
        inner: dict[str, Peak] = {}
        for op in home:
            values[op.name] = self._value(op, home, values)
            nested = [self.computation(n) for n in self._bodies(op)]
            if nested:
                inner[op.name] = max(nested, key=lambda p: p.bytes)
        if name != self.module.entry:  # what a loop hands on lies where its parameter lay
            kept = set(map(id, _leaves(values[home.root.name])))
        else:
            kept = set()
        self.peaks[name] = _sweep(home, values, inner, kept)
        return self.peaks[name]

    def _bodies(self, op: Operation) -> list[str]:
        if op.opcode == "while":
            return [op.called("body")]
        if op.opcode == "conditional":
            return op.branches
        return [op.called("to_apply")] if op.opcode == "call" else []

    def _value(self, op: Operation, home: Computation, values: dict[str, Any]) -> Any:
        operands = [values.get(name) for name in op.operands]
        if op.opcode in ("parameter", "constant"):
            return _map(parse_tree(op.type), lambda array: None)
        if op.opcode in _SAME or op.opcode == "while":
            return operands[0] if operands else None
        if op.opcode == "tuple":
            return tuple(operands)
        if op.opcode == "get-tuple-element":
            index = int(re.findall(r"index=(\d+)", op.attributes)[0])
            return operands[0][index] if isinstance(operands[0], tuple) and index < len(operands[0]) else None
        if op.opcode.endswith("-done"):
            place = 0 if op.opcode in ("copy-done", "slice-done") else 1
            return operands[0][place] if isinstance(operands[0], tuple) and len(operands[0]) > place else None
        made = _map(parse_tree(op.type), lambda array: self._buffer(array, op, home))
        if op.opcode.endswith("-start") and isinstance(made, tuple):
            keep = 0 if op.opcode in ("copy-start", "slice-start") else 1
            return tuple(part if i == keep else None for i, part in enumerate(made))
        return self._shared(op, made, operands)

    def _shared(self, op: Operation, made: Any, operands: list) -> Any:
        """Results that take the place of an operand: updates in place."""
        if op.opcode == "dynamic-update-slice":
            return operands[0]
        if op.opcode not in ("fusion", "custom-call"):
            return made
        pairs = re.findall(r"\{(\d*)\}: \((\d+), \{[\d,]*\}", op.attributes.split("output_to_operand_aliasing=")[-1])
        pairs = pairs if "output_to_operand_aliasing=" in op.attributes else []
        inner = self.module.computations.get(op.called("calls"))
        if inner is not None:
            roots = [inner.operations[n] for n in inner.root.operands] if inner.root.opcode == "tuple" else [inner.root]
            for i, root in enumerate(roots):
                place = _updated_parameter(root, inner)
                if place is not None:
                    pairs.append((str(i) if isinstance(made, tuple) else "", str(place)))
        for output, operand in pairs:
            if int(operand) >= len(operands):
                continue
            if not output:
                return operands[int(operand)]
            if isinstance(made, tuple) and int(output) < len(made):
                made = (*made[: int(output)], operands[int(operand)], *made[int(output) + 1 :])
        return made

    def _buffer(self, array: Array, op: Operation, home: Computation) -> Buffer | None:
        if array.space != _HBM or array.padded_bytes == 0:
            return None
        named, where, verb = op, home, self.reader.direction(op, home)
        filler = self._filler(op, home) if op.opcode in ("broadcast", "custom-call", "fusion") else None
        if filler is not None:  # room that a loop fills, slice by slice
            named, where, verb = *filler, "kept"
        name = self.reader.name(named, where)
        shape = f"{array.dtype}[{','.join(map(str, array.dims))}]"
        origin = "/".join(name.split("/")[-2:]) or op.name
        return Buffer(array.padded_bytes, shape, self.reader.part(named, where), f"{verb} {origin}")

    def _filler(self, op: Operation, home: Computation) -> tuple[Operation, Computation] | None:
        """The operation of a loop's body whose results fill a buffer that is empty before the loop."""
        if (
            op.operands
            and op.opcode == "fusion"
            and self.module.computations[op.called("calls")].root.opcode != "broadcast"
        ):
            return None
        for tuple_op in home.users.get(op.name, ()):
            for loop in home.users.get(tuple_op.name, ()) if tuple_op.opcode == "tuple" else ():
                body = self.module.computations[loop.called("body")] if loop.opcode == "while" else None
                if body is None or body.root.opcode != "tuple":
                    continue
                update = body.operations[body.root.operands[tuple_op.operands.index(op.name)]]
                sources = [body.operations[name] for name in update.operands if name in body.operations]
                made = [o for o in sources if o.opcode not in ("get-tuple-element", "constant", "parameter")]
                found = [o for o in made if self.reader.part(o, body) != OTHER]
                return (found or made or [update])[0], body
        return None


def _updated_parameter(root: Operation, inner: Computation) -> int | None:
    while root.opcode in ("bitcast", "reshape", "convert", "copy") and root.operands:
        root = inner.operations[root.operands[0]]
    if root.opcode != "dynamic-update-slice":
        return None
    target = inner.operations[root.operands[0]]
    while target.opcode in ("bitcast", "reshape") and target.operands:
        target = inner.operations[target.operands[0]]
    return int(target.argument) if target.opcode == "parameter" else None


def _sweep(home: Computation, values: dict[str, Any], inner: dict[str, Peak], kept: set[int]) -> Peak:
    order = {op.name: i for i, op in enumerate(home)}
    first: dict[int, tuple[int, Buffer]] = {}
    last: dict[int, int] = {}
    for op in home:
        for buffer in _leaves(values[op.name]):
            first.setdefault(id(buffer), (order[op.name], buffer))
            uses = [order[user.name] for user in home.users.get(op.name, ())]
            last[id(buffer)] = max([last.get(id(buffer), 0), order[op.name], *uses])
    for buffer in _leaves(values[home.root.name]):
        last[id(buffer)] = len(order)
    begins: dict[int, list[Buffer]] = {}
    for key, (start, buffer) in first.items():
        if key not in kept:
            begins.setdefault(start, []).append(buffer)
    alive: dict[int, Buffer] = {}
    best, best_set, total = 0, (), 0
    for i, op in enumerate(home):
        for buffer in begins.get(i, ()):
            alive[id(buffer)] = buffer
            total += buffer.bytes
        extra = inner.get(op.name, Peak())
        if total + extra.bytes > best:
            best, best_set = total + extra.bytes, (*alive.values(), *extra.buffers)
        for key in [key for key in alive if last[key] <= i]:
            total -= alive.pop(key).bytes
    return Peak(best, best_set)


def parse_tree(text: str) -> Any:
    """Of the type of an operation: an Array, or a tuple of such trees."""
    text = re.sub(r"/\*.*?\*/", "", text).strip()
    if not text.startswith("("):
        found = parse_arrays(text)
        return found[0] if found else Array("token", ())
    parts, depth, start = [], 0, 1
    for i, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        if (character == "," and depth == 1) or (character == ")" and depth == 0):
            if text[start:i].strip():
                parts.append(parse_tree(text[start:i]))
            start = i + 1
    return tuple(parts)


def _map(tree: Any, make) -> Any:
    return tuple(_map(part, make) for part in tree) if isinstance(tree, tuple) else make(tree)


def _leaves(value: Any) -> list[Buffer]:
    if isinstance(value, tuple):
        return [leaf for part in value for leaf in _leaves(part)]
    return [] if value is None else [value]
