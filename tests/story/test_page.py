"""The page of the story: strings of a model are escaped, what did not run is named, and nothing is loaded."""

import errno
import json
import os
import re
import types

import pytest

from benchmarks.story import model_sections, page
from benchmarks.story.page import MESH, PLANNER, write_page
from benchmarks.story.steps import PROMPTS, steps
from dots_jax.config import Stage, UserError, tiny

LOADS = {"code": [[4, 0], [2, 2]], "prose": [[4, 0], [4, 0]]}


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    stage = Stage(
        name="sums",
        tokens=1,
        mixture="sums",
        seq_len=1,
        batch_tokens=((0, 1),),
        learning_rate_start=7e-3,
        learning_rate_end=7e-4,
        learning_rate_shape="linear",
    )
    opened = types.SimpleNamespace(model=tiny(), metadata=types.SimpleNamespace(stages=(stage,)))
    monkeypatch.setattr(model_sections, "open_checkpoint", lambda path: opened)
    cost = {"seconds": 12.0, "core_seconds": 9.0, "peak_mib": 300.0, "starts": 1}
    for step in steps():
        about = {"name": step.name, "title": step.title, "command": step.command(tmp_path)}
        more = {"skipped": "no transformers here"} if step.needs else {"cost": cost, "finished": True}
        write(tmp_path / "steps" / f"{step.name}.json", about | more)
    row = {
        "tokens": 0,
        "learning_rate": 3e-3,
        "stage": "stable",
        "spike_total": 0,
        "dropped_tokens": 0,
        "nonfinite_total": 0,
        "step_seconds": 1.0,
    }
    rows = [row | {"step": at, "tokens": 2048 * at, "loss": 8.0 - at} for at in (1, 2, 3)]
    del rows[0]["step_seconds"]  # as the first step of a start
    write(tmp_path / "pretrain" / "metrics.jsonl", *rows, {"step": 3, "validation": {"web": {"loss": 4.25}}})
    books = {"records_read": 9, "documents_written": 5, "characters_written": 800}
    funnel = [{"step": "url", "kept": {"records": 5}, "removed": {"records": 4}}]
    write(tmp_path / "data" / "corpus" / "report.json", {"funnel": funnel, "books": books})
    settings = {"lines": {"keep": 77}, "minhash": {"bands": 31, "rows": 9}}
    write(tmp_path / "data" / "corpus" / "state" / "run.json", {"config": settings})
    write(tmp_path / "data" / "demo.json", {"found": 18, "planted": 18})
    write(tmp_path / "samples" / "3.jsonl", *({"text": "<script>alert(1)</script>"} for _ in PROMPTS))
    counted = {name: {"loss": 3.5, "tokens": 4, "counts": counts} for name, counts in LOADS.items()}
    write(tmp_path / "load" / "expert_load.json", {"domains": counted})
    (tmp_path / "load" / "expert_load.png").write_bytes(b"picture")
    scores = {"mmlu": {"generated": {"score": 25.0}, "items": 4}, "nq": {"missing": "no data"}}
    write(tmp_path / "evaluation" / "dynamics.json", {"steps": [{"step": 3, "rows": scores}]})
    (tmp_path / "evaluation" / "dynamics.png").write_bytes(b"curves")
    mean = {"sft": 0.5, "rft": 0.75, "sft_more": 0.51, "unverified": 0.49, "sft_on_learned": 0.98}
    write(tmp_path / "rft" / "result.json", {"seeds": {"0": mean}, "mean": mean})
    (tmp_path / "rft" / "bars.png").write_bytes(b"bars")
    write(tmp_path / "reread.json", {"prompts": 3, "equal": 3, "parameters": 1_500_000, "bytes": 6_000_000})
    return tmp_path


def test_a_page_escapes_the_model_and_names_what_is_left_out(folder):
    write_page(folder, steps())
    page = (folder / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert not re.search(r'(src|href)="(?!data:|https://arxiv.org/abs/)', page) and "url(" not in page  # loads nothing
    assert "no transformers here" in page and "Post-training" in page and "figure 4" in page
    assert "7.00 to 5.00" in page and "4.25" in page and "18 of 18 planted faults" in page
    assert "25.0, of 4 items" in page and "no items" in page and "0.750 (0.750 to 0.750)" in page
    assert "the mean of 1 seed," in page and "130,000 H800 hours" in page and "142B run" in page


def test_what_the_page_says_of_the_run_is_read_from_it(folder):
    """Settings of curation, the model, the stages, and the planner's figures, none of which is a text of the page."""
    write_page(folder, steps())
    page = (folder / "report.html").read_text()
    for said in (
        "the first 77 occurrences", "31 bands of 9 values", "8, of which 2 a token; 2 shared",  # dots_jax.config.tiny
        "128, of which 6 a token; 2 shared", "0.007 to 0.0007, linear", "0.00, 0.50 (0: the same experts",
    ):  # fmt: skip
        assert said in page, said
    row = next(row for row in json.loads(PLANNER.read_text())["rows"] if row["file"] == MESH)
    assert f"{row['chip_hours_1T']:,} (" in page and f"chip-hours on {row['chips']}" in page


def test_the_short_form_names_each_step_that_it_leaves_out(folder):
    chosen = steps(short=True)
    for step in chosen:
        if step.left_out:
            about = {"name": step.name, "title": step.title, "skipped": step.left_out, "command": step.command(folder)}
            write(folder / "steps" / f"{step.name}.json", about)
    write_page(folder, chosen)
    page = (folder / "report.html").read_text()
    assert "RFT and two controls</b>: the short form has no time for it" in page
    assert "<h2>Post-training</h2>" not in page
    assert {step.name for step in steps()} == {step.name for step in chosen}  # nothing is left out without a word


def test_more_seeds_are_a_range_of_held_out_losses(folder):
    chosen = steps(seeds=3)
    assert [step.name for step in chosen][:-2] == [step.name for step in steps()]
    cost = {"seconds": 1.0, "core_seconds": 1.0, "peak_mib": 1.0, "starts": 1}
    for seed, loss in (("1", 4.5), ("2", 4.0)):
        step = next(step for step in chosen if step.name == f"pretrain_{seed}")
        command = step.command(folder)
        assert (
            f"--workdir={folder}/seeds/{seed}" in command and command[-1] == f"--gin_bindings=TrainConfig.seed = {seed}"
        )
        write(
            folder / "steps" / f"{step.name}.json",
            {"name": step.name, "title": step.title, "command": command, "cost": cost},
        )
        write(folder / "seeds" / seed / "metrics.jsonl", {"step": 3, "validation": {"web": {"loss": loss}}})
    write_page(folder, chosen)
    page = (folder / "report.html").read_text()
    assert "4.250 (4.000 to 4.500)" in page and "means over 3 seeds" in page and "Pre-training, seed 2" in page


def test_a_damaged_result_is_one_sentence(folder):
    (folder / "load" / "expert_load.json").write_text("{")
    with pytest.raises(UserError, match="what a step wrote cannot be read"):
        write_page(folder, steps())


def test_a_page_that_cannot_be_written_is_one_sentence(folder, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(page, "write_text", no_space)
    with pytest.raises(UserError, match="report.html: No space left on device. Start the story again"):
        write_page(folder, steps())
