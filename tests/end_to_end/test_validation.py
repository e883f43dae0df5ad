"""Validation every n steps: the rows, TensorBoard, and a run that is stopped anywhere."""

import json
import math

import numpy as np
import pytest
from tensorboard_reader import scalars

from dots_jax.analysis import figures
from dots_jax.evaluation import perplexity

TASKS = ("small_prose", "small_numbers")
# 15 steps in one shape; checkpoints after steps 5, 10 and 15.
SHORT = (
    "TrainConfig.stages = (@stable/Stage(),)", "stable/Stage.tokens = 3_840", "stable/Stage.batch_tokens = ((0, 256),)",
    f"TrainConfig.validation = {TASKS}", "TrainConfig.validate_every = 5",
)  # fmt: skip


def test_a_stopped_run_writes_the_same_rows(workdir, capfd, monkeypatch):
    made, jit_score_step = [], perplexity.jit_score_step
    monkeypatch.setattr(perplexity, "jit_score_step", lambda *a: made.append(1) or jit_score_step(*a))
    assert workdir.train(*SHORT) == 0
    assert len(made) == 1  # one scorer for all validations
    out, err = capfd.readouterr()
    assert [line.split()[0] for line in out.splitlines() if line.startswith("small_") and "nats" not in line] == [
        *TASKS
    ]
    assert "validation  step 5: small_prose " in err

    rows = workdir.rows()
    found = {row["step"]: row for row in rows if "validation" in row}
    assert list(found) == [5, 10, 15] and [row["tokens"] for row in found.values()] == [1280, 2560, 3840]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 16))
    assert [rows[i - 1]["step"] for i, row in enumerate(rows) if "validation" in row] == [
        5,
        10,
        15,
    ]  # after their step's
    board = scalars(workdir.path)
    for step, row in found.items():
        assert set(row["validation"]) == set(TASKS)
        for task, metrics in row["validation"].items():
            assert metrics["bits_per_byte"] == pytest.approx(metrics["nats_per_byte"] / math.log(2))
            for name, value in metrics.items():
                assert board[f"validation/{task}/{name}", step] == [np.float32(value)]
    prose = [row["validation"]["small_prose"]["nats_per_byte"] for row in found.values()]
    assert prose[0] > prose[1] > prose[2]
    assert len(figures.loss_curve(rows).axes[0].lines[0].get_xdata()) == 15  # a picture of the steps
    # The time of a validation is no step's: its compilation takes seconds, a step milliseconds.
    assert all(row["step_seconds"] < 1 for row in rows if row["step"] in (6, 11))

    # Stopped by --max_steps at a validation, then between the checkpoint of step 10 and the validation after it.
    stopped = workdir.another("stopped")
    assert stopped.train(*SHORT, flags=("--max_steps=5",)) == 0
    assert stopped.history() == workdir.history()[:6]
    with monkeypatch.context() as patch:
        patch.setattr(perplexity.Scorer, "evaluate", lambda *_: 1 / 0)
        assert stopped.train(*SHORT) == 2
        assert stopped.steps() == [5, 10] and stopped.history() == workdir.history()[:11]
        capfd.readouterr()
    assert stopped.train(*SHORT) == 0
    assert stopped.history() == workdir.history()

    # Started again when it is finished, it scores nothing and shows the same table.
    table = [line for line in capfd.readouterr().out.splitlines() if line.startswith(("task ", "small_"))][-3:]
    with monkeypatch.context() as patch:
        patch.setattr(perplexity.Scorer, "evaluate", lambda *_: 1 / 0)
        assert stopped.train(*SHORT) == 0
    assert capfd.readouterr().out.splitlines()[-4:-1] == table
    assert stopped.history() == workdir.history()
    # A task that is named only now is scored then.
    assert stopped.train(*SHORT[:3], "TrainConfig.validation = ('small_prose', 'small_numbers', 'python_stdlib')",
                         "DataConfig.tasks_modules = ('small_run', 'dots_jax.data.tasks')",
                         "TrainConfig.validation_sequences = 8") == 0  # fmt: skip
    assert list(json.loads(stopped.history()[-1])["validation"]) == ["python_stdlib"]
