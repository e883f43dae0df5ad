"""What the story costs at full size: prices follow from run files and the planner's rows, and the committed ones are up to date.

Claim: every price of `docs/story_costs.md` is computed from a planned step, with the range of that plan.
"""

import importlib.util
import json

import pytest

from benchmarks.story import prices
from dots_jax.cli.gin_config import build
from dots_jax.config import TrainConfig, dots_llm1
from dots_jax.model.flops import flops_per_token


@pytest.fixture(scope="module")
def planner():
    return json.loads(prices.PLANNER.read_text())


def by_part(found: dict, model: str) -> dict[str, dict]:
    return {row["part"]: row for row in found["rows"] if row["model"] == model}


def test_the_committed_prices_are_those_of_the_planner(planner):
    found = json.loads(json.dumps(prices.prices(planner)))
    assert json.loads(prices.PRICES.read_text()) == found, "run python -m benchmarks.story.prices and docs/tables.py"


def test_a_price_is_flops_over_what_the_chips_do_at_that_mfu(planner):
    row = by_part(prices.prices(planner), "142B")["SFT, phase 1"]
    low, centre, high = prices.row_of("gin/sft_phase1.gin", planner)["calibrated"]["mfu"]
    flops = row["tokens"] * flops_per_token(dots_llm1(), 8192)
    expected = [flops / (64 * 459e12 * share / 100) / 3600 for share in (high, centre, low)]
    assert row["hours"] == pytest.approx(expected, rel=1e-3) and row["hours"] == sorted(row["hours"])
    assert row["chip_hours"] == pytest.approx([64 * hours for hours in row["hours"]], rel=1e-3)
    assert row["tokens"] == pytest.approx(
        2 * (160e6 + 3 * 40e6 + 2 * 40e6), rel=1e-3
    )  # epochs, repeats and sizes of its gin file


def test_a_row_that_is_not_planned_gives_no_hours(planner, tmp_path, monkeypatch):
    rows = [{k: v for k, v in row.items() if k != "calibrated" or "1b" not in row["file"]} for row in planner["rows"]]
    found = prices.prices(planner | {"rows": rows})
    small = by_part(found, "1B")
    assert small["pre-training"]["hours"] == [] and by_part(found, "142B")["pre-training"]["hours"]
    assert small["sampling for phase 2, a million new tokens"]["hours"]  # by arithmetic alone
    spec = importlib.util.spec_from_file_location("tables", prices.RESULTS.parents[1] / "docs" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    (tmp_path / "planner.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "story_prices.json").write_text(json.dumps(found))
    assert "| pre-training | 20B | 4 v5p | - | - |" in tables.story_prices("1B")
    assert "| `gin/dots1b.gin` | v5p:2x2x1 | not planned yet |" in tables.story_plans()


def test_fine_tuning_of_the_sibling_computes_the_step_that_is_planned():
    """The prices of its fine-tuning take the plan of its pre-training."""
    first, _, _ = build(TrainConfig, ("gin/dots1b.gin",))
    for phase in ("sft_phase1", "sft_phase2_rft"):
        run = (f"gin/{phase}.gin", "gin/story/sft_1b.gin", "gin/models/dots_1b.gin")
        config, _, _ = build(TrainConfig, run)
        assert (config.model, config.mesh, config.compute) == (first.model, first.mesh, first.compute)
        for name in ("seq_len", "batch_tokens", "microbatch_tokens"):
            assert getattr(config.stages[0], name) == getattr(first.stages[0], name), name
