"""The eval command, and what a run writes down: rows, floats, TensorBoard."""

import json
import math

import numpy as np
import pytest
from tensorboard_reader import scalars

from dots_jax.training.metrics import MetricsLog, to_row

TASKS = ("small_prose", "small_numbers")


def error(capfd) -> str:
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_eval_of_a_run(workdir, capfd):
    last = "TrainConfig.stages = (@stable/Stage(),)"
    validation = ("TrainConfig.validation = ('small_prose', 'small_numbers')", "stable/Stage.tokens = 3_840")
    short = (last, *validation, "stable/Stage.batch_tokens = ((0, 256),)")
    assert workdir.train(*short) == 0
    assert workdir.steps() == [10, 15]
    at_the_end = capfd.readouterr().out

    # The newest: a table, JSON and TensorBoard, and what the run itself said when it ended.
    assert workdir.evaluate() == 0
    out = capfd.readouterr().out
    assert "step 15 (3,840 tokens)" in out
    table = [line for line in out.splitlines() if line.startswith("small_")]
    assert [line.split()[0] for line in table] == list(TASKS)
    assert all(line in at_the_end for line in table)
    results = json.loads((workdir.path / "eval.json").read_text())
    assert list(results) == ["15"] and set(results["15"]) == set(TASKS)
    board = scalars(workdir.path)
    for task, metrics in results["15"].items():
        assert metrics["bits_per_byte"] == pytest.approx(metrics["nats_per_byte"] / math.log(2))
        assert metrics["uniform"] == pytest.approx(math.log(256))
        assert 0 < metrics["unigram"] < metrics["uniform"]
        for name, value in metrics.items():
            assert board[f"eval/{task}/{name}", 15] == [np.float32(value)]
            assert board[f"validation/{task}/{name}", 15] == [np.float32(value)]

    # A step, then all; steps evaluated before stay in the file.
    assert workdir.evaluate("EvalConfig.checkpoint = '10'", "EvalConfig.tasks = ('small_prose',)") == 0
    results = json.loads((workdir.path / "eval.json").read_text())
    assert sorted(results) == ["10", "15"] and set(results["10"]) == {"small_prose"}
    assert workdir.evaluate("EvalConfig.checkpoint = 'all'", "MeshConfig.data = 2") == 0
    again = json.loads((workdir.path / "eval.json").read_text())
    assert set(again["10"]) == set(again["15"]) == set(TASKS)
    for step, tasks in results.items():
        for task, metrics in tasks.items():
            assert again[step][task] == pytest.approx(metrics, rel=1e-5)
    assert again["15"]["small_prose"]["nats_per_byte"] < again["10"]["small_prose"]["nats_per_byte"]
    capfd.readouterr()

    # What it refuses.
    assert workdir.evaluate("EvalConfig.checkpoint = '7'") == 2
    assert "There is no checkpoint of step 7 in" in error(capfd)
    assert workdir.evaluate("EvalConfig.tasks = ('small_pros',)") == 2
    assert "No seqio task is named 'small_pros'" in error(capfd)
    assert workdir.evaluate("EvalConfig.seq_len = 128", "EvalConfig.batch_tokens = 1024") == 2
    assert "seq_len 128 is longer than ModelConfig.max_seq_len 64" in error(capfd)
    for file in (workdir.path / "checkpoints" / "15" / "model").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[::-1])
    assert workdir.evaluate() == 2
    assert "checkpoints/15 cannot be read" in error(capfd)
    assert workdir.steps() == [10, 15]  # eval moves nothing


