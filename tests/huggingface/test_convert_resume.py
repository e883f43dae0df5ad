"""Conversions that are stopped, that several processes share, and disks that fill up.

Claim: a killed conversion that starts again ends with the same bytes.
"""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
from converted import abstract_model, assert_same_tensors, restore, small_chunks
from hf_checkpoint import CONFIG, convert, hf_config, random_tensors, write
from processes import free_port, outputs

from dots_jax.config import MeshConfig
from dots_jax.huggingface import from_hf, stored_model, to_hf
from dots_jax.huggingface import safetensors_read as safetensors_files

# The command with chunks, pieces and units as small as this model, and a pause after each.
SMALL = """
import sys, time
from dots_jax.cli.main import main
from dots_jax.huggingface import from_hf, to_hf, units as layout
layout.CHUNK_BYTES, layout.PIECE_BYTES, layout.UNIT_BYTES = 512, 2048, 4096
pause, *argv = sys.argv[1:]
def slowly(function):
    def run(*arguments):
        time.sleep(float(pause))
        return function(*arguments)
    return run
from_hf._convert, to_hf._read = slowly(from_hf._convert), slowly(to_hf._read)
sys.exit(main(["convert", *argv]))
"""


@pytest.fixture
def source(tmp_path):
    write(tmp_path / "hf", random_tensors(), hf_config(CONFIG), files=2)
    return tmp_path / "hf"


def start(process_env, *argv, pause=0.0) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SMALL, str(pause), *map(str, argv)], env=process_env, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def kill_when(process: subprocess.Popen, ready) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def assert_whole(path) -> None:
    model = restore(path, abstract_model(MeshConfig(fsdp=1), jnp.bfloat16))
    assert_same_tensors(model, random_tensors(), jnp.dtype(jnp.bfloat16))


@pytest.mark.subprocess
def test_killed_conversions_go_on(tmp_path, source, process_env, monkeypatch):
    """SIGKILL in the middle of each direction: nothing looks complete, and the next one does only what is missing."""
    target, partial = tmp_path / "dst", tmp_path / "dst" / "conversion.partial"
    finished = lambda: len(list((partial / "units").glob("*.json"))) if partial.exists() else 0
    kill_when(start(process_env, "from_hf", source, target, pause=0.02), lambda: finished() >= 5)
    done = {path.name: path.stat().st_mtime_ns for path in (partial / "units").glob("*.json")}
    assert not (target / "checkpoints").exists()
    assert convert("to_hf", target, tmp_path / "nothing") == 2

    small_chunks(monkeypatch, unit=4096)
    begun = []
    begin = stored_model.UnitWriter.begin
    monkeypatch.setattr(stored_model.UnitWriter, "begin", lambda self: (begun.append(self._unit.name), begin(self))[1])
    assert convert("from_hf", source, target) == 0
    assert begun and not {f"{name}.json" for name in begun} & done.keys()
    assert_whole(target)
    begun.clear()
    assert convert("from_hf", source, target) == 0 and begun == []

    out, partial = tmp_path / "out", tmp_path / "out.partial"
    lines = lambda: sum(len(path.read_text().splitlines()) for path in partial.glob("conversion.partial/*.jsonl"))
    process = start(process_env, "to_hf", target, out, "--max_shard_size=100KB", pause=0.02)
    kill_when(process, lambda: partial.exists() and lines() >= 20)
    there = lines()
    assert not out.exists() and not (partial / "config.json").exists()
    with open(next(partial.glob("*00001*.safetensors")), "ab") as file:
        file.write(b"torn")  # what a killed write may leave
    with open(next(partial.glob("conversion.partial/*00001*.jsonl")), "a") as file:
        file.write('["torn')
    read = []
    one = to_hf._read
    monkeypatch.setattr(to_hf, "_read", lambda *arguments: (read.append(arguments[2].name), one(*arguments))[1])
    assert convert("to_hf", target, out, "--max_shard_size=100KB") == 0
    assert len(set(read)) == len(random_tensors()) - there
    assert convert("from_hf", out, tmp_path / "again") == 0
    assert_whole(tmp_path / "again")


