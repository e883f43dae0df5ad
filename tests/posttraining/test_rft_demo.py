"""The demonstration of rejection sampling, with one seed: RFT gains, and neither control does.

Claim: rejection-sampling fine-tuning gains more than the same steps without new data, or without the verifier.
"""

import json
from pathlib import Path

import pytest

from benchmarks import rft_demo

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "rft.json"


def test_the_published_result():
    found = json.loads(RESULT.read_text())
    again = rft_demo.summary(found["seeds"])
    assert again["mean"] == pytest.approx(found["mean"]) and len(found["seeds"]) == 3
    assert found["gain_over_sft"] >= 15 and found["gain_over_controls"] >= 12
    assert found["mean"]["sft_on_learned"] >= 0.95


def test_parts_of_the_data_share_no_sum(tmp_path, monkeypatch):
    monkeypatch.setattr(rft_demo.Demo, "_dots", lambda demo, *arguments: None)
    rft_demo.Demo(tmp_path).write_data()
    ids = {
        name: [json.loads(row)["id"] for row in open(tmp_path / f"{name}.jsonl")] for name in ("questions", "held_out")
    }
    ids["learned"] = [json.loads(row)["id"] for row in open(tmp_path / "learned.jsonl")]
    everything = sum(ids.values(), [])
    assert len(everything) == len(set(everything)) == 520 + 3000 + 800


@pytest.mark.slow
@pytest.mark.subprocess
def test_one_seed(tmp_path):
    demo = rft_demo.Demo(tmp_path)
    demo.write_data()
    found = demo.run(2)
    assert found["sft_on_learned"] >= 0.95
    assert found["rft"] > max(found["sft"], found["sft_more"], found["unverified"]) + 0.1
    assert rft_demo.draw(rft_demo.summary({2: found}), 800).startswith(b"\x89PNG")
