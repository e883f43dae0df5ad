"""Finds the collectives of a schedule, in each of the ways in which the TPU compiler writes them.

* plainly, `all-gather`; or as the pair `collective-permute-start`, `-done`;
* inside an asynchronous call, mostly to the SparseCores: `call-start` ... `call-done`;
* inside a fusion: an all-reduce that is cut (the compiler's reduce-scatter);
* in steps: a fusion with AsyncCollectiveStart, fusions of matrix products that each carry some steps, and one with
  AsyncCollectiveDone. Only the carriers bring such a collective on, whatever else runs in between.
"""

import dataclasses
import functools
import re

from dots_jax.hlo.parser import Computation, Module, Operation

KINDS = (
    "all-gather", "reduce-scatter", "all-reduce", "collective-permute", "all-to-all", "ragged-all-to-all",
    "collective-broadcast",
)  # fmt: skip
SYNC, START, DONE, CARRY = "sync", "start", "done", "carry"


@dataclasses.dataclass(frozen=True)
class Collective:
    """role: SYNC or START (until the operation that is `done` with it), START, CARRY and DONE of the chain `chain`.

    op: the collective itself, in the computation `home`. kind: what it comes to: an all-reduce of which only a part is kept
    is a reduce-scatter.
    """

    role: str
    op: Operation
    home: Computation
    kind: str
    chain: str = ""


def kind_of(op: Operation) -> str | None:
    """`all-gather` of an all-gather or all-gather-start; None of what is no collective."""
    name = op.opcode.removesuffix("-start")
    return name if name in KINDS else None


class Finder:
    """The collectives of one module."""

    def __init__(self, module: Module):
        self.module = module
        self.inside = functools.cache(self._inside)

    def find(self, op: Operation, computation: Computation) -> list[Collective]:
        """What this operation has to do with collectives: nothing, mostly."""
        kind = kind_of(op)
        if kind:
            return [Collective(START if op.opcode.endswith("-start") else SYNC, op, computation, kind)]
        if op.opcode in ("call-start", "async-start"):
            return [
                dataclasses.replace(c, role=START) for c in self.inside(op.called("to_apply") or op.called("calls"))
            ]
        return self.inside(op.called("calls")) if op.opcode == "fusion" else []

    def _inside(self, name: str | None) -> list[Collective]:
        computation = self.module.computations.get(name or "")
        found: list[Collective] = []
        if computation is None:
            return found
        for op in computation:
            kind = kind_of(op)
            if kind:
                found.append(self._one(op, kind, computation))
            for nested in (op.called("calls"), op.called("to_apply")):
                if nested and not kind and op.opcode in ("fusion", "call", "call-start", "async-start"):
                    found += self.inside(nested)
        return found

    def _one(self, op: Operation, kind: str, computation: Computation) -> Collective:
        chain = re.search(r'chain_id="([^"]*)"', op.attributes)
        users = [user for user in computation.users.get(op.name, ()) if user.opcode == "custom-call"]
        targets = {user.target for user in users}
        if "AsyncCollectiveStart" in targets:
            return Collective(START, op, computation, kind, chain[1] if chain else op.name)
        if "AsyncCollectiveDone" in targets:
            return Collective(DONE, op, computation, kind, chain[1] if chain else op.name)
        if chain:
            return Collective(CARRY, op, computation, kind, chain[1])
        kept = computation.root
        if kind == "all-reduce" and kept is not op and kept.bytes < op.bytes:
            kind = "reduce-scatter"
        return Collective(SYNC, op, computation, kind)
