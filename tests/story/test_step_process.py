"""A step of the story ends with the driver, however that ends, and so do the processes that the step started.

Claim: a story that is stopped or killed, also with SIGKILL, leaves no process behind.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.story import step_process
from benchmarks.story.step_process import measured

pytestmark = pytest.mark.subprocess
ROOT = Path(__file__).parents[2]

# A step that starts a process of its own, says which both are, and waits.
STEP = """
import json, os, pathlib, subprocess, sys, time
child = subprocess.Popen(["sleep", "300"])
at = pathlib.Path({at!r})
at.with_suffix(".new").write_text(json.dumps([os.getpid(), child.pid]))
at.with_suffix(".new").rename(at)
{more}
time.sleep(300)
"""
DRIVER = """
import sys
import benchmarks.story.__main__ as story
from benchmarks.story.steps import Step
story.steps = lambda *_: [Step("one", "One", lambda at: ["timeit", "-n1", "-r1", {step!r}], ())]
sys.exit(story.main(["--output={folder}"]))
"""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def start(folder: Path) -> subprocess.Popen:
    code = DRIVER.format(step=STEP.format(at=str(folder / "pids.json"), more=""), folder=folder)
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_the_step_ends_with_the_driver(tmp_path, number):
    driver = start(tmp_path)
    try:
        wait_for((tmp_path / "pids.json").exists)
        pids = json.loads((tmp_path / "pids.json").read_text())
        assert not any(map(gone, pids))
        if number == signal.SIGTERM:  # a second start at once
            other = start(tmp_path)
            _, said = other.communicate(timeout=150)
            assert other.returncode == 2 and said.count("\n") == 1
            assert f"error: the story in {tmp_path} is being worked on by process {driver.pid} on" in said
        driver.send_signal(number)
        _, said = driver.communicate(timeout=150)
        wait_for(lambda: all(map(gone, pids)))
    finally:
        driver.kill()
    if number == signal.SIGKILL:
        assert driver.returncode == -number
    else:
        assert driver.returncode == 128 + number
        assert said == "stopped: start the story again, and it goes on here\n"
    assert "finished" not in json.loads((tmp_path / "steps" / "one.json").read_text())


def test_a_step_that_does_not_listen_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(step_process, "GRACE_SECONDS", 1)
    at = tmp_path / "pids.json"
    code = STEP.format(
        at=str(at), more="import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.kill(os.getppid(), 10)"
    )

    class Stop(BaseException):
        pass

    def stop(*_):
        raise Stop

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises(Stop):
            measured(["timeit", "-n1", "-r1", code], tmp_path / "log", ROOT)
    finally:
        signal.signal(signal.SIGUSR1, before)
    wait_for(lambda: all(map(gone, json.loads(at.read_text()))))


def test_what_a_step_leaves_running_does_not_outlive_it(tmp_path):
    at = tmp_path / "pids.json"
    status, cost = measured(
        ["timeit", "-n1", "-r1", STEP.format(at=str(at), more="os._exit(3)")], tmp_path / "log", ROOT
    )
    assert status == 3 and cost["seconds"] > 0 and cost["peak_mib"] > 1
    wait_for(lambda: all(map(gone, json.loads(at.read_text()))))
    assert os.path.exists(tmp_path / "log")
