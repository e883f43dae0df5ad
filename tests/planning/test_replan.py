"""Planning all topologies again: which rows are old, what a forecast fills in, what a second start does.

Claim: every published figure of the planner says when, at which commit and for which kernels it was planned; old rows say that
  they are old.
"""

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest
from test_plan_pod import RECORDED, compiled, job

from benchmarks import replan
from dots_jax.config import UserError
from dots_jax.planning.command import _earlier
from dots_jax.planning.compile import StateBytes
from dots_jax.planning.forecast import Forecast

FOUND = Forecast(compiled(job(), 80, RECORDED)).as_json() | {"commit": "abc"}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """planner.json with three rows, one of which does not fit."""
    row = {"topology": "v5p:4x4x8", "num_chips": 128, "seq_len": 8192, "mfu": [60.0, 70.0]}
    rows = [row | {"file": f"gin/meshes/{name}.gin"} for name in ("one", "two")]
    path = tmp_path / "planner.json"
    path.write_text(
        json.dumps({"kind": "estimate", "rows": [*rows, row | {"file": "gin/x.gin", "refused": "it does"}]})
    )
    monkeypatch.setattr(replan, "RESULTS", path)
    return path


def run(monkeypatch, *flags: str) -> int:
    monkeypatch.setattr("sys.argv", ["replan", *flags])
    return replan.main()


def test_a_stopped_replan_goes_on_with_the_next_row(results, monkeypatch, capsys):
    planned = []

    def plan(row, work):
        if len(planned) == 1:
            raise SystemExit("stopped")
        planned.append(replan.name_of(row))
        return FOUND

    monkeypatch.setattr(replan, "plan", plan)
    with pytest.raises(SystemExit):
        run(monkeypatch)
    first, second, refused = json.loads(results.read_text())["rows"]
    assert not replan.is_old(first) and replan.is_old(second) and "calibrated" not in refused
    assert first["calibrated"]["mfu"] == sorted(first["calibrated"]["mfu"])
    assert first["planned"].keys() == {"date", "commit", "kernels"}
    monkeypatch.setattr(replan, "plan", lambda row, work: planned.append(replan.name_of(row)) or FOUND)
    assert run(monkeypatch) == 0 and planned == ["one", "two"]
    assert run(monkeypatch, "--list") == 0 and "old" not in capsys.readouterr().out.splitlines()[-1]


def test_changed_kernels_make_every_row_old(results, monkeypatch):
    monkeypatch.setattr(replan, "plan", lambda row, work: FOUND)
    run(monkeypatch, "--only=two")
    row = json.loads(results.read_text())["rows"][1]
    assert not replan.is_old(row)
    monkeypatch.setattr(replan, "source_hash", lambda source: "0" * 16)
    assert replan.is_old(row)


def test_a_module_that_is_read_again_keeps_its_commit(tmp_path, monkeypatch):
    commits, read = iter(["first", "second"]), []

    class Done:
        returncode, stdout = 0, b""

    def dots_plan(command, **_):
        read.append(any(flag.startswith("--read=") for flag in command))
        for flag in command:
            name, _, value = flag.partition("=")
            if name in ("--json", "--hlo"):
                Path(value).write_text(json.dumps(FOUND))
        return Done

    monkeypatch.setattr(replan, "commit", lambda: next(commits))
    monkeypatch.setattr(replan.subprocess, "run", dots_plan)
    row = {"file": "gin/meshes/one.gin", "topology": "v5p:4x4x8"}
    assert [replan.plan(row, tmp_path)["commit"] for _ in range(2)] == ["first", "first"]
    assert read == [False, True]


def test_the_files_of_a_plan_give_the_same_forecast_again(tmp_path):
    class Options:
        json, read = str(tmp_path / "plan.json"), str(tmp_path / "plan.hlo")

    for text in (None, "{", "[]", "{}"):
        if text:
            (tmp_path / "plan.json").write_text(text)
        with pytest.raises(UserError, match="--read needs --json"):
            _earlier(Options, job())
    (tmp_path / "plan.json").write_text(json.dumps(FOUND))
    (tmp_path / "plan.hlo").write_text(RECORDED)
    text, found = _earlier(Options, job())
    before = compiled(job(), 80, RECORDED)
    assert StateBytes(**found["state_bytes"]) == before.state and found["compiler_bytes"] == before.memory
    assert text == before.text
    for other, sentence in (
        (dataclasses.replace(job(), topology="v6e:16x16"), "topology v5p:4x4x8, and this plan has v6e:16x16"),
        (job(fsdp=8, data=2), "has mesh {.*}, and this plan has {'data': 2"),
        (dataclasses.replace(job(), microbatches=2), "has microbatches 64, and this plan has 2"),
    ):
        with pytest.raises(UserError, match=sentence):
            _earlier(Options, other)


def test_a_row_with_run_files_of_its_own_is_planned_with_those(tmp_path, monkeypatch):
    """Not on top of the 142B's: the sibling's pre-training, and fine-tuning."""
    words = []

    def planner(command, **_):
        words.extend(command)
        (tmp_path / replan.kernels_hash() / "dots1b.json").write_text(json.dumps(FOUND))
        return subprocess.CompletedProcess(command, 0, b"")

    monkeypatch.setattr(replan.subprocess, "run", planner)
    monkeypatch.setattr(replan, "commit", lambda: "abc")
    row = {
        "file": "gin/dots1b.gin",
        "gin": ["gin/dots1b.gin"],
        "topology": "v5p:2x2x1",
        "num_chips": 4,
        "seq_len": 8192,
    }
    found = replan.plan(row, tmp_path)
    assert [word for word in words if word.startswith("--gin_file")] == ["--gin_file=gin/dots1b.gin"]
    replan.fill(row, found)
    assert row["days_all"] is None and row["chip_hours_1T"] > 0  # the 11.3T are the 142B's