@pytest.mark.subprocess
def test_two_processes_share_the_work(tmp_path, source, process_env):
    """Each writes what is its own, and process 0 puts it together: both directions."""

    def both(*argv):
        address = f"127.0.0.1:{free_port()}"
        return outputs([start(process_env, *argv, f"--distributed={address},{p},2") for p in range(2)])

    (out, _), (quiet, _) = both("from_hf", source, tmp_path / "dst")
    assert "checkpoints/0" in out and "checkpoints" not in quiet
    assert_whole(tmp_path / "dst")
    both("to_hf", tmp_path / "dst", tmp_path / "out", "--max_shard_size=30KB")
    assert convert("from_hf", tmp_path / "out", tmp_path / "again") == 0
    assert_whole(tmp_path / "again")


def test_each_process_takes_its_share(tmp_path, source, monkeypatch):
    """What one of two processes does by itself: about half, and no more."""
    small_chunks(monkeypatch)
    begun = {}
    begin = stored_model.UnitWriter.begin
    for process in range(2):
        names = begun[process] = set()
        monkeypatch.setattr(
            stored_model.UnitWriter, "begin", lambda self, names=names: (names.add(self._unit.name), begin(self))[1]
        )
        monkeypatch.setattr(from_hf.jax, "process_index", lambda process=process: process)
        monkeypatch.setattr(from_hf.jax, "process_count", lambda: 2)
        monkeypatch.setattr(from_hf.multihost_utils, "sync_global_devices", lambda name: None)
        monkeypatch.setattr(from_hf, "_finish", lambda *arguments: None)
        monkeypatch.setattr(from_hf, "one_run_at_a_time", lambda folder, what: contextlib.nullcontext())
        assert convert("from_hf", source, tmp_path / "dst") == 0
    assert not begun[0] & begun[1] and abs(len(begun[0]) - len(begun[1])) <= 1
    assert len(begun[0] | begun[1]) > 30


def only_error(capfd) -> str:
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "error: " in line]
    return line


def test_a_disk_that_fills_up(tmp_path, source, monkeypatch, capfd):
    """The writers meet a full disk: one sentence, nothing that looks complete, and the same command goes on."""
    commit, copy = stored_model.Batch.commit, to_hf._copy

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stored_model.Batch, "commit", full)
    assert convert("from_hf", source, tmp_path / "dst") == 2
    assert "dst can no longer be written (No space left on device)" in only_error(capfd)
    assert not (tmp_path / "dst" / "checkpoints").exists()
    monkeypatch.setattr(stored_model.Batch, "commit", commit)
    assert convert("from_hf", source, tmp_path / "dst") == 0

    monkeypatch.setattr(to_hf, "_copy", full)
    assert convert("to_hf", tmp_path / "dst", tmp_path / "out") == 2
    assert "out can no longer be written (No space left on device)" in only_error(capfd)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(to_hf, "_copy", copy)
    assert convert("to_hf", tmp_path / "dst", tmp_path / "out") == 0
    assert convert("from_hf", tmp_path / "out", tmp_path / "again") == 0
    assert_whole(tmp_path / "again")


@pytest.mark.subprocess
@pytest.mark.slow
def test_a_real_full_disk(tmp_path, source, process_env):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=150k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    assert convert("from_hf", source, tmp_path / "dst") == 0
    unchecked = SMALL.replace("pause, *argv", "from_hf.check_disk = to_hf.check_disk = lambda *_: None\npause, *argv")
    try:
        for argv, complete in (
            (("from_hf", source, disk / "dst"), "checkpoints"),
            (("to_hf", tmp_path / "dst", disk / "out"), ""),
        ):
            checked = start(process_env, *argv)
            assert "error: " in checked.communicate()[1] and checked.returncode == 2
            done = subprocess.run(
                [sys.executable, "-c", unchecked, "0", *map(str, argv)], env=process_env, capture_output=True, text=True
            )
            last = done.stderr.rstrip().splitlines()[-1]
            assert done.returncode == 2 and "Traceback" not in done.stderr
            assert last.startswith("error: The folder") and "No space left on device" in last
            assert not (argv[2] / complete).exists() if complete else not argv[2].exists()
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        for argv in (("from_hf", source, disk / "dst"), ("to_hf", disk / "dst", disk / "out")):
            process = start(process_env, *argv)
            assert process.communicate()[1] is not None and process.returncode == 0
        assert_whole(disk / "dst")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_another_source_is_not_mixed_in(tmp_path, source, capfd):
    """A conversion goes on only with the source it began with; and checksums of what it read must be the checkpoint's."""
    partial = tmp_path / "dst" / "conversion.partial"
    partial.mkdir(parents=True)
    (partial / "plan.json").write_text('{"format": 1, "source": "another"}')
    assert convert("from_hf", source, tmp_path / "dst") == 2
    assert "holds the beginning of another conversion" in only_error(capfd)


