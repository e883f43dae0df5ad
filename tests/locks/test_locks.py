"""One writer at a time in a folder: refused in one sentence, taken over from the dead, released at the end."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from etils import epath
from etils.epath import gpath
from folder_bucket import FolderBucket

from dots_jax import locks
from dots_jax.config import UserError
from dots_jax.locks import Owner, owned

HOLDER = """
import sys, time
from dots_jax.locks import owned
with owned(sys.argv[1], "the run"):
    print("holds", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["disk", "bucket"])
def place(request, tmp_path, monkeypatch):
    """A folder, and the same in a bucket: a client without conditions, as a bucket of the tests is."""
    if request.param == "disk":
        return str(tmp_path / "folder")
    monkeypatch.setattr(gpath._GPath, "_backend", property(lambda path: FolderBucket(tmp_path)))
    monkeypatch.setattr(locks, "_SETTLE_SECONDS", 0.01)
    return "gs://bucket/folder"


def left_by(place, **changes):
    """The file of another owner."""
    path = epath.Path(place) / locks.NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = dataclasses.replace(Owner.here(), **changes)
    path.write_text(json.dumps(dataclasses.asdict(owner)))
    return path, owner


def test_held_and_released(place):
    with owned(place, "the run") as lock:
        lock.check()
        with pytest.raises(UserError) as error, owned(place, "the run"):
            pass
        sentence = str(error.value)
        assert sentence.startswith("the run in ") and f"process {os.getpid()} on" in sentence and "\n" not in sentence
    with owned(place, "the run"):
        pass
    assert [path.name for path in epath.Path(place).iterdir()] == []


@pytest.mark.subprocess
def test_taken_over_from_a_process_that_is_gone(place):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left_by(place, pid=ended.pid)
    with owned(place, "the run") as lock:
        lock.check()
    left_by(place, started="1")  # the number is this process's, but it was another process
    with owned(place, "the run"):
        pass


def test_an_owner_elsewhere_is_dead_after_a_while(place, monkeypatch):
    path, _ = left_by(place, machine="another", host="pod-3")
    with pytest.raises(UserError, match=r"pod-3.*if it is dead already, start again in \d+ seconds"), owned(place, "x"):
        pass
    long_ago = time.time() - locks.STALE_SECONDS - 5
    left_by(place, machine="another", beat=long_ago)
    if "://" not in place:
        os.utime(path, (long_ago, long_ago))
    with owned(place, "x"):
        pass


def test_the_owner_gives_signs_of_life(place, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(locks.Owner, "is_gone", lambda owner: None)  # as if seen from another machine
    monkeypatch.setattr(locks, "STALE_SECONDS", 1)
    with owned(place, "x"):
        time.sleep(1.5)
        with pytest.raises(UserError), owned(place, "x"):
            pass


def test_an_owner_that_was_replaced_learns_it(place, monkeypatch):
    with owned(place, "the run") as lock:
        path, _ = left_by(place, machine="another", host="pod-3")
        with pytest.raises(UserError, match="was taken over by another process .*pod-3"):
            lock.check()
    assert path.exists()  # it is not ours to remove


def test_waiting(place):
    said, order = [], []
    with owned(place, "the run"):

        def wait():
            with owned(place, "the run", wait=math.inf, on_wait=said.append):
                order.append("second")

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.5)
        order.append("first")
    thread.join()
    assert order == ["first", "second"] and len(said) == 1 and said[0].startswith("waiting for the run in")


@pytest.mark.subprocess
def test_a_killed_process(tmp_path, process_env):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], env=process_env, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "holds\n"
    with pytest.raises(UserError, match=f"process {holder.pid} on .* or end it.$"), owned(tmp_path, "the run"):
        pass
    holder.send_signal(signal.SIGKILL)
    time.sleep(0.2)  # not waited for: it is a zombie, which is dead all the same
    with owned(tmp_path, "the run"):
        pass
    holder.wait()


@pytest.mark.subprocess
@pytest.mark.parametrize("links", [True, False])
def test_many_that_find_a_dead_owner(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *a: (_ for _ in ()).throw(PermissionError()))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left_by(tmp_path, pid=ended.pid)
    inside, most, lock = [0], [0], threading.Lock()

    def take():
        with owned(tmp_path, "x", wait=math.inf):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.02)
            with lock:
                inside[0] -= 1

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), owned(tmp_path / "file", "x"):
        pass
