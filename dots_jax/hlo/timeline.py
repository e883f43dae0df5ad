"""Walks the schedule of a compiled module and adds up its time, by several estimates at once.

`compiler`: the cycles that the compiler itself estimates for each operation, over the clock. `floor`: the same for operations
with a matrix product, and for all others the bytes that must move over the HBM bandwidth, since the compiler's figure is some
three times that. Pallas kernels have no cycles: they take the longer of FLOPs at the peak and bytes at the bandwidth, those
without a matrix product three times their bytes by the first estimate. `calibrated`: kernels by the schedule that the compiler
writes for them, all else at the shares of the data sheet that others have measured; work without a matrix product once by cycles
and once by bytes, and the centre between the two as `calibration.Shares` weighs them.

A synchronous collective runs alone. An asynchronous one runs from its start, after the transfers already on its links; the time
that its done still waits counts as exposed. A loop is walked once and counts as often as it runs. A loop whose trips depend on
data counts as at balanced load, a conditional as its longest branch.
"""

import collections
import dataclasses

from dots_jax.config import UserError
from dots_jax.hlo.calibration import SHARES, Shares
from dots_jax.hlo.collectives import CARRY, DONE, START, SYNC, Collective, Finder
from dots_jax.hlo.interconnect import Interconnect, Transfer, between_slices, transfer
from dots_jax.hlo.kernel_cost import Expectation, is_kernel, kernel_work
from dots_jax.hlo.kernel_table import KernelTable, kernel_table
from dots_jax.hlo.op_cost import FREE, Reader
from dots_jax.hlo.parser import Computation, Module, Operation

ESTIMATES = ("compiler", "floor")
BY_CYCLES, BY_BYTES = "calibrated_cycles", "calibrated_bytes"
CLOCKS = (*ESTIMATES, BY_CYCLES, BY_BYTES)
HOST = 5  # memory space
COPY = "copy"
# The compiler's estimates of work without a matrix product are 2.7 to 3.8 times its bytes; a kernel's without one as well.
ELEMENTWISE = 3.0
UNKNOWN_KERNEL = 0.6  # of the peak: what a kernel without a row in the table is charged at (assumed)
COPIES = ("copy-start", "slice-start", "dynamic-slice-start", "dynamic-update-slice-start")


@dataclasses.dataclass
class InFlight:
    """A transfer between its start and its done. done_at: by estimate, the time at which it is done, or its chain."""

    step: "Step"
    done_at: "dict[str, float | _Chain]" = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Step:
    """One operation of the schedule. trips: how often it runs in a step of the module. seconds: of one run, by estimate."""

    op: Operation
    computation: str
    part: str
    direction: str
    trips: float
    seconds: dict[str, float]
    bytes: float = 0.0
    flops: float = 0.0
    kernel: bool = False
    transfer: Transfer | None = None
    asynchronous: bool = False
    exposed: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Timeline:
    """All that takes time."""

    steps: list[Step]
    shares: Shares = dataclasses.field(default_factory=Shares)
    kernels_made_with: str = ""
    unknown_kernels: tuple[str, ...] = ()  # without a row in the table of kernels, by name

    @property
    def flops(self) -> float:
        """Of all matrix products that a device runs, recomputed ones included."""
        return sum(step.trips * step.flops for step in self.compute)

    @property
    def compute(self) -> list[Step]:
        return [step for step in self.steps if step.transfer is None]

    @property
    def transfers(self) -> list[Step]:
        return [step for step in self.steps if step.transfer is not None]

    @property
    def collectives(self) -> list[Step]:
        """And copies to and from the host; without those between HBM and vector memory, which come to nothing."""
        return [step for step in self.steps if step.transfer is not None and step.transfer.kind != COPY]

    def compute_seconds(self, estimate: str) -> float:
        return sum(step.trips * step.seconds[estimate] for step in self.compute)

    def exposed_seconds(self, estimate: str) -> float:
        return sum(step.trips * step.exposed[estimate] for step in self.transfers)

    def link_seconds(self) -> float:
        """Of the busiest link, if all collectives ran one after the other on it."""
        busy: dict[str, float] = collections.defaultdict(float)
        for step in self.collectives:
            if step.transfer is not None:
                for link in step.transfer.links:
                    busy[link] += step.trips * step.transfer.seconds
        return max(busy.values(), default=0.0)

    def seconds(self) -> dict[str, float]:
        """calibrated: the centre of its range. compiler, floor: with what is exposed by each. overlapped: floor estimate, if
        every collective were hidden."""
        found = {name: self.compute_seconds(name) + self.exposed_seconds(name) for name in CLOCKS}
        by_cycles, by_bytes = found.pop(BY_CYCLES), found.pop(BY_BYTES)
        weight = self.shares.cycles
        calibrated = self.shares.ratio * (weight * by_cycles + (1 - weight) * by_bytes)
        overlapped = max(self.compute_seconds("floor"), self.link_seconds())
        return {"calibrated": calibrated, **found, "overlapped": overlapped}