def test_a_model_of_the_same_shape_is_another(tmp_path, source):
    fingerprint = safetensors_files.SafetensorsFolder(str(source)).fingerprint
    write(tmp_path / "again", random_tensors(), hf_config(CONFIG), files=2)
    assert safetensors_files.SafetensorsFolder(str(tmp_path / "again")).fingerprint == fingerprint
    write(tmp_path / "other", random_tensors(seed=1), hf_config(CONFIG), files=2)
    assert safetensors_files.SafetensorsFolder(str(tmp_path / "other")).fingerprint != fingerprint


def test_a_model_with_one_other_weight_is_another(tmp_path, source, capfd):
    """A fine-tuned model may differ in a few tensors only: all bytes are compared."""
    assert convert("from_hf", source, tmp_path / "dst") == 0
    tensors = random_tensors()
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    write(tmp_path / "tuned", tensors, hf_config(CONFIG), files=2)
    assert convert("from_hf", tmp_path / "tuned", tmp_path / "dst") == 2
    assert "holds another checkpoint already" in only_error(capfd)


def test_a_damaged_checkpoint_is_not_exported(tmp_path, source, capfd):
    """One byte of one array changed on the disk, where neither zarr nor OCDBT can notice it."""
    assert convert("from_hf", source, tmp_path / "dst") == 0
    needle = np.asarray(random_tensors()["lm_head.weight"]).T.tobytes()[:64]
    for path in (tmp_path / "dst").rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        if needle in data:
            at = data.index(needle)
            path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
            break
    else:
        raise AssertionError("the array was not found on the disk")
    assert convert("to_hf", tmp_path / "dst", tmp_path / "out") == 2
    assert "params.head.w_DV" in only_error(capfd)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_deleted_while_it_is_exported(tmp_path, source, monkeypatch, capfd):
    """A run keeps its newest checkpoints: what began does not block the export of the next one."""
    native = tmp_path / "native"
    assert convert("from_hf", source, native) == 0
    read, reads = to_hf._read, []

    def read_until_it_is_gone(*arguments):
        reads.append(arguments)
        if len(reads) == 5:
            shutil.move(native / "checkpoints" / "0", tmp_path / "deleted")
        return read(*arguments)

    small_chunks(monkeypatch, unit=4096)
    monkeypatch.setattr(to_hf, "_read", read_until_it_is_gone)
    assert convert("to_hf", native, tmp_path / "back") == 2
    assert "was deleted while it was exported, as a run does with all but its newest" in only_error(capfd)
    assert not (tmp_path / "back").exists()

    shutil.move(tmp_path / "deleted", native / "checkpoints" / "1")
    assert convert("to_hf", native, tmp_path / "back") == 0
    assert not (tmp_path / "back.partial").exists() and (tmp_path / "back" / "config.json").exists()


def test_as_in_a_bucket(tmp_path, source, monkeypatch, process_env):
    """No renames, no appending: written in place, visible only with the last file. Here the bucket is a folder;
    end_to_end/test_bucket_run.py converts in one."""
    for module in (from_hf, to_hf, safetensors_files):
        monkeypatch.setattr(module, "in_bucket", lambda path: True)
    target, out = tmp_path / "dst", tmp_path / "out"
    finish = from_hf.finish_checkpoint

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(from_hf, "finish_checkpoint", killed)
    assert convert("from_hf", source, target) == 130
    assert (target / "checkpoints" / "0" / "model" / "manifest.ocdbt").exists()
    assert not (target / "checkpoints" / "0" / "commit_success.txt").exists()
    monkeypatch.setattr(from_hf, "finish_checkpoint", finish)
    assert convert("from_hf", source, target) == 0
    assert not (target / "conversion.partial").exists()
    assert_whole(target)

    monkeypatch.setattr(to_hf, "complete", killed)
    assert convert("to_hf", target, out, "--max_shard_size=100KB") == 130
    assert not (out / "config.json").exists() and not (out / "model.safetensors.index.json").exists()
    monkeypatch.undo()
    for module in (from_hf, to_hf, safetensors_files):
        monkeypatch.setattr(module, "in_bucket", lambda path: True)
    assert convert("to_hf", target, out, "--max_shard_size=100KB") == 0
    assert convert("from_hf", out, tmp_path / "again") == 0
    assert_whole(tmp_path / "again")
