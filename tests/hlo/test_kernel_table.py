"""Kernels by their grid and the compiler's schedule: the reader of bundles, the committed tables, and the sum over a grid.

Claim: the planner charges Pallas kernels by the schedule that the TPU compiler writes for them; a changed kernel makes its table
  stale, and this test fails.
"""

import importlib.metadata
import importlib.util
import json

import pytest

from dots_jax.cli import plan_bundles
from dots_jax.config import UserError
from dots_jax.hlo.bundles import Block, read_bundles
from dots_jax.hlo.calibration import SHARES
from dots_jax.hlo.kernel_cost import Expectation
from dots_jax.hlo.kernel_table import (
    FOLDER,
    KernelTable,
    Row,
    attention_seconds,
    grouped_seconds,
    kernel_table,
    outer_seconds,
)  # fmt: skip
from dots_jax.hlo.parser import parse
from dots_jax.parallel.topology import CHIPS
from dots_jax.planning import bundles
from dots_jax.planning.bundles import SOURCES, bundle_table, cases, source_hash

V5P, V6E = CHIPS["v5p"], CHIPS["v6e"]
CHIPS_WITH_TABLES = sorted(path.stem for path in FOLDER.glob("*.json"))


# --- the schedule -----------------------------------------------------------------------------------------------------

WORK = 70  # bundles of a branch: more than those that only move data


def schedule(*blocks: str) -> str:
    """A grid loop in the compiler's notation, whose steps may skip each of these blocks; `x`: a bundle with a product."""
    lines, address, region = ["     0   :  { %s1 = smov 0 }"], 1, 10
    start = address
    lines.append(f"  {address:#x} LB: > {{ %s2 = sadd.s32 1, %s1 }} /* Start region 9 */")
    for block in blocks:
        lines.append(f"  {address + 1:#x}   : > {{ %3 = sbr.rel (%p4) target = $region{region} }}")
        for i, product in enumerate(block):
            text = "%5 = vmatmul.bf16.gmra.mxu0 %v1" if product == "x" else "%v6 = vadd %v1"
            lines.append(f"  {address + 2 + i:#x}   : > {{ {text} }}")
        address += 2 + len(block)
        lines.append(f"  {address:#x} PF: > {{ %s7 = smov 1 }} /* Start/End empty region {region} */")
        region += 1
    lines.append(f"  {address + 1:#x}   : > {{ %8 = sbr.rel (!%p9) target = $region9 }}")
    assert start == 1
    return "\n".join(lines)


def test_bundles_of_a_step_and_of_its_branches():
    found = read_bundles(schedule("." * 90, "." * WORK, "x" * WORK + "..", "...", "." * 80), (False, True))
    assert found.branches == (Block(WORK, 0), Block(WORK + 2, 16 * WORK))
    # The loop's first bundle and its jump back, a jump before each block and a bundle after it, and blocks of the pipeline.
    assert found.always == Block(2 + 2 * 5 + 90 + 3 + 80, 0)


def test_schedules_that_cannot_be_read():
    with pytest.raises(ValueError, match="no loop over a grid"):
        read_bundles("  0x1   :  { %s1 = smov 0 }", (True,))
    with pytest.raises(ValueError, match="branches .x .x: with products., not xx"):
        read_bundles(schedule("." * WORK, "x" * WORK), (True, True))
    inner = schedule("." * WORK).replace("}", "}", 1) + "\n 0xff   : > { %8 = sbr.rel (!%p9) target = $region9 }"
    with pytest.raises(ValueError, match="2 loops"):
        read_bundles(inner, (False,))


# --- the committed tables ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", CHIPS_WITH_TABLES)
def test_the_tables_are_of_these_kernels(chip):
    """A kernel's code is in the table as a hash. Where they differ: dots plan bundles --chip=CHIP --json=the table."""
    table = json.loads((FOLDER / f"{chip}.json").read_text())
    stale = [name for name in SOURCES if table["sources"].get(name) != source_hash(name)]
    assert not stale, f"{', '.join(stale)} changed: run {table['command']}"
    # On the Python for which it is pinned: the other has a jax of its own, whose kernels are taken to cost the same.
    pinned = (FOLDER.parents[2] / "pyproject.toml").read_text()
    assert f'"jax=={table["jax"]} ;' in pinned, f"another jax: run {table['command']}"
    there = {
        (r["kernel"], tuple(r["tiles"]), r.get("contracted", 0), r.get("transposed", False)) for r in table["rows"]
    }
    assert {(c.kernel, c.tiles, c.contracted, c.transposed) for c in cases(older=False)} <= there
    for row in table["rows"]:
        assert max(row["bundles"].values()) > 1000 and row["cores"] in (1, CHIPS[chip].cores)


