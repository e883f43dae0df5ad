"""Checkpoints: what is kept, what is noticed when one is damaged, what a full disk and a bad step leave behind.

Claim: a damaged checkpoint is named and set aside, and the one before it is used.
"""

import dataclasses
import errno
import gc
import json
import os
import random
import shutil
import subprocess

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from small_run import NUM_STEPS, restored

from dots_jax.checkpoint.metadata import CheckpointMetadata
from dots_jax.checkpoint.store import Checkpoints
from dots_jax.config import CheckpointConfig, UserError, tiny
from dots_jax.training.state import StepHealth, TrainState, to_items

# --- a state of a few arrays: no model, no compilation ---------------------------------------------------------------


def small_state(step, devices=8):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("x",))
    split, complete = NamedSharding(mesh, PartitionSpec("x")), NamedSharding(mesh, PartitionSpec())
    rng = np.random.default_rng(step)
    matrix = lambda: jax.device_put(rng.normal(size=(16, 24)).astype(np.float32), split)
    count = jax.device_put(np.int32(step), complete)
    return to_items(
        TrainState(
            step=count,
            params={"a": matrix(), "norm": {"scale": jax.device_put(np.ones(7, np.float32), complete)}},
            router_bias=jax.device_put(rng.normal(size=(2, 8)).astype(np.float32), complete),
            opt_state={"mu": matrix(), "nu": matrix()},
            guard=StepHealth(count, count, count, jax.device_put(np.float32(np.inf), complete)),
        )
    )


def abstract(state):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def metadata_of(step):
    return CheckpointMetadata(step=step, model=tiny(), position=8 * step, gin="TrainConfig.seed = 0\n")


def saved(folder, *steps, keep_last=3, is_milestone=lambda step: False):
    checkpoints = Checkpoints(str(folder), CheckpointConfig(keep_last=keep_last), is_milestone)
    for step in steps:
        checkpoints.save(step, small_state(step), metadata_of(step))
        checkpoints.wait()
    return checkpoints


