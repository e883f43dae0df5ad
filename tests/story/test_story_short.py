"""The short form of the story: every command of it but the fine-tuning, on a few pages and four training steps."""

import json

import pytest

from benchmarks.story.__main__ import main

pytestmark = [pytest.mark.subprocess, pytest.mark.slow]  # two minutes, and 2.4 GB


def test_the_short_form_goes_from_web_pages_to_a_page_of_figures(tmp_path, capsys):
    """Claim: the commands of the story fit each other: each step's output is the next one's input."""
    assert main([f"--output={tmp_path}", "--short"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    demo = json.loads((tmp_path / "data" / "demo.json").read_text())
    assert demo["found"] == demo["planted"]
    domains = json.loads((tmp_path / "load" / "expert_load.json").read_text())["domains"]
    assert list(domains) == ["code", "prose", "arithmetic"]
    for domain in domains.values():  # every token meets four experts in each layer
        assert [sum(layer) for layer in domain["counts"]] == [4 * domain["tokens"]] * 3
    reread = json.loads((tmp_path / "reread.json").read_text())
    assert reread["equal"] == reread["prompts"]
    page = (tmp_path / "report.html").read_text()
    assert "RFT and two controls</b>: the short form has no time for it" in page and "the first 5 occurrences" in page
    assert "16, of which 4 a token; 2 shared" in page and "<h2>Expert load</h2>" in page
    capsys.readouterr()
    assert main([f"--output={tmp_path}", "--short"]) == 0
    assert "python -m" not in capsys.readouterr().out  # every step was done before