def test_an_unknown_chip(monkeypatch):
    with pytest.raises(UserError, match="--chip=v9: known are v5e, v5p, v6e, tpu7x"):
        bundle_table("v9", None)
    with pytest.raises(UserError, match="Missing --chip"):
        plan_bundles.main(plan_bundles.OPTIONS())


def test_a_file_that_is_no_table_is_kept(tmp_path, monkeypatch):
    compiler_of_name(monkeypatch)
    path = tmp_path / "notes.json"
    for text in ("[1, 2]", "not JSON", "{}"):
        path.write_text(text)
        with pytest.raises(UserError, match="exists and is no table of kernels"):
            bundle_table("v5p", str(path))
        assert path.read_text() == text
    with pytest.raises(UserError, match="cannot be written: there is no folder"):
        bundle_table("v5p", str(tmp_path / "no" / "v5p.json"))


@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.tpu
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install -r requirements-dev.txt"
)
def test_the_compiler_gives_the_rows_of_the_table():
    table = json.loads((FOLDER / "v6e.json").read_text())
    (case,) = [case for case in cases() if case.kernel == "forward_norm_rope"]
    (expected,) = [row for row in table["rows"] if row["kernel"] == case.kernel]
    found = bundles._row(case, "v6e")
    if importlib.metadata.version("libtpu") == table["libtpu"]:
        assert found == expected
    else:  # another compiler: of the same kind, within a quarter
        assert found["bundles"]["all"] == pytest.approx(expected["bundles"]["all"], rel=0.25)


def compiler_of_name(monkeypatch):
    """Where libtpu is not installed; nothing compiles."""
    monkeypatch.setattr(bundles, "prepare_runtime", lambda: None)
    monkeypatch.setattr(bundles, "_compiler", lambda: {"jax": "1", "libtpu": "2"})


def test_rows_of_the_same_kernels_are_not_compiled_again(tmp_path, monkeypatch):
    """A table that was interrupted, or of which one kernel changed, compiles only what is missing."""
    compiler_of_name(monkeypatch)
    asked = []
    monkeypatch.setattr(
        bundles, "_row", lambda case, chip: asked.append(case) or bundles._key(case) | {"bundles": {}, "mxu": {}}
    )
    path = str(tmp_path / "v5p.json")
    bundle_table("v5p", path)
    assert len(asked) == len(cases())
    bundle_table("v5p", path)
    assert len(asked) == len(cases())
    real = bundles.source_hash
    monkeypatch.setattr(bundles, "source_hash", lambda name: "changed" if name == "norm_rope" else real(name))
    bundle_table("v5p", path)
    assert [case.source for case in asked[len(cases()) :]] == ["norm_rope", "norm_rope"]


def test_chips_with_tables():
    assert {"v5p", "v6e", "tpu7x"} <= set(CHIPS_WITH_TABLES)


def test_no_kernel_is_faster_than_the_chip():
    for name in CHIPS_WITH_TABLES:
        chip = CHIPS[name]
        table = kernel_table(chip, SHARES[name].hbm)
        peak = chip.flops / chip.devices
        for row in table.rows:
            if row.kernel in ("gmm", "tgmm"):
                call = outer_seconds if row.kernel == "tgmm" else grouped_seconds
                share = 2.0 * 196_608 * row.contracted * row.columns / peak / call(row, table, 196_608, 128)
            elif row.kernel.startswith("attention"):
                products = 5 if row.kernel.endswith("backward") else 2
                share = (
                    products
                    * 2.0
                    * 8192
                    * 4096
                    * 4096
                    / peak
                    / attention_seconds(row, table, (1, 8192, 4096), 8192, 32)
                )
            else:
                continue
            assert 0.1 < share < 0.95, (name, row.kernel, row.tiles, share)


