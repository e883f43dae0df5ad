"""Reads the schedule that the TPU compiler writes of one Pallas kernel: VLIW bundles, of which a core starts one a cycle.

The compiler writes `...-final_bundles.txt` when libtpu is started with `DUMP_FLAGS`. A kernel is one loop over its grid. What it
does under `pl.when` lies behind a forward branch. So the bundles of a step are those of the loop that no branch skips, and those
of the branches that the step takes. Stalls of memory are not in the schedule.
"""

import dataclasses
import re

DUMP_FLAGS = (
    "--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=.*final_bundles.*"
)
# Rows of bfloat16 that one vmatmul takes through a matrix unit; those with a transposed left side (lmr) take half.
ROWS, ROWS_TRANSPOSED = 16, 8
SHORT = 48  # bundles: of a branch that is none of the kernel's, unless it has products

_BUNDLE = re.compile(r"^\s*(0x[0-9a-f]+)\s+(\w\w)?\s*: ?[> ]*\{(.*)")
_BRANCH = re.compile(r"sbr\.rel (?:\(!?%\w+\) )?target = \$region(\d+)")
_START = re.compile(r"Start(?:/End empty)? region (\d+)")
_PRODUCT = re.compile(r"= vmatmul\.(lmr\.)?")


@dataclasses.dataclass(frozen=True)
class Block:
    """Bundles that run in a row, and the rows that their products take through matrix units, over all units."""

    bundles: int
    rows: int


@dataclasses.dataclass(frozen=True)
class Schedule:
    """always: of every step of the grid. branches: the innermost blocks that a step may skip, in the order of the kernel.
    cores: 1 where the second core of a chip with two has no part in it."""

    always: Block
    branches: tuple[Block, ...]
    cores: int | None = None


def read_bundles(text: str, products: tuple[bool, ...]) -> Schedule:
    """The schedule of a kernel's grid loop, from the text of its final bundles, with the kernel's own branches. products: of each
    whether it has matrix products. The others count as always: they issue and await the pipeline's transfers, before the kernel's
    body and after it.

    Raises:
      ValueError: there is no loop, other branches than expected, or a loop within a step, whose trips are unknown.
    """
    addresses, rows, branches, starts, body = [], [], [], {}, None
    for line in text.splitlines():
        found = _BUNDLE.match(line)
        if not found:
            continue
        address, label, rest = int(found[1], 16), found[2], found[3]
        if label == "LB":
            body = address if body is None else body
        for region in _START.findall(rest):
            starts[region] = address
        branches += [(address, region) for region in _BRANCH.findall(rest)]
        addresses.append(address)
        rows.append(sum(ROWS_TRANSPOSED if transposed else ROWS for transposed in _PRODUCT.findall(rest)))

    def count(begin: int, stop: int) -> Block:
        inside = [n for address, n in zip(addresses, rows) if begin <= address < stop]
        return Block(len(inside), sum(inside))

    jumps = [(address, starts[region]) for address, region in branches if region in starts]
    back = [(address, target) for address, target in jumps if target <= address]
    if body is None or not back:
        raise ValueError("the schedule has no loop over a grid")
    if len(back) > 1:
        raise ValueError(f"the schedule has {len(back)} loops where one over the grid is expected")
    end = back[0][0]
    skipped = [(address + 1, target) for address, target in jumps if body <= address < target <= end]
    skipped = [(begin, stop) for begin, stop in skipped if stop - begin > SHORT or count(begin, stop).rows]
    inner = [s for s in skipped if not any(other != s and s[0] <= other[0] and other[1] <= s[1] for other in skipped)]

    own = _own(inner, [count(*place) for place in inner], products)
    step, found = count(body, end + 1), tuple(count(*place) for place in own)
    always = Block(step.bundles - sum(b.bundles for b in found), step.rows - sum(b.rows for b in found))
    return Schedule(always, found, 1 if _first_core_alone(text) else None)


def _own(places: list[tuple[int, int]], blocks: list[Block], products: tuple[bool, ...]) -> list[tuple[int, int]]:
    """Of all branches of a step, in the order of their addresses, those of the kernel: around those with products, which are
    known; without any, the longest."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    if not any(products):
        return sorted(sorted(places, key=lambda place: place[0] - place[1])[: len(products)])
    with_products = [n for n, i in enumerate(order) if blocks[i].rows]
    first = with_products[0] - products.index(True) if with_products else 0
    chosen = order[max(first, 0) : first + len(products)]
    if first < 0 or [blocks[i].rows > 0 for i in chosen] != list(products):
        shape = "".join("x" if blocks[i].rows else "." for i in order)
        raise ValueError(
            f"a step has the branches {shape} (x: with products), not {''.join('.x'[p] for p in products)}"
        )
    return [places[i] for i in chosen]


def _first_core_alone(text: str) -> bool:
    """Whether the second core of a chip with two skips the kernel: no axis of its grid could be split."""
    core = re.search(r"%(\w+) = sld \[smem:\[#allocation0\]\] /\* core id \*/", text)
    other = core and re.search(rf"%(\w+) = scmp\.ne\.s32\.totalorder %{core[1]}, 0 ", text)
    return bool(other and re.search(rf"sbr\.rel \(%{other[1]}\)", text))
