"""What a Pallas kernel takes on a chip: its grid, step by step, at the bundles of the compiler's schedule.

The tables in `kernel_tables/` are made by `dots plan bundles`. A step of a grid takes the longest of its bundles, of what its
matrix products need of the matrix units, and of its transfers at the measured bandwidth. Grids count as they are: blocks
of attention on the diagonal in full, tiles of a grouped matmul that two experts share twice, weights as often as they are fetched.
"""

import dataclasses
import functools
import json
import re
from pathlib import Path

from dots_jax.hlo.kernel_cost import Expectation, grouped_rows
from dots_jax.hlo.parser import Array, Computation, Operation
from dots_jax.parallel.topology import Chip

FOLDER = Path(__file__).parent / "kernel_tables"
_TILES = re.compile(r"tiles_(\d+)x(\d+)x(\d+)")
_NAMES = ("attention_forward", "attention_backward", "forward_norm_rope", "backward_norm_rope", "tgmm", "gmm")


@dataclasses.dataclass(frozen=True)
class Row:
    """A kernel at one tiling. bundles, mxu: cycles by branch. seconds, flops: of a measured call, which `cycles` then follow.
    cores: those that work. kind: compiled or measured."""

    kernel: str
    tiles: tuple[int, ...]
    bundles: dict[str, int]
    mxu: dict[str, int]
    cores: int = 1
    contracted: int = 0
    columns: int = 0
    transposed: bool = False
    scale: float = 1.0
    kind: str = "compiled"

    def cycles(self, *branches: str) -> float:
        """Of a step that takes these branches."""
        names = ("always", *branches)
        return self.scale * max(sum(table.get(name, 0) for name in names) for table in (self.bundles, self.mxu))


