"""`dots evaluate --steps`: one evaluation a checkpoint, resumed by step and row, and its picture.

Claim: a checkpoint evaluated among several has the answers, byte for byte, that it has alone.
"""

import json

import pytest

from dots_jax.checkpoint.open import open_checkpoint
from dots_jax.cli.main import main
from dots_jax.cli.options import EvaluateOptions
from dots_jax.config import UserError
from dots_jax.evaluation.suite import run as suite_run
from dots_jax.evaluation.suite.answering import Answer, Counts
from dots_jax.evaluation.suite.milestones import chosen_steps, draw, read_texts


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("texts") / "held_out.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("A text. " * 60, "短い。", "")))
    return str(path)


def run(checkpoint, data, output, *more: str) -> int:
    flags = (f"--checkpoint={checkpoint}", f"--data={data}", f"--output={output}", "--rows=mmlu", "--limit=2")
    return main(["evaluate", "--suite=figure4", *flags, *more])


class Canned:
    """Stands for the model: its answers name the step. `asked` counts them."""

    asked = 0

    def __init__(self, opened, dtype, batch_size, vocabulary):
        self.use(opened)

    def use(self, opened):
        self.step, self.counts = opened.step, Counts()

    def answers(self, window):
        Canned.asked += len(window)
        if window:
            yield [(request, Answer("ABCD"[self.step], 1, "stop")) for request in window]

    def text_loss(self, rows):
        Canned.asked += 1
        return 1000.0 / self.step


def test_every_step_has_its_answers_and_its_loss(checkpoint, data, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(suite_run, "Answerer", Canned)
    out, flags = tmp_path / "out", ("--steps=1,2", f"--validation={texts}")
    assert run(checkpoint, data, out, *flags) == 0
    steps = json.loads((out / "dynamics.json").read_text())["steps"]
    assert [step["step"] for step in steps] == [1, 2] and all(step["rows"]["mmlu"]["items"] == 2 for step in steps)
    losses = [step["loss"]["held_out.jsonl"] for step in steps]
    tokens = 480 + 9
    assert [loss["nats_per_token"] for loss in losses] == [1000 / tokens, 500 / tokens] and losses[0][
        "tokens"
    ] == tokens
    assert (out / "dynamics.png").read_bytes().startswith(b"\x89PNG")

    # Resumed: what is lost comes back as it was, and nothing else is run again.
    before, items = (out / "dynamics.json").read_bytes(), (out / "step_2/items.jsonl").read_bytes()
    Canned.asked = 0
    assert run(checkpoint, data, out, *flags) == 0 and Canned.asked == 0
    (out / "step_2/items.jsonl").write_bytes(items[: items.index(b"\n") + 20])
    assert run(checkpoint, data, out, *flags) == 0 and Canned.asked == 1
    assert (out / "step_2/items.jsonl").read_bytes() == items and (out / "dynamics.json").read_bytes() == before
    (out / "step_1/loss.json").unlink()
    assert run(checkpoint, data, out, *flags) == 0 and Canned.asked == 2
    assert (out / "dynamics.json").read_bytes() == before


@pytest.mark.slow
def test_a_step_among_others_has_the_answers_that_it_has_alone(checkpoint, data, texts, tmp_path):
    assert run(checkpoint, data, tmp_path / "one", "--step=2") == 0
    assert run(checkpoint, data, tmp_path / "out", "--steps=1,2", f"--validation={texts}") == 0
    items = {step: (tmp_path / f"out/step_{step}/items.jsonl").read_bytes() for step in (1, 2)}
    assert items[2] == (tmp_path / "one/items.jsonl").read_bytes() != items[1]


def test_steps_that_cannot_be_are_one_sentence(checkpoint, tmp_path):
    opened = open_checkpoint(checkpoint)
    assert chosen_steps(EvaluateOptions(steps="all"), opened) == [1, 2]
    for steps, message in (
        ("milestones", "keeps no milestones"),
        ("1,x", "steps as 100,200"),
        ("3", "no checkpoint of step 3"),
    ):
        with pytest.raises(UserError, match=message):
            chosen_steps(EvaluateOptions(steps=steps), opened)
    with pytest.raises(UserError, match="give one of them"):
        chosen_steps(EvaluateOptions(steps="all", step=1), opened)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"texts": "a"}\n')
    with pytest.raises(UserError, match="line 1 has no text"):
        read_texts(str(bad), None, 8)


def test_the_picture_names_what_is_missing():
    steps = [
        {"step": n, "tokens": n * 1000, "loss": {"code": {"nats_per_byte": 2.0 - n}},
         "rows": {"mmlu": {"generated": {"score": 25.0, "standard_error": 1.0}, "ranked": None}, "nq": {"missing": "no data: x"}}}
        for n in (0, 1)
    ]  # fmt: skip
    assert draw("figure4", steps).startswith(b"\x89PNG")