# --- grids ------------------------------------------------------------------------------------------------------------

FAST = KernelTable(V6E, 1e18, ())


def test_attention_counts_blocks_on_the_diagonal_in_full():
    row = Row("attention_forward", (1024, 1024), {"always": 0, "below": 100, "diagonal": 100}, {})
    blocks = lambda T, S: attention_seconds(row, FAST, (1, T, 128), S, 1) * V6E.clock / 100  # noqa: E731
    assert blocks(1024, 1024) == pytest.approx(1)  # half of it is masked
    assert blocks(8192, 8192) == pytest.approx(36)
    assert blocks(4096, 8192) == pytest.approx(26)  # the later half of the queries
    ends = Row("attention_forward", (1024, 1024), {"first": 10, "last": 1}, {})
    assert attention_seconds(ends, FAST, (2, 2048, 256), 2048, 2) * V6E.clock == pytest.approx(2 * 2 * 2 * 11)
    two_cores = Row("attention_forward", (1024, 1024), {"below": 100, "diagonal": 100}, {}, cores=2)
    assert attention_seconds(two_cores, FAST, (1, 1024, 128), 1024, 1) * V6E.clock == pytest.approx(50)


def test_weights_are_fetched_again_for_every_tile_of_rows_where_k_is_cut():
    """HBM alone: 895 tiles of 23 MB, or each of 128 experts once; and rows in and out."""
    table, bundles = KernelTable(V6E, 1e12, ()), {"always": 0, "all": 1, "first": 0, "last": 1, "others": 1}
    cut = Row("gmm", (256, 1024, 1408), bundles, {}, contracted=4096, columns=2816)
    complete = Row("gmm", (256, 4096, 1408), bundles, {}, contracted=4096, columns=2816)
    one, rows = 4096 * 2816 * 2 / 1e12, 196_608
    in_and_out = rows * 2 * (2 * 4096 + 2816) / 1e12
    assert grouped_seconds(complete, table, rows, 128) == pytest.approx(128 * one + in_and_out, rel=1e-3)
    again = 895 * (one + 256 * 4096 * 2 * 2 / 1e12) + rows * 2816 * 2 / 1e12
    assert grouped_seconds(cut, table, rows, 128) == pytest.approx(again, rel=1e-3)


def test_tiles_at_the_border_of_two_experts_run_twice():
    row = Row("gmm", (256, 4096, 1408), {"all": 100}, {"all": 120}, contracted=4096, columns=2816)
    tiles = grouped_seconds(row, FAST, 1024, 4) * V6E.clock / 120 / 2
    assert tiles == pytest.approx(1024 / 256 + 4 - 1)
    assert Row("gmm", (1,), {"always": 3, "all": 100}, {"all": 120}).cycles("all") == 120


def test_the_tiles_come_from_the_name_of_the_operation():
    call = (
        'ROOT %gmm.1 = bf16[512,2816]{1,0} custom-call(%x, %w), custom_call_target="tpu_custom_call", '
        'metadata={op_name="jit(f)/experts/NAME/jit(gmm)/pallas_call"}'
    )
    rows = (
        Row("gmm", (256, 4096, 1408), {"all": 1000}, {}, contracted=4096, columns=2816),
        Row("gmm", (256, 1024, 1408), {"first": 0, "last": 900, "others": 900}, {}, contracted=4096, columns=2816),
    )
    found = []
    for name in ("tiles_256x4096x1408", "experts"):
        text = f"""HloModule m

ENTRY %main (p: f32[]) -> f32[] {{
  %x = bf16[512,4096]{{1,0}} parameter(0)
  %w = bf16[4,4096,2816]{{2,1,0}} parameter(1)
  {call.replace("NAME", name)}
}}
"""
        main = parse(text).computations["main"]
        table = KernelTable(V6E, 1e18, rows)
        found.append(table.seconds(main.operations["gmm.1"], main, Expectation(), 0.0) * V6E.clock)
    assert found == [pytest.approx(2 * 5 * 1000), pytest.approx(2 * 5 * 4 * 900)]
    empty = KernelTable(V6E, 1e18, ())
    assert empty.seconds(main.operations["gmm.1"], main, Expectation(), 0.0) is None