class ScheduleSimulator:
    """Builds a Timeline.

    Raises:
      UserError: the module is for another number of devices than the network has.
    """

    def __init__(
        self,
        module: Module,
        network: Interconnect,
        expected: Expectation | None = None,
        shares: Shares | None = None,
        kernels: KernelTable | None = None,
    ):
        self.pod = network
        if module.num_partitions * network.slices == len(network.places):  # the program of one slice of several
            network = network.one_slice()
        if module.num_partitions not in (1, len(network.places)):
            raise UserError(
                f"This module is for {module.num_partitions} devices, but the topology has {len(network.places)}."
            )
        self.module, self.network = module, network
        self.reader, self.finder = Reader(module), Finder(module)
        self.expected = expected or Expectation()
        self.chip = network.chip
        self.shares = shares or SHARES[self.chip.name]
        self.kernels = kernels or kernel_table(self.chip, self.shares.hbm)
        self.unknown_kernels: set[str] = set()

    def walk(self) -> Timeline:
        steps = self._computation(self.module.entry, 1.0, {name: _Clock() for name in CLOCKS})
        return Timeline(steps, self.shares, self.kernels.made_with, tuple(sorted(self.unknown_kernels)))

    def _computation(self, name: str, trips: float, clocks: dict[str, "_Clock"]) -> list[Step]:
        computation, steps = self.module.computations[name], []
        pending: dict[str, InFlight] = {}
        for op in computation:
            if op.opcode == "while":
                count = self.module.trip_count(op, computation)
                steps += self._loop(op.called("body"), trips, count, clocks) if count else []
            elif op.opcode == "conditional":
                steps += self._longest(op.branches, trips, clocks)
            elif op.opcode == "call":
                steps += self._computation(op.called("to_apply"), trips, clocks)
            elif op.opcode.endswith(("-done", "-update")):
                self._finish(op, computation, pending, clocks)
            elif op.opcode in COPIES or op.opcode == "recv":
                pending[op.name] = self._move(op, computation, trips, clocks)
                steps.append(pending[op.name].step)
            elif op.opcode not in FREE:
                steps += self._operation(op, computation, trips, clocks, pending)
        for start in list(pending):  # a start whose done is elsewhere: nothing is known to hide it
            self._wait(pending.pop(start), clocks)
        return steps

    def _loop(self, body: str, trips: float, count: float, clocks: dict) -> list[Step]:
        before = {name: clock.now for name, clock in clocks.items()}
        steps = self._computation(body, trips * count, clocks)
        for name, clock in clocks.items():  # the other trips take as long as the first
            clock.skip((count - 1) * (clock.now - before[name]))
        return steps

    def _longest(self, branches: list[str], trips: float, clocks: dict) -> list[Step]:
        best, best_clocks = [], None
        for branch in branches:
            own = {name: clock.copy() for name, clock in clocks.items()}
            steps = self._computation(branch, trips, own)
            if best_clocks is None or own["compiler"].now > best_clocks["compiler"].now:
                best, best_clocks = steps, own
        for name, clock in (best_clocks or {}).items():
            clocks[name].become(clock)
        return best

    # --- one operation ---

    def _operation(
        self,
        op: Operation,
        computation: Computation,
        trips: float,
        clocks: dict[str, "_Clock"],
        pending: dict[str, InFlight],
    ) -> list[Step]:
        found = self.finder.find(op, computation)
        steps = [
            self._communicate(op, computation, c, trips, clocks, pending) for c in found if c.role in (SYNC, START)
        ]
        carried = [c.chain for c in found if c.role == CARRY]
        if carried or not found:
            step = self._compute(op, computation, trips)
            for name, clock in clocks.items():
                done = [pending[c].done_at[name] for c in carried if c in pending]
                clock.run(step.seconds[name], [chain for chain in done if isinstance(chain, _Chain)])
            steps.append(step)
        for collective in found:
            if collective.role == DONE and collective.chain in pending:
                self._wait(pending.pop(collective.chain), clocks)
        return steps

    def _communicate(self, op, computation, found: Collective, trips, clocks, pending) -> Step:
        moved = transfer(found.kind, found.op, found.home, self.network, 1 / self.expected.buffer)
        namesake = (found.op, found.home) if found.op.op_name else (op, computation)
        step = Step(
            op, computation.name, self.reader.part(*namesake), self.reader.direction(*namesake), trips,
            dict.fromkeys(CLOCKS, moved.seconds), moved.bytes, transfer=moved, asynchronous=found.role == START,
            exposed=dict.fromkeys(CLOCKS, 0.0),
        )  # fmt: skip
        slower = self._as_measured(moved)
        for name, clock in clocks.items():
            sent = moved if name in ESTIMATES else slower
            if found.role == SYNC:
                step.exposed[name] = clock.wait(clock.send(sent))
            elif found.chain:
                pending.setdefault(found.chain, InFlight(step)).done_at[name] = _Chain(sent.links, sent.seconds)
            else:
                pending.setdefault(op.name, InFlight(step)).done_at[name] = clock.send(sent)
        return step

    def _as_measured(self, moved: Transfer) -> Transfer:
        """At the bandwidth and latency that others have measured on links of a slice."""
        if not set(moved.links) & set("xyz"):
            return moved
        return dataclasses.replace(moved, seconds=moved.seconds / self.shares.links + self.shares.latency)

    def _move(self, op: Operation, computation: Computation, trips: float, clocks: dict) -> InFlight:
        """An asynchronous copy between HBM, the chip's vector memory and the host, or what comes from other slices: it hides
        like a collective."""
        moved = between_slices(op, self.pod) if op.opcode == "recv" else self._copied(op)
        step = Step(
            op, computation.name, self.reader.part(op, computation), self.reader.direction(op, computation), trips,
            dict.fromkeys(CLOCKS, moved.seconds), moved.bytes, transfer=moved, asynchronous=True,
            exposed=dict.fromkeys(CLOCKS, 0.0),
        )  # fmt: skip
        return InFlight(step, {name: clock.send(moved) for name, clock in clocks.items()})

    def _copied(self, op: Operation) -> Transfer:
        host = any(array.space == HOST for array in op.arrays)
        # The result of a slice copy is (array, slice, index): only the slice moves.
        copied = min(array.bytes for array in op.arrays if array.dims)
        bandwidth = (self.chip.pcie if host else self.chip.hbm) / self.chip.devices
        return Transfer(
            "host copy" if host else COPY, "none", 1, copied, copied / bandwidth, ("host" if host else "hbm",)
        )

    def _compute(self, op: Operation, computation: Computation, trips: float) -> Step:
        part, direction, chip = self.reader.part(op, computation), self.reader.direction(op, computation), self.chip
        place = (op, computation.name, part, direction, trips)
        if is_kernel(op):
            flops, moved = kernel_work(op, computation, self.expected)
            seconds = max(flops * chip.devices / chip.flops, moved * chip.devices / chip.hbm)
            compiler = seconds if flops else ELEMENTWISE * seconds
            scheduled = self.kernels.seconds(op, computation, self.expected, moved)
            by_clock = {"compiler": compiler, "floor": seconds}
            if scheduled is None:
                self.unknown_kernels.add(op.name.rstrip(".0123456789"))
                by_clock |= {BY_CYCLES: compiler / UNKNOWN_KERNEL, BY_BYTES: seconds / UNKNOWN_KERNEL}
            else:
                by_clock |= {BY_CYCLES: scheduled, BY_BYTES: scheduled}
            return Step(*place, by_clock, moved, flops, kernel=True)
        # An asynchronous call does its work on another core meanwhile; it counts where it starts, as if it did not.
        work = self.reader.work(op, computation)
        # One row a cycle at most, where rows are looked up.
        floor = max(work.bytes / (chip.hbm / chip.devices), work.rows / chip.clock)
        compiler = op.cycles / chip.clock if op.cycles is not None else floor
        if work.flops:
            dense = self.shares.dense_seconds(compiler, work.flops, chip)
            seconds = dict.fromkeys(ESTIMATES, compiler) | {BY_CYCLES: dense, BY_BYTES: dense}
        else:
            slower = max(work.bytes / (self.shares.hbm * chip.hbm / chip.devices), work.rows / chip.clock)
            seconds = {"compiler": compiler, "floor": min(floor, compiler), BY_CYCLES: compiler}
            seconds[BY_BYTES] = min(slower, compiler)
        return Step(*place, seconds, work.bytes, work.flops)

    # --- the clock ---

    def _finish(self, op: Operation, computation: Computation, pending: dict, clocks: dict) -> None:
        for operand in op.operands:
            place = computation.operations[operand]
            while place.opcode.endswith("-update"):
                place = computation.operations[place.operands[0]]
            if op.opcode.endswith("-done") and place.name in pending:
                self._wait(pending.pop(place.name), clocks)

    def _wait(self, transfer: InFlight, clocks: dict[str, "_Clock"]) -> None:
        for name, clock in clocks.items():
            done = transfer.done_at[name]
            transfer.step.exposed[name] = clock.finish(done) if isinstance(done, _Chain) else clock.wait(done)