def test_rows_and_tensorboard_of_a_run(workdir):
    assert workdir.train(flags=("--max_steps=7",)) == 0
    assert workdir.train(flags=("--max_steps=9",)) == 0
    rows = workdir.rows()
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert [row["tokens"] for row in rows] == [256 * n for n in range(1, 10)]
    for row in rows:
        assert {"loss", "balance_loss", "learning_rate", "grad_norm", "param_norm", "bias_norm", "stage"} <= row.keys()
        assert len(row["expert_load_imbalance"]) == 2  # layers with experts
        assert row["expert_overflow_rounds"] == row["dropped_tokens"] == 0  # one device: all rows in one block
        assert row["epoch"].keys() == set(TASKS)
        assert ("first_step_seconds" in row) != ("tokens_per_second" in row and "mfu" in row and "step_seconds" in row)
    assert [row["step"] for row in rows if "first_step_seconds" in row] == [1, 8]  # once a process: it compiles
    board = scalars(workdir.path)
    for tag, name in (("train/loss", "loss"), ("train/grad_norm", "grad_norm"), ("schedule/tokens", "tokens")):
        assert [board[tag, row["step"]] for row in rows] == [[row[name]] for row in rows]
    tags = {tag for tag, _ in board}
    assert {"train/expert_overflow_rounds", "train/dropped_tokens"} <= tags
    assert {
        "speed/mfu",
        "speed/tokens_per_second",
        "expert_load_imbalance/layer_1",
        "expert_load_imbalance/layer_2",
    } <= tags
    assert {"epoch/small_prose", "epoch/small_numbers", "schedule/learning_rate", "train/bias_norm"} <= tags


def test_log_every(workdir):
    assert workdir.train("TrainConfig.log_every = 4", flags=("--max_steps=10",)) == 0
    assert [row["step"] for row in workdir.rows()] == [4, 8, 10]


def test_floats_are_written_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**32, 2000, dtype=np.uint32).view(np.float32)
    values = values[np.isfinite(values)]
    log = MetricsLog(str(tmp_path), 0)
    for step, value in enumerate(values[:50], start=1):
        log.write(to_row(step, {"loss": value, "load": np.array([value, 1], np.float32)}, tokens=2**53 + 1))
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [np.float32(row["loss"]) for row in rows] == list(values[:50])
    assert all(row["tokens"] == 2**53 + 1 and row["load"] == [row["loss"], 1] for row in rows)
    for value in values:
        (text,) = json.dumps(list(to_row(1, {"loss": value}).values())[1:]).strip("[]").split(",")
        assert np.float32(json.loads(text)) == value


def test_rows_past_the_checkpoint_and_half_a_row_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {n}, "loss": 0.{n}}}\n' for n in range(1, 6)) + '{"step": 6, "lo')
    log = MetricsLog(str(tmp_path), 3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    log.write({"step": 4, "loss": 0.5})
    log.close()
    assert path.read_text().splitlines()[3:] == ['{"step": 4, "loss": 0.5}']


def test_a_row_that_a_crash_garbled_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + b"\0" * 40 + b"\n" + b'{"step": 3}\n')
    MetricsLog(str(tmp_path), 3).close()
    assert path.read_text() == '{"step": 1}\n'


def test_other_processes_write_nothing(tmp_path):
    log = MetricsLog(str(tmp_path), 0, write=False)
    log.write({"step": 1, "loss": 0.5})
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_metrics_are_strict_json(tmp_path):
    """Numbers that are not finite are null, in rows of today and in rows that an older version wrote."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": NaN, "epoch": {"a": 0.5}}\n')
    log = MetricsLog(str(tmp_path), 1)
    load = np.array([np.inf, 1], np.float32)
    log.write(to_row(2, {"loss": np.float32("nan"), "load": load}, validation={"a": {"loss": -math.inf, "tokens": 3}}))
    log.close()
    assert path.read_text().splitlines() == [
        '{"step": 1, "loss": null, "epoch": {"a": 0.5}}',
        '{"step": 2, "loss": null, "load": [null, 1.0], "validation": {"a": {"loss": null, "tokens": 3}}}',
    ]
    board = scalars(tmp_path)
    assert math.isnan(board["train/loss", 2][0]) and board["load/layer_1", 2] == [math.inf]
    assert board["validation/a/tokens", 2] == [3]
    again = MetricsLog(str(tmp_path), 2)
    again.close()
    assert again.validation["a"]["tokens"] == 3 and math.isnan(again.validation["a"]["loss"])
