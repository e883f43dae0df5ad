"""The page of the story: strings of a model are escaped, what is left out is named, and nothing is loaded."""

import json

import pytest

from benchmarks.story.page import write_page
from benchmarks.story.steps import PROMPTS, steps
from dots_jax.config import UserError


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows))


@pytest.fixture
def folder(tmp_path):
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
        "step_seconds": 1.0,
    }
    rows = [row | {"step": at, "tokens": 2048 * at, "loss": 8.0 - at} for at in (1, 2, 3)]
    del rows[0]["step_seconds"]  # as the first step of a start
    write(tmp_path / "pretrain" / "metrics.jsonl", *rows, {"step": 3, "validation": {"web": {"loss": 4.25}}})
    books = {"records_read": 9, "documents_written": 5, "characters_written": 800}
    funnel = [{"step": "url", "kept": {"records": 5}, "removed": {"records": 4}}]
    write(tmp_path / "data" / "corpus" / "report.json", {"funnel": funnel, "books": books})
    write(tmp_path / "data" / "demo.json", {"found": 18, "planted": 18})
    write(tmp_path / "samples" / "3.jsonl", *({"text": "<script>alert(1)</script>"} for _ in PROMPTS))
    write(
        tmp_path / "load.json", {"domains": {"code": {"loss": 3.5, "tokens": 100}}, "specialisation": [0.1, 0.2, 0.3]}
    )
    (tmp_path / "load.png").write_bytes(b"picture")
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
    assert "http://" not in page and "https://" not in page
    assert "no transformers here" in page and "Post-training" in page and "figure 4" in page
    assert "7.00 to 5.00" in page and "4.25" in page and "18 of 18 planted faults" in page
    assert "25.0, of 4 items" in page and "no items" in page and "0.750" in page and "mean of 1 seeds" in page
    assert "130,000 H800 hours" in page and "142B run" in page


def test_a_damaged_result_is_one_sentence(folder):
    (folder / "load.json").write_text("{")
    with pytest.raises(UserError, match="what a step wrote cannot be read"):
        write_page(folder, steps())