@dataclasses.dataclass(frozen=True)
class KernelTable:
    """The rows of one chip. bandwidth: bytes/s of a device's HBM that kernels reach."""

    chip: Chip
    bandwidth: float
    rows: tuple[Row, ...]
    made_with: str = ""

    def seconds(self, op: Operation, computation: Computation, expected: Expectation, moved: float) -> float | None:
        """Of one call; None where no row is near. moved: bytes that the call declares."""
        name = next((n for n in _NAMES if n in op.name or n in op.op_name.split("/")[-2:]), "")
        operands = [a for n in op.operands if n in computation.operations for a in computation.operations[n].arrays]
        return self._grid(name, op, operands, expected, moved) if name else None

    def _grid(
        self, name: str, op: Operation, operands: list[Array], expected: Expectation, moved: float
    ) -> float | None:
        if name.startswith("attention"):
            row = self._nearest(name)
            return row and attention_seconds(
                row, self, operands[0].dims, operands[1].dims[1], heads(name, op, operands)
            )
        if name.endswith("norm_rope"):
            row = self._nearest(name)
            return row and norm_seconds(row, self, operands[0].dims, moved)
        matrices = [a for a in operands if a.dtype in ("bf16", "f32")]
        rows, experts = (
            grouped_rows(matrices),
            next((a.dims[0] for a in (*matrices, *op.arrays) if len(a.dims) == 3), 0),
        )
        used = rows * expected.share(rows)
        if name == "tgmm":
            contracted, columns, transposed = *op.arrays[0].dims[1:], False
        else:
            weights = next(a for a in matrices if len(a.dims) == 3).dims[1:]
            contracted, columns = matrices[0].dims[1], op.arrays[0].dims[1]
            transposed = weights != (contracted, columns)
        tiling = _TILES.search(op.op_name)
        tiles = tuple(map(int, tiling.groups())) if tiling else older_tiles(contracted, columns)
        row = self._nearest(name, tiles, contracted, columns, transposed)
        if row is None:
            return None
        return (outer_seconds if name == "tgmm" else grouped_seconds)(row, self, used, experts)

    def _nearest(
        self, kernel: str, tiles: tuple[int, ...] = (), contracted: int = 0, columns: int = 0, transposed: bool = False
    ) -> Row | None:
        """The row of this shape; else one of the kernel whose K is cut or complete as well, its cycles by the size of a tile."""
        rows = [row for row in self.rows if row.kernel == kernel]
        if not tiles or not rows:
            return rows[0] if rows else None
        wanted = (tiles, contracted, columns, transposed)
        exact = [r for r in rows if (r.tiles, r.contracted, r.columns, r.transposed) == wanted]
        if exact:
            return exact[0]
        cut = tiles[1] < contracted
        alike = [r for r in rows if (r.tiles[1] < r.contracted) == cut and r.transposed == transposed] or [
            r for r in rows if (r.tiles[1] < r.contracted) == cut
        ]
        if not alike:
            return None
        near = alike[0]
        scale = near.scale * (tiles[0] * tiles[1] * tiles[2]) / (near.tiles[0] * near.tiles[1] * near.tiles[2])
        cores = (
            self.chip.cores if -(-columns // tiles[2]) % self.chip.cores == 0 else 1
        )  # tiles of columns are shared out
        return dataclasses.replace(
            near, tiles=tiles, contracted=contracted, columns=columns, transposed=transposed, scale=scale, cores=cores
        )


@functools.cache
def kernel_table(chip: Chip, hbm_share: float) -> KernelTable:
    """The committed table of a chip; without rows where there is none."""
    path, bandwidth = FOLDER / f"{chip.name}.json", hbm_share * chip.hbm / chip.devices
    if not path.is_file():
        return KernelTable(chip, bandwidth, ())
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = tuple(Row(**row | {"tiles": tuple(row["tiles"])}) for row in found["rows"])
    return KernelTable(chip, bandwidth, rows, f"libtpu {found['libtpu']}")


def older_tiles(contracted: int, columns: int) -> tuple[int, int, int]:
    """Of modules that do not name them: compiled before the tiles held all of K."""
    wide = lambda n: next((t for t in (1408, 1024, 512, 256, 128) if n % t == 0), n)  # noqa: E731
    return 256, wide(contracted), wide(columns)


def heads(name: str, op: Operation, operands: list[Array]) -> int:
    """N, of the log-sum-exp [B, N, 1, T] that the kernel writes or reads."""
    arrays = op.arrays if name == "attention_forward" else operands
    return next(a.dims[1] for a in arrays if len(a.dims) == 4)


# --- grids ------------------------------------------------------------------------------------------------------------


def attention_seconds(row: Row, table: KernelTable, q_dims: tuple[int, ...], S: int, N: int) -> float:
    """q [B, T, M] at the end of S keys, N heads. Forward takes a block of queries through all keys; backward a block of keys
    through all queries."""
    B, T, M = q_dims
    Q, K = (min(tile, size) for tile, size in zip(row.tiles, (T, S)))
    scale = Q * K * (M // N) / (row.tiles[0] * row.tiles[1] * 128)
    row = dataclasses.replace(row, scale=row.scale * scale)
    last_i, last_j, cycles = T // Q - 1, S // K - 1, 0.0
    backward, fetched = row.kernel.endswith("backward"), 4 * 2 * max(Q, K) * (M // N)
    for i in range(last_i + 1):
        for j in range(last_j + 1):
            begin = S - T + i * Q
            branches = ["below"] if j * K + K - 1 <= begin else ["diagonal"] if j * K < begin + Q else []
            transfer = fetched / table.bandwidth * table.chip.clock * row.cores if branches else 0
            if backward:
                branches += ["first"] * (i == 0) + ["first_keys"] * (j == 0) + ["last"] * (i == last_i)
                branches += ["last_keys"] * (j == last_j)
            else:
                branches += ["first"] * (j == 0) + ["last"] * (j == last_j)
            cycles += max(row.cycles(*branches), transfer)
    return B * N * cycles / row.cores / table.chip.clock


def norm_seconds(row: Row, table: KernelTable, x_dims: tuple[int, ...], moved: float) -> float:
    """x [B, T, M], some tokens of all heads at a time."""
    B, T, M = x_dims
    steps = B * max(1, T // row.tiles[0])
    cycles = row.cycles("all") * M / row.tiles[1] * min(1.0, T / row.tiles[0])
    return steps * max(cycles / row.cores / table.chip.clock, moved / steps / table.bandwidth)


def grouped_seconds(row: Row, table: KernelTable, rows: float, experts: int) -> float:
    """x[R, K] @ w[E, K, N] with `rows` of the R in use, as many for each expert: a tile of rows that two experts share runs twice,
    and x is not fetched again for it. Weights are fetched once for each expert and tile of columns; with K in pieces for every
    tile of rows."""
    R, K, N = row.tiles
    pieces, of_columns = -(-row.contracted // K), -(-row.columns // N)
    tiles, fetched = rows / R + experts - 1, rows / R
    clock, bandwidth = table.chip.clock, table.bandwidth / row.cores
    x, w, y = 2.0 * R * K, 2.0 * K * N, 2.0 * R * N
    share = fetched / tiles  # of the tiles, those that fetch new rows and write them out
    if pieces == 1:
        each, cycles = share * (x + y) / bandwidth, row.cycles("all") / clock
        seconds = experts * max(cycles, each + w / bandwidth) + (tiles - experts) * max(cycles, each)
    else:
        steps = [row.cycles("first", "others"), row.cycles("last"), *[row.cycles("others")] * (pieces - 2)]
        seconds = tiles * sum(max(cycles / clock, (x + w + share * y / pieces) / bandwidth) for cycles in steps)
    return of_columns * seconds / row.cores


def outer_seconds(row: Row, table: KernelTable, rows: float, experts: int) -> float:
    """dw[E, K, N] = x[R, K].T @ dy[R, N]: each tile of dw goes through the rows of its expert, and is written once."""
    R, K, N = row.tiles
    of_result = -(-row.contracted // K) * -(-row.columns // N)
    tiles, clock, bandwidth = rows / R + experts - 1, table.chip.clock, table.bandwidth / row.cores
    each = rows / R / tiles * 2.0 * R * (K + N) / bandwidth
    written = 2.0 * K * N / bandwidth
    plain = (tiles - experts) * max(row.cycles("all") / clock, each)
    ends = experts * max(row.cycles("all", "first", "last") / clock, each + written)
    return of_result * (plain + ends) / row.cores