@dataclasses.dataclass
class _Chain:
    """A collective that other operations carry on in steps. seconds: of the part that is still to do."""

    links: tuple[str, ...]
    seconds: float


class _Clock:
    """now, and when each link is free again."""

    def __init__(self):
        self.now, self.free = 0.0, {}

    def copy(self) -> "_Clock":
        clock = _Clock()
        clock.become(self)
        return clock

    def become(self, other: "_Clock") -> None:
        self.now, self.free = other.now, dict(other.free)

    def send(self, transfer: Transfer | _Chain) -> float:
        """When a transfer that starts now, or as soon as its links are free, is done."""
        begin = max([self.now, *(self.free.get(link, 0.0) for link in transfer.links)])
        for link in transfer.links:
            self.free[link] = begin + transfer.seconds
        return begin + transfer.seconds

    def run(self, seconds: float, chains: list[_Chain]) -> None:
        """Computes, and brings chains on, one after the other, while their links are not taken by others."""
        end = self.now + seconds
        for chain in chains:
            begin = max([self.now, *(self.free.get(link, 0.0) for link in chain.links)])
            done = max(0.0, min(end - begin, chain.seconds))
            chain.seconds -= done
            for link in chain.links if done else ():
                self.free[link] = begin + done
        self.now = end

    def finish(self, chain: _Chain) -> float:
        """Waits for the rest of a chain."""
        return self.wait(self.send(chain)) if chain.seconds else 0.0

    def wait(self, until: float) -> float:
        waited = max(0.0, until - self.now)
        self.now += waited
        return waited

    def skip(self, seconds: float) -> None:
        self.now += seconds
        self.free = {link: time + seconds for link, time in self.free.items()}
