"""Figures that stand in several files are those of benchmarks/results/; drawings and the page of claims are up to date.

Claim: every copy of a published figure equals the one in `benchmarks/results/`.
"""

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import pytest
from shell_blocks import ROOT


def script(name: str):
    """A script of docs/, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables, diagrams, claims = script("tables"), script("diagrams"), script("tested_claims")
MESHES = sorted((ROOT / "gin" / "meshes").glob("*.gin"))


def test_every_copy_is_that_of_the_results():
    assert not tables.stale(), "run `python docs/tables.py`"


def test_a_changed_result_changes_its_copies(tmp_path, monkeypatch):
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    planner = json.loads((tmp_path / "planner.json").read_text())
    planner["rows"][0] |= {
        "calibrated": {"step_seconds": [1.0, 2.0, 3.0], "mfu": [12.3, 34.5, 45.6], "hfu": 50.0},
        "planned": {"date": "2026-12-01", "commit": "abcdef", "kernels": "x"},
    }
    (tmp_path / "planner.json").write_text(json.dumps(planner))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    stale = {str(path.relative_to(ROOT)) for path in tables.stale()}
    assert stale == {
        "README.md", "docs/pods.md", "docs/planner.md", "benchmarks/pod_notes.md", "gin/dots142b.gin", "gin/meshes/v5p_8x8x8.gin"
    }  # fmt: skip


@pytest.mark.parametrize("path", MESHES, ids=lambda path: path.stem)
def test_each_mesh_has_figures_from_the_results(path: Path):
    assert path in tables.gin_files()
    outside = tables.GIN_BLOCK.sub("", path.read_text())
    assert not re.search(r"MFU|chip-hours", outside), "figures outside the generated lines"


def test_prose_repeats_no_figure_of_today():
    """A figure of planner.json, as two MFUs in a sentence, would be a copy that nothing compares."""
    today = ["{:.1f} / {:.1f} %".format(*row["mfu"]) for row in tables.planner_rows()]
    pages = [*tables.markdown_files()]
    for page in pages:
        prose = tables.BLOCK.sub("", page.read_text())
        assert not [figure for figure in today if figure in prose], page


def test_estimates_are_called_estimates():
    planner = tables.results("planner")
    assert planner["kind"] == "compiler estimate" and "never run on a TPU" in planner["statement"]
    for path in tables.gin_files():
        assert planner["statement"] in path.read_text()


def test_the_demo_of_the_run_files():
    expected = tables.results("demo")["python"]["3.11"]["nats_per_byte"]
    for name in ("tiny", "eval_tiny"):
        header = (ROOT / "gin" / f"{name}.gin").read_text().split("\n\n")[0]
        assert f"{expected:.2f} nats per byte" in header, name


def test_every_room_has_a_caption():
    rooms = {path.parent.name for path in (ROOT / "dots_jax").glob("*/__init__.py")}
    assert rooms - {"config"} <= tables.ROOMS.keys()


@pytest.mark.parametrize("name", diagrams.PICTURES)
def test_drawings(name):
    assert (ROOT / "docs" / "assets" / name).read_text() == diagrams.PICTURES[name](), "run `python docs/diagrams.py`"
    files = re.findall(r">([\w/]+\.py)<", diagrams.PICTURES[name]())
    assert files and all((ROOT / "dots_jax" / file).exists() for file in files), files


def test_the_page_of_claims():
    page = claims.page()
    table = page.split("## Every test")[0]
    assert table.count("\n|") >= 25 and "tests/model/test_parity.py" in table
    for path in re.findall(r"`(tests/[\w/]+\.py)`", table):
        assert (ROOT / path).exists()
    for path in (ROOT / "tests").rglob("test_*.py"):
        assert path.name in page


def test_a_claim_is_read_over_several_lines():
    text = "Summary.\n\nClaim: one\n  two.\nClaim: three.\n\nMore."
    assert claims.claims_of(text) == ["one two.", "three."]


def test_the_page_of_settings():
    """Every field of every class that a run file can set, with its comment."""
    from dots_jax import config

    page = script("settings").settings()
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            assert f"## {name}\n" in page
            for field in dataclasses.fields(value):
                assert f"| `{field.name}` |" in page
    assert "steps between checkpoints" in page