def assert_is_step(restored, step, devices=8):
    state, metadata = restored
    assert dataclasses.replace(metadata, checksums={}, checksum="") == metadata_of(step)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(small_state(step, devices)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.sharding == b.sharding


def test_empty_folder_is_a_new_run(tmp_path):
    checkpoints = saved(tmp_path)
    assert checkpoints.steps() == [] and checkpoints.newest_metadata() is None
    assert checkpoints.restore_newest(abstract(small_state(0))) is None
    checkpoints.close()


@pytest.mark.parametrize("devices", [1, 4, 8])
def test_restores_on_another_mesh(tmp_path, devices):
    saved(tmp_path, 1, 2).close()
    checkpoints = saved(tmp_path)
    assert_is_step(checkpoints.restore_newest(abstract(small_state(0, devices))), 2, devices)
    checkpoints.close()


def test_keeps_the_last_and_the_milestones(tmp_path):
    checkpoints = saved(tmp_path, *range(1, 10), keep_last=2, is_milestone=lambda step: step in (3, 6))
    checkpoints.close()
    assert checkpoints.steps() == [3, 6, 8, 9]


def test_a_step_that_is_there_stays(tmp_path):
    saved(tmp_path, 1).close()
    checkpoints = saved(tmp_path)
    checkpoints.save(1, small_state(5), metadata_of(5))
    assert_is_step(checkpoints.restore_newest(abstract(small_state(0))), 1)
    checkpoints.close()


def damages(data: bytes, rng: random.Random):
    yield None  # deleted
    yield data[: len(data) // 2]
    if data:
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield bytes(flipped)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the reader's threads
def test_no_damage_goes_unnoticed(tmp_path, capsys):
    """Every file of a checkpoint deleted, cut, and with one bit flipped. Whatever is restored is exactly what
    was saved: the newest where the damage does not matter, and otherwise the one before it."""
    rng = random.Random(7)
    saved(tmp_path / "good", 1, 2).close()
    files = sorted(path for path in (tmp_path / "good" / "checkpoints" / "2").rglob("*") if path.is_file())
    noticed = 0
    for path in files:
        for damaged in damages(path.read_bytes(), rng):
            shutil.rmtree(tmp_path / "bad", ignore_errors=True)
            shutil.copytree(tmp_path / "good", tmp_path / "bad")
            target = tmp_path / "bad" / path.relative_to(tmp_path / "good")
            if damaged is None:
                target.unlink()
            else:
                target.write_bytes(damaged)
            checkpoints = Checkpoints(str(tmp_path / "bad"), is_milestone=lambda step: False)
            state, metadata = checkpoints.restore_newest(abstract(small_state(0)))
            checkpoints.close()
            assert_is_step((state, metadata), metadata.step)
            warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
            if metadata.step == 1:
                noticed += 1
                assert len(warnings) == 1 and f"{os.sep}checkpoints{os.sep}2 is damaged" in warnings[0]
                assert (tmp_path / "bad" / "damaged" / "2").is_dir()
                assert not (tmp_path / "bad" / "checkpoints" / "2").exists()
            else:
                assert not warnings
    assert noticed > 15
    gc.collect()


def change_array(path):
    """Another array in a file that reads well: what no format can notice."""
    item = path / "model"
    model = ocp.StandardCheckpointer().restore(item)
    model["params"]["a"] = model["params"]["a"].at[3, 3].add(1e-3)
    shutil.rmtree(item)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(item, model)


def change_record(path):
    (file,) = (path / "record").glob("*metadata*")
    text = file.read_text()
    assert '"position": 16' in text
    file.write_text(text.replace('"position": 16', '"position": 17'))


@pytest.mark.parametrize("change", [change_array, change_record])
def test_a_change_that_reads_well_is_noticed(tmp_path, change, capsys):
    saved(tmp_path, 1, 2).close()
    change(tmp_path / "checkpoints" / "2")
    checkpoints = saved(tmp_path)
    assert_is_step(checkpoints.restore_newest(abstract(small_state(0))), 1)
    assert "is not the one that was saved" in capsys.readouterr().err
    checkpoints.close()


def test_all_damaged(tmp_path):
    saved(tmp_path, 1, 2).close()
    for step in ("1", "2"):
        shutil.rmtree(tmp_path / "checkpoints" / step / "model")
    checkpoints = saved(tmp_path)
    with pytest.raises(UserError, match=r"None of the checkpoints \[1, 2\] in .* can be read; they are in .*damaged"):
        checkpoints.restore_newest(abstract(small_state(0)))
    checkpoints.close()
    assert sorted(os.listdir(tmp_path / "damaged")) == ["1", "2"]


# --- a run --------------------------------------------------------------------------------------------------------------


def test_milestones_of_a_run(workdir):
    """Every 5 steps is a checkpoint; those first past 2,000 and 4,000 tokens stay, with the last two."""
    assert workdir.train("CheckpointConfig.milestone_tokens = 2_000", flags=("--max_steps=22",)) == 0
    # 5 steps: 1,280 tokens; 10: 2,560; 15: 3,840; 20: 6,400; 22: 7,424
    assert workdir.steps() == [10, 20, 22]


def test_run_goes_on_from_the_one_before_a_damaged_checkpoint(workdir, capfd):
    assert workdir.train(flags=("--max_steps=10",)) == 0
    complete, arrays = workdir.history(), restored(workdir, 10)
    for file in (workdir.path / "checkpoints" / "10" / "training").rglob("*"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)
    capfd.readouterr()
    assert workdir.train(flags=("--max_steps=10",)) == 0
    output = capfd.readouterr()
    assert "checkpoints/10 is damaged" in output.err and "resuming    after step 5 " in output.out
    assert (workdir.path / "damaged" / "10").is_dir()
    assert workdir.steps() == [5, 10]
    assert workdir.history() == complete
    for name, array in restored(workdir, 10).items():
        np.testing.assert_array_equal(array, arrays[name], err_msg=name)


def poisoned(monkeypatch, steps, weight):
    """Batches of these steps carry a weight that spoils the loss."""
    from dots_jax.training import run

    put_batch, seen = run.put_batch, []

    def put(read_rows, first, size, seq_len, sharding):
        batch = put_batch(read_rows, first, size, seq_len, sharding)
        if first // size in steps:
            seen.append(first)
            batch["weights"] = batch["weights"] * np.float32(weight)
        return batch

    monkeypatch.setattr(run, "put_batch", put)
    return seen


def test_non_finite_steps_change_nothing_and_are_counted(workdir, monkeypatch, capfd):
    assert workdir.train(flags=("--max_steps=5",)) == 0
    before = restored(workdir, 5)
    poisoned(monkeypatch, (5, 6), np.nan)
    assert workdir.train(flags=("--max_steps=7",)) == 0
    after = restored(workdir, 7)
    for name, array in after.items():
        if not any(word in name for word in ("step", "nonfinite")):
            np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert [(row["nonfinite_streak"], row["nonfinite_total"]) for row in workdir.rows()[4:]] == [(0, 0), (1, 1), (2, 2)]
    err = capfd.readouterr().err
    assert "warning: step 6: loss or gradient not finite, step skipped" in err
    monkeypatch.undo()
    assert workdir.train(flags=("--max_steps=8",)) == 0
    last = workdir.rows()[-1]
    assert (last["nonfinite_streak"], last["nonfinite_total"]) == (0, 2) and np.isfinite(last["loss"])


def test_too_many_non_finite_steps_stop_the_run(workdir, monkeypatch, capfd):
    poisoned(monkeypatch, range(6, 100), np.inf)
    assert workdir.train("GuardConfig.max_nonfinite = 3", "TrainConfig.guard = @GuardConfig()") == 2
    error = [line for line in capfd.readouterr().err.splitlines() if "error: " in line]
    assert len(error) == 1 and "not finite for 3 steps in a row, up to step 9" in error[0]
    assert "The newest checkpoint is of step 5." in error[0]
    assert workdir.steps() == [5]
    # With good data again, the same command goes on as if nothing had been.
    monkeypatch.undo()
    assert workdir.train(flags=("--max_steps=12",)) == 0
    assert [row["step"] for row in workdir.rows()] == list(range(1, 13))
    assert workdir.rows()[-1]["nonfinite_total"] == 0


def test_a_loss_spike_is_counted(workdir, monkeypatch, capfd):
    from dots_jax.training import run

    put_batch = run.put_batch

    def put(read_rows, first, size, seq_len, sharding):
        def scrambled(rows):
            batch = read_rows(rows)
            if first // size == 12:
                batch = batch | {"targets": np.full_like(batch["targets"], 7)}  # a byte that no text holds
            return batch

        return put_batch(scrambled, first, size, seq_len, sharding)

    monkeypatch.setattr(run, "put_batch", put)
    assert (
        workdir.train("GuardConfig.spike_nats = 0.02", "TrainConfig.guard = @GuardConfig()", flags=("--max_steps=14",))
        == 0
    )
    assert [row["step"] for row in workdir.rows() if row["spike"]] == [13]
    assert workdir.rows()[-1]["spike_total"] == 1
    assert "warning: step 13: loss spike" in capfd.readouterr().err


# --- the disk ---------------------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_in_a_save(workdir, monkeypatch, capfd):
    """The writer of the second checkpoint meets a full disk: one sentence, and the first one is complete."""
    serialize = ocp.JsonCheckpointHandler._save_fn

    async def full(self, item, directory):
        if f"{os.sep}10." in str(directory):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        await serialize(self, item, directory)

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "_save_fn", full)
    assert workdir.train(flags=("--max_steps=15",)) == 2
    error = [line for line in capfd.readouterr().err.splitlines() if "error: " in line]
    assert len(error) == 1 and "can no longer be written (No space left on device)" in error[0]
    assert workdir.steps() == [5]
    monkeypatch.undo()
    assert workdir.train(flags=("--max_steps=12",)) == 0
    assert [row["step"] for row in workdir.rows()] == list(range(1, 13))


@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.parametrize("size", ["800k", "1100k"])
def test_a_real_full_disk(workdir, tmp_path, size):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        workdir.path = disk / "run"
        process = workdir.start()
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 2
        assert "Traceback" not in stderr
        last = stderr.rstrip().splitlines()[-1]
        assert last.startswith("error: The workdir") and "No space left on device" in last
        steps = workdir.steps()
        assert steps and steps[-1] < NUM_STEPS
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        assert workdir.train(flags=(f"--max_steps={steps[-1] + 2}",)) == 0
        assert json.loads((workdir.path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == steps[-1] + 2
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
