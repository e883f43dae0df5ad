"""`dots plan bundles`: what the Pallas kernels of the 142B run files cost on one kind of chip, by the compiler's own schedule.

Each kernel is compiled alone, in a process of its own: the flags that make the compiler write its schedule are read when libtpu
starts. Nothing runs, and no TPU is needed. The table that comes out stands in `dots_jax/hlo/kernel_tables/`.
"""

import ast
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import tempfile
from pathlib import Path

from dots_jax.config import UserError
from dots_jax.hlo.bundles import DUMP_FLAGS, Block, read_bundles
from dots_jax.parallel.topology import CHIPS
from dots_jax.planning.child_process import run_in_child
from dots_jax.planning.command import check_writable
from dots_jax.planning.pod import prepare_runtime
from dots_jax.storage import write_text

SMALLEST = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}
# Matrix units of one core, and the rows that each takes in a cycle.
UNITS = {"v5e": (4, 1), "v5p": (4, 1), "v6e": (2, 2), "tpu7x": (2, 2)}
KERNELS = "dots_jax.kernels.tpu."
# The grouped matmul itself is JAX's: the table names the version of jax, and a test compares it with the one that is pinned.
SOURCES = ("attention", "grouped_matmul", "norm_rope")
# What a step of the grid may skip, in the order of the kernel's source; x: with matrix products.
BRANCHES = {
    "attention_forward": ("first", "below x", "diagonal x", "last"),
    "attention_backward": ("first", "first_keys x", "below x", "diagonal x", "last", "last_keys"),
    "forward_norm_rope": ("all",),
    "backward_norm_rope": ("all",),  # what it does first is too short to count
    "gmm": ("all x",),
    "gmm cut": ("first", "last x", "others x"),
    "tgmm": ("first", "all x", "last"),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table. contracted, columns: of a grouped matmul with weights [contracted, columns] or, transposed, [columns,
    contracted]; tiles: as the kernel takes them, of rows first."""

    kernel: str
    tiles: tuple[int, ...]
    contracted: int = 0
    columns: int = 0
    transposed: bool = False

    @property
    def source(self) -> str:
        kind = self.kernel.partition("_")[0]
        return "attention" if kind == "attention" else "grouped_matmul" if "gmm" in kind else "norm_rope"

    @property
    def branches(self) -> tuple[str, ...]:
        return tuple(name.split()[0] for name in self._branches)

    @property
    def products(self) -> tuple[bool, ...]:
        return tuple(name.endswith(" x") for name in self._branches)

    @property
    def _branches(self) -> tuple[str, ...]:
        cut = self.kernel == "gmm" and self.tiles[1] < self.contracted
        return BRANCHES["gmm cut" if cut else self.kernel]


def cases(older: bool = True) -> list[Case]:
    """The kernels of the run files, with the tiles that they use. older: also grouped matmuls with K cut in pieces, as older
    modules have them."""
    from dots_jax.kernels.tpu.attention import KEYS, QUERIES
    from dots_jax.kernels.tpu.grouped_matmul import ROWS, outer_tiles, tiles
    from dots_jax.kernels.tpu.norm_rope import TOKENS

    attention = [Case(f"attention_{name}", (QUERIES, KEYS)) for name in ("forward", "backward")]
    norm = [Case(f"{name}_norm_rope", (TOKENS, 4096)) for name in ("forward", "backward")]
    shapes = ((4096, 2816, False), (1408, 4096, False), (2816, 4096, True), (4096, 1408, True))
    now = [Case("gmm", tiles(ROWS, K, N), K, N, t) for K, N, t in shapes]
    before = [Case("gmm", (ROWS, 1024, 1408), 4096, 2816), Case("gmm", (ROWS, 1024, 1408), 4096, 1408, True)]
    outer = [Case("tgmm", outer_tiles(ROWS, K, N), K, N) for K, N in ((4096, 2816), (1408, 4096))]
    before.append(Case("tgmm", (ROWS, 1024, 1408), 4096, 2816))
    return list(dict.fromkeys(attention + norm + now + outer + (before if older else [])))


def source_hash(source: str) -> str:
    """Of a kernel's code, without comments and docstrings: 16 hex digits."""
    tree = ast.parse(Path(importlib.util.find_spec(KERNELS + source).origin).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            first.value.value = ""
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def bundle_table(chip: str, path: str | None) -> dict:
    """Compiles all cases for a chip, prints a row for each, writes the table to `path`.

    Raises:
      UserError: there is no such chip, `path` cannot be written, libtpu is not installed, or a schedule is not of the expected
        form.
    """
    import tqdm

    if chip not in SMALLEST:
        raise UserError(f"--chip={chip}: known are {', '.join(SMALLEST)}.")
    check_writable("json", path)
    prepare_runtime()
    table = {
        "chip": chip,
        "kind": "compiled: bundles of the TPU compiler's schedule, one a cycle, without stalls of memory; nothing ran",
        "command": f"dots plan bundles --chip={chip} --json=dots_jax/hlo/kernel_tables/{chip}.json",
        **_compiler(),
        "sources": {source: source_hash(source) for source in SOURCES},
        "rows": [],
    }
    known = _known(table, path)
    for case in tqdm.tqdm(cases(), unit="kernel", file=sys.stderr):
        table["rows"].append(known.get(json.dumps(_key(case))) or _row(case, chip))
        if path:
            _write(table, path)
    return table


def _compiler() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}


def _known(table: dict, path: str | None) -> dict[str, dict]:
    """Rows of an earlier table of the same kernels and compiler, which need not be compiled again."""
    if not path or not Path(path).is_file():
        return {}
    try:
        earlier = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        earlier = None
    if not isinstance(earlier, dict) or "rows" not in earlier:
        raise UserError(f"--json={path} exists and is no table of kernels: choose another file, or delete it.")
    if any(earlier.get(name) != table[name] for name in ("chip", "jax", "libtpu")):
        return {}
    names = ("kernel", "tiles", "contracted", "columns", "transposed")
    changed = {source for source in SOURCES if earlier["sources"].get(source) != table["sources"][source]}
    kept = [row for row in earlier["rows"] if Case(row["kernel"], ()).source not in changed]
    return {json.dumps({name: row[name] for name in names if name in row}): row for row in kept}


def _write(table: dict, path: str) -> None:
    lines = ",\n".join("  " + json.dumps(row) for row in table["rows"])
    head = json.dumps(table | {"rows": []}, indent=1)
    write_text(path, head.replace('"rows": []', '"rows": [\n' + lines + "\n ]") + "\n")


def _key(case: Case) -> dict:
    shape = {"contracted": case.contracted, "columns": case.columns, "transposed": case.transposed}
    return {"kernel": case.kernel, "tiles": list(case.tiles)} | (shape if case.contracted else {})


def table_text(table: dict) -> str:
    """A line a kernel: bundles of each branch of a grid step, and in brackets the cycles that its matrix units need."""
    lines = [f"{table['chip']}, {table['kind']}"]
    for row in table["rows"]:
        shape = (
            f" {row['contracted']} -> {row['columns']}{' transposed' * row['transposed']}" if "columns" in row else ""
        )
        costs = ", ".join(
            f"{n} {b:,}" + (f" ({row['mxu'][n]:,})" if n in row["mxu"] else "") for n, b in row["bundles"].items()
        )
        lines.append(f"{row['kernel'] + shape:<34}{' x '.join(map(str, row['tiles'])):<19}{costs}")
    return "\n".join(lines)


def _row(case: Case, chip: str) -> dict:
    name = "LIBTPU_INIT_ARGS"
    with tempfile.TemporaryDirectory(prefix="dots_jax_bundles_") as folder:
        before = os.environ.get(name)
        os.environ[name] = " ".join([before or "", DUMP_FLAGS.format(folder=folder)]).strip()
        try:
            run_in_child(_compile, case, chip)
        finally:
            os.environ.pop(name)
            if before is not None:
                os.environ[name] = before
        name = re.compile(rf"\d+-\w*{case.kernel}\w*(\.\d+)?-\d+-final_bundles\.txt")
        found = [path for path in Path(folder).iterdir() if name.fullmatch(path.name)]
        if len(found) != 1:
            raise UserError(f"The TPU compiler wrote {len(found)} schedules of {case.kernel}: one is expected.")
        try:
            schedule = read_bundles(found[0].read_text(encoding="utf-8"), case.products)
        except ValueError as error:
            raise UserError(f"The schedule of {case.kernel} {case.tiles} cannot be read: {error}.") from None
    units, rate = UNITS[chip]
    blocks: dict[str, Block] = {"always": schedule.always, **dict(zip(case.branches, schedule.branches))}
    row = _key(case) | {"cores": schedule.cores or CHIPS[chip].cores}
    row["bundles"] = {name: block.bundles for name, block in blocks.items()}
    row["mxu"] = {name: round(block.rows / units / rate) for name, block in blocks.items() if block.rows}
    return row


# --- in the child process ---


def _compile(case: Case, chip: str) -> None:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from dots_jax.parallel.compiler_options import compiler_options
    from dots_jax.planning.pod import pod_devices

    mesh = Mesh(np.array(pod_devices(SMALLEST[chip])[:1]), ("one",))
    here = NamedSharding(mesh, PartitionSpec())
    array = lambda *shape, dtype=jnp.bfloat16: jax.ShapeDtypeStruct(shape, dtype, sharding=here)  # noqa: E731
    function, arguments = _call(case, array)
    jax.jit(function, compiler_options=compiler_options(mesh)).lower(*arguments).compile()


def _call(case: Case, array):
    """A function that calls the kernel once, and its arguments: a few tiles of each axis of the grid."""
    import jax
    import jax.numpy as jnp
    from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm, tgmm

    from dots_jax.kernels.tpu import attention, norm_rope

    rows, experts, heads, dtype = 16 * case.tiles[0], 4, 2, jnp.int32
    if case.source == "attention":
        T, H = 4 * case.tiles[0], 128
        forward = lambda q, k, v, s: attention._attention(q, k, v, s, s, H, 0, False)  # noqa: E731
        arguments = [*[array(2, T, heads * H)] * 3, array(2, T, dtype=dtype)]
        if case.kernel == "attention_forward":
            return forward, arguments
        return (
            lambda q, k, v, s, dy: jax.vjp(lambda q, k, v: forward(q, k, v, s), q, k, v)[1](dy),
            [*arguments, array(2, T, heads * H)],
        )
    if case.source == "norm_rope":
        tokens, width = case.tiles
        tables = [array(1, 128, dtype=jnp.float32), *[array(2, 4 * tokens, 128, dtype=jnp.float32)] * 2]
        x = array(2, 4 * tokens, width)
        forward = lambda x, *t: norm_rope._norm_rope(x, *t, 1e-5, False)  # noqa: E731
        if case.kernel == "forward_norm_rope":
            return forward, [x, *tables]
        return lambda x, dy, *t: jax.vjp(lambda x, s: forward(x, s, *t[1:]), x, t[0])[1](dy), [x, x, *tables]
    K, N, sizes = case.contracted, case.columns, array(experts, dtype=dtype)
    if case.kernel == "tgmm":
        return (
            lambda x, dy, sizes: tgmm(x.T, dy, sizes, jnp.bfloat16, case.tiles),
            [array(rows, K), array(rows, N), sizes],
        )
    w = array(experts, N, K) if case.transposed else array(experts, K, N)
    return (
        lambda x, w, sizes: gmm(x, w, sizes, jnp.bfloat16, case.tiles, transpose_rhs=case.transposed),
        [array(rows, K), w, sizes],
    )
