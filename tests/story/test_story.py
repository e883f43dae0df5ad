"""The complete story, as `make story` runs it, and its figures against stated ranges."""

import json

import pytest

from benchmarks.story.__main__ import main

pytestmark = [pytest.mark.slow, pytest.mark.subprocess]


def test_the_story_runs_and_its_figures_are_in_range(tmp_path, capsys):
    """Claim: `make story` goes from web pages to exported weights that answer as the run does."""
    assert main([f"--output={tmp_path}"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert 7 < steps[0]["loss"] < 8.5  # a uniform guess over 2,064 ids: 7.63
    assert 2.5 < steps[-1]["loss"] < 4.3  # 3.64 in the run that the range comes from
    assert {row["stage"] for row in steps} == {"stable", "anneal1", "anneal2", "long"}
    assert steps[-1]["dropped_tokens"] == 0
    demo = json.loads((tmp_path / "data" / "demo.json").read_text())
    assert demo["found"] == demo["planted"]
    reread = json.loads((tmp_path / "reread.json").read_text())
    assert reread["equal"] == reread["prompts"] and reread["parameters"] > 1_000_000
    bars = json.loads((tmp_path / "rft" / "result.json").read_text())
    assert bars["gain_over_sft"] >= 15 and bars["gain_over_controls"] >= 12
    assert len(json.loads((tmp_path / "evaluation" / "dynamics.json").read_text())["steps"]) >= 2
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page and 'src="data:image/png' in page and "142B run" in page
    capsys.readouterr()
    assert main([f"--output={tmp_path}"]) == 0
    assert "python -m" not in capsys.readouterr().out  # every step was done before
