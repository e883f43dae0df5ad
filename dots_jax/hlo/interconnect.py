"""Collectives of a compiled module: which devices talk, over which links, and for how long.

A group that spans an axis of the torus uses its links: one direction at a time where the axis ends, both where it closes to
a ring. A group that spans several axes uses them all. Groups across slices go through the hosts' network.
"""

import dataclasses
import functools
import itertools
import math
import re

from dots_jax.hlo.parser import Array, Computation, Operation
from dots_jax.parallel.topology import Chip

_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")


@dataclasses.dataclass(frozen=True)
class Interconnect:
    """Where the devices of a module are. axes: of the mesh, in order, with sizes. places: of each device, in the order of
    the mesh: (slice, coordinates of its chip ..., core)."""

    chip: Chip
    axes: tuple[tuple[str, int], ...]
    places: tuple[tuple[int, ...], ...]

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Of one slice, in chips."""
        return tuple(max(p[1 + i] for p in self.places) + 1 for i in range(len(self.places[0]) - 2))

    def mesh_axes(self, group: tuple[int, ...]) -> str:
        """`fsdp x expert`: the mesh axes along which the members of a group differ."""
        sizes = [size for _, size in self.axes]
        if math.prod(sizes) != len(self.places):
            return f"{len(group)} devices"
        where = [_unravel(device, sizes) for device in group]
        names = [name for i, (name, _) in enumerate(self.axes) if len({w[i] for w in where}) > 1]
        return " x ".join(names) or "none"

    @property
    def slices(self) -> int:
        return len({place[0] for place in self.places})

    def one_slice(self) -> "Interconnect":
        """The first slice alone, which is the outermost part of the first axis."""
        (name, size), *others = self.axes
        places = self.places[: len(self.places) // self.slices]
        return dataclasses.replace(self, axes=((name, size // self.slices), *others), places=places)

    def links(self, group: tuple[int, ...]) -> dict[str, float]:
        """Bandwidth in one direction that a device of this group has along each physical axis: `x`, `y`, `z`, `core`, or
        `dcn` between slices."""
        places = [self.places[device] for device in group]
        spanned = [sorted({p[i] for p in places}) for i in range(len(places[0]))]
        if math.prod(map(len, spanned)) != len(group):  # no box: one link, along the first of the longest axes
            longest = max(range(len(spanned)), key=lambda i: len(spanned[i]))
            spanned = [values if i == longest else values[:1] for i, values in enumerate(spanned)]
        link = self.chip.ici / self.chip.devices  # the devices of a chip share its links
        found = {}
        if len(spanned[0]) > 1:
            found["dcn"] = self.chip.dcn / self.chip.chips_per_host / self.chip.devices
        for i, (name, size, wraps) in enumerate(zip("xyz", self.shape, self.chip.wraps(self.shape))):
            values = spanned[1 + i]
            if len(values) == 1:
                continue
            stride = min(b - a for a, b in itertools.pairwise(values))  # what lies between uses the same links
            closes = wraps and len(values) * stride == size
            found[name] = link * (2 if closes else 1) / stride
        if len(spanned[-1]) > 1:
            # Between the two devices of one chip: six times a link (data sheet).
            found["core"] = 6 * self.chip.ici
        return found


@dataclasses.dataclass(frozen=True)
class Transfer:
    """One collective. bytes: of the complete array of one group. seconds: alone on its links. links: those that it uses."""

    kind: str
    axes: str
    group_size: int
    bytes: float
    seconds: float
    links: tuple[str, ...]


def between_slices(op: Operation, network: Interconnect) -> Transfer:
    """What one device of each slice exchanges with those of the others: a `recv` for a sum over slices, by way of the hosts."""
    volume, slices = float(op.arrays[0].bytes), network.slices
    bandwidth = network.chip.dcn / network.chip.chips_per_host / network.chip.devices
    seconds = 2 * volume * (slices - 1) / slices / bandwidth
    return Transfer("all-reduce", network.axes[0][0], slices, volume, seconds, ("dcn",))


def transfer(kind: str, op: Operation, computation: Computation, network: Interconnect, share: float = 1.0) -> Transfer:
    """What a collective costs. share: of the bytes of a ragged exchange that are expected to be real."""
    operands = [computation.operations[name] for name in op.operands if name in computation.operations]
    given = sum(o.bytes for o in operands)
    result = _result_bytes(op)
    if kind == "collective-permute":
        return _permute(op, result, network)
    group = _group(op, network)
    g = len(group)
    links = network.links(group) if g > 1 else {}
    volume = {"all-gather": result, "reduce-scatter": given, "all-reduce": given}.get(kind, given)
    seconds = 0.0
    if g > 1 and kind in ("all-to-all", "ragged-all-to-all"):
        volume *= share
        # Each link carries a quarter of a ring's traffic, a half of a line's: bandwidth counts both directions of a ring.
        counts = _counts(group, network)
        seconds = max(volume * counts[name] / (4 * bandwidth) for name, bandwidth in links.items())
    elif g > 1:
        # In levels: inside a chip, inside a slice, between slices. Each level moves what the one below leaves to a device.
        rounds, cores = (2 if kind == "all-reduce" else 1), len({network.places[d][-1] for d in group})
        slices = len({network.places[d][0] for d in group})
        chips = g // slices // cores
        if cores > 1:
            seconds += rounds * volume * (cores - 1) / cores / links["core"]
        if chips > 1:
            seconds += (
                rounds * volume / cores * (chips - 1) / chips / sum(links[name] for name in links if name in "xyz")
            )
        if slices > 1:
            seconds += rounds * volume / cores / chips * (slices - 1) / slices / links["dcn"]
    return Transfer(kind, network.mesh_axes(group), g, volume, seconds, tuple(links))


def _result_bytes(op: Operation) -> float:
    if not op.opcode.endswith("-start"):
        return op.bytes
    # (operands, results, ...): the second half of the arrays, without the scalars of the context.
    arrays = [a for a in op.arrays if a.dims or len(op.arrays) <= 2]
    return _second_half(arrays)


def _second_half(arrays: list[Array]) -> float:
    return sum(a.bytes for a in arrays[len(arrays) // 2 :])


def _counts(group: tuple[int, ...], network: Interconnect) -> dict[str, int]:
    names = ["dcn", *"xyz"[: len(network.shape)], "core"]
    places = [network.places[device] for device in group]
    return {name: len({p[i] for p in places}) for i, name in enumerate(names)}


def _permute(op: Operation, volume: float, network: Interconnect) -> Transfer:
    """Every device sends its array to one other; links between are shared by all that pass."""
    pairs = [tuple(map(int, p)) for p in re.findall(r"\{(\d+),(\d+)\}", _braces(op.attributes, "source_target_pairs"))]
    pairs = [(a, b) for a, b in pairs if a != b]
    seconds, used = 0.0, set()
    link = network.chip.ici / network.chip.devices
    wraps = network.chip.wraps(network.shape)
    for a, b in pairs:
        here, there = network.places[a], network.places[b]
        if here[0] != there[0]:
            used.add("dcn")
            seconds = max(seconds, volume * network.chip.chips_per_host * network.chip.devices / network.chip.dcn)
            continue
        hops = 0
        for i, (size, closed) in enumerate(zip(network.shape, wraps)):
            distance = abs(here[1 + i] - there[1 + i])
            distance = min(distance, size - distance) if closed else distance
            hops += distance
            if distance:
                used.add("xyz"[i])
        seconds = max(seconds, volume * hops / link if hops else volume / (6 * network.chip.ici))
    axes = network.mesh_axes(tuple(sorted(set(itertools.chain(*pairs[:1]))))) if pairs else "none"
    return Transfer("collective-permute", axes, 2, volume, seconds, tuple(sorted(used)))


def _braces(text: str, key: str) -> str:
    start = text.find(key + "={")
    if start < 0:
        return ""
    start += len(key) + 1
    depth = 0
    for i in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start + 1 : i]
    return text[start:]


def _group(op: Operation, network: Interconnect) -> tuple[int, ...]:
    return max(replica_groups(op.attributes, len(network.places)), key=len)


@functools.cache
def _all(devices: int) -> tuple[tuple[int, ...], ...]:
    return (tuple(range(devices)),)


def replica_groups(attributes: str, devices: int) -> tuple[tuple[int, ...], ...]:
    """The groups of a collective, in any of XLA's three ways to write them; without any, all devices are one group.

    Raises:
      ValueError: a way that this reader does not know.
    """
    start = attributes.find("replica_groups=")
    if start < 0:
        return _all(devices)
    text = attributes[start + len("replica_groups=") :]
    if text.startswith("{}"):
        return _all(devices)
    if text.startswith("{"):
        inner = _braces(attributes, "replica_groups")
        return tuple(tuple(map(int, g.split(","))) for g in re.findall(r"\{([\d,]+)\}", inner))
    iota = re.match(_IOTA, text)
    if iota:
        flat = _iota(*iota.groups()[1:])
        size = len(flat) // int(iota[1].split(",")[0])
        return tuple(tuple(flat[i : i + size]) for i in range(0, len(flat), size))
    mesh = re.match(r"@?\w*\[([^\]]*)\](?:, device_ids=\((\[.*?)\))? ?\{([^}]*)\}", text)
    if mesh:
        sizes = {name: int(size) for name, size in re.findall(r"'?([\w.]+)'?=(\d+)", mesh[1])}
        groups = _mesh_groups(sizes, re.findall(r"'?([A-Za-z_][\w.]*)'?(?::\((\d+)\)(\d+))?", mesh[3]))
        # The mesh may number its devices in another order: written as a reshape and a transposition of 0, 1, 2, ...
        order = re.match(r"\[([\d,]+)\](?:T\(([\d,]+))?", mesh[2]) if mesh[2] else None
        ids = _iota(*order.groups()) if order else range(math.prod(sizes.values()))
        return tuple(tuple(ids[i] for i in group) for group in groups)
    raise ValueError(f"replica groups of an unknown kind: {text[:80]}")


def _mesh_groups(sizes: dict[str, int], used: list[tuple[str, str, str]]) -> tuple[tuple[int, ...], ...]:
    """Groups along named axes, or along a part of one: ('axis', elements before the part, size of the part)."""
    shape, talk = [], []
    for name, size in sizes.items():
        parts = sorted((int(before), int(part)) for axis, before, part in used if axis == name and part)
        if not parts:
            shape.append(size)
            talk.append(any(axis == name for axis, *_ in used))
            continue
        done = 1
        for before, part in parts:
            if before > done:
                shape.append(before // done)
                talk.append(False)
            shape.append(part)
            talk.append(True)
            done = before * part
        shape.append(size // done)
        talk.append(False)
    order = [i for i, t in enumerate(talk) if not t] + [i for i, t in enumerate(talk) if t]
    flat = _transposed(list(range(math.prod(shape))), shape, order)
    size = math.prod(s for s, t in zip(shape, talk) if t)
    return tuple(tuple(flat[i : i + size]) for i in range(0, len(flat), size))


def _iota(source: str, order: str | None) -> list[int]:
    """0, 1, 2, ... in the shape `source`, transposed."""
    shape = [int(n) for n in source.split(",")]
    axes = [int(n) for n in order.split(",")] if order else range(len(shape))
    return _transposed(list(range(math.prod(shape))), shape, axes)


def _transposed(flat: list[int], shape: list[int], order) -> list[int]:
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    ranges = [[i * strides[axis] for i in range(shape[axis])] for axis in order]
    return [flat[sum(parts)] for parts in itertools.product(*ranges)]


def _unravel(index: int, shape: list[int]) -> tuple[int, ...]:
    place = []
    for size in reversed(shape):
        place.append(index % size)
        index //= size
    return tuple(reversed(place))
