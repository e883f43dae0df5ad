"""A run that is stopped and started again is the run that was never stopped, bit for bit.

Claim: a killed run resumes bit for bit.
"""

import json
import random
import signal
import threading
import time

import numpy as np
import pytest
import seqio
from session import interrupts
from small_run import NUM_STEPS, restored

from dots_jax.data.sources.text_task import DocumentsSource

MOMENTS = random.Random(20250611)  # of the kills: other moments each time would make a failure hard to repeat


@pytest.fixture(scope="module")
def kept():
    """The uninterrupted run, which several tests compare with: its history and its last arrays."""
    return {}


@pytest.fixture
def reference(workdir, kept):
    if not kept:
        complete = workdir.another("uninterrupted")
        assert complete.train() == 0
        kept.update(history=complete.history(), arrays=restored(complete, NUM_STEPS), steps=complete.steps())
    return kept


def assert_same_run(run, reference):
    assert run.history() == reference["history"]
    arrays = restored(run, NUM_STEPS)
    assert arrays.keys() == reference["arrays"].keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, reference["arrays"][name], err_msg=name)


def wait_for(process, condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def kill(process):
    assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def unfinished(run):
    """What a save leaves when it dies before its rename."""
    folder = run.path / "checkpoints"
    return [entry for entry in folder.iterdir() if not entry.name.isdecimal()] if folder.exists() else []


def asked_to_stop(run, rows):
    """The exit status of a run that gets SIGTERM once it has logged that many rows."""

    def ask():
        while len(run.rows()) < rows:
            time.sleep(0.001)
        interrupts.send(signal.SIGTERM)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return run.train()


@pytest.mark.slow
@pytest.mark.subprocess
def test_killed_three_times_and_asked_to_stop_once(workdir, reference, capfd):
    # At a random moment of the first stage.
    rows = MOMENTS.randrange(6, 14)
    process = workdir.start()
    wait_for(process, lambda: len(workdir.rows()) >= rows)
    time.sleep(MOMENTS.random() * 0.05)
    kill(process)
    assert rows <= len(workdir.rows()) < NUM_STEPS

    # While a checkpoint is being written.
    process = workdir.start()
    wait_for(process, lambda: max(workdir.steps()) >= 15)
    wait_for(process, lambda: unfinished(workdir))
    kill(process)
    assert unfinished(workdir), "the save was done before the kill"
    assert 15 <= max(workdir.steps()) < NUM_STEPS

    # At a random moment near the end of the second stage.
    rows = MOMENTS.randrange(28, 34)
    process = workdir.start()
    wait_for(process, lambda: len(workdir.rows()) >= rows)
    kill(process)

    # Asked to stop: a checkpoint, a message of its own, and status 0.
    capfd.readouterr()
    assert asked_to_stop(workdir, rows=36) == 0
    assert not unfinished(workdir)
    (message,) = [line for line in capfd.readouterr().err.splitlines() if "SIGTERM" in line]
    stopped = workdir.steps()[-1]
    assert 36 <= stopped < NUM_STEPS
    assert message.endswith(f"SIGTERM: saved a checkpoint after step {stopped}; the same command goes on from there")

    assert workdir.train() == 0
    assert_same_run(workdir, reference)


def test_max_steps_is_what_a_longer_run_passes(workdir, reference):
    """Stopped in the middle of a stage, between two saves, and once more at the step where the batch grows."""
    for steps in (15, 17):
        assert workdir.train(flags=(f"--max_steps={steps}",)) == 0
        assert workdir.history() == reference["history"][:steps]
        assert workdir.steps()[-1] == steps
    assert workdir.train() == 0
    assert_same_run(workdir, reference)


def test_finished_run_started_again_changes_nothing(workdir, reference, capfd):
    for _ in range(2):
        assert workdir.train(flags=("--max_steps=6",)) == 0
    assert workdir.history() == reference["history"][:6]
    assert "resuming    after step 6" in capfd.readouterr().out


@pytest.mark.slow
def test_another_mesh_continues(workdir, reference):
    """One device, then 8, then 4: the losses stay, to rounding."""
    assert workdir.train(flags=("--max_steps=25",)) == 0
    assert workdir.train("MeshConfig.fsdp = 4", "MeshConfig.expert = 2", flags=("--max_steps=28",)) == 0
    assert workdir.train("MeshConfig.data = 2", "MeshConfig.fsdp = 2", flags=("--max_steps=31",)) == 0
    expected = [json.loads(line)["loss"] for line in reference["history"][:31]]
    losses = [row["loss"] for row in workdir.rows()]
    np.testing.assert_array_equal(losses[:25], expected[:25])
    np.testing.assert_allclose(losses[25:], expected[25:], rtol=1e-5)


def test_a_run_is_not_continued_by_another(workdir, capfd):
    assert workdir.train(flags=("--max_steps=6",)) == 0
    before = workdir.history()
    capfd.readouterr()

    def refusal(*bindings):
        assert workdir.train(*bindings) == 2
        assert workdir.history() == before
        assert workdir.steps() == [5, 6]
        (line,) = capfd.readouterr().err.splitlines()
        return line

    model = refusal("ModelConfig.num_experts = 16", "ModelConfig.rope_theta = 5000.0")
    assert "holds another model: num_experts was 8 and is now 16, rope_theta was 10000.0 and is now 5000.0." in model
    stages = refusal("stable/Stage.batch_tokens = ((0, 512),)")
    assert (
        "which does not fit the stages of this config. When resuming you may change learning rates, but not" in stages
    )
    mixture = refusal("stable/Stage.mixture = 'small_mixed'")
    assert "has already started stage 'stable', whose mixture was small_plain and is now small_mixed. When" in mixture
    assert "has already started stage 'stable', whose seed was 0 and is now 1." in refusal("TrainConfig.seed = 1")
    # Stages that have not begun may change, and so may what leaves the past as it was.
    later = ("anneal/Stage.mixture = 'small_plain'", "long/Stage.seq_len = 32", "stable/Stage.learning_rate_end = 1e-3")
    constant = ("stable/Stage.learning_rate_start = 1e-3",)
    assert workdir.train(*later, *constant, flags=("--max_steps=7",)) == 0


def test_other_data_is_refused(workdir, monkeypatch, tmp_path, capfd):
    assert workdir.train(flags=("--max_steps=3",)) == 0
    capfd.readouterr()
    task = seqio.TaskRegistry.get("small_prose")
    documents = DocumentsSource({"train": ["other words"] * 40, "validation": ["other"]})
    monkeypatch.setattr(task, "_source", documents)
    assert workdir.train() == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "was trained on other data than" in line
