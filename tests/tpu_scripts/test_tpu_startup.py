"""tpu_scripts/startup.sh on this machine: alone, and as the two workers of a pod that train on the CPU."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pod_scripts import STARTUP, commit, run
from processes import MESH, free_port
from session import compiler_flags


class Worker:
    """startup.sh as one worker of a pod, on the CPU, with a machine's worth of folders of its own."""

    def __init__(self, folder: Path, env: dict[str, str], config: dict[str, str]):
        self.root, self.process = folder, None
        folder.mkdir()
        (folder / "given.env").write_text("".join(f"{name}={value}\n" for name, value in config.items()))
        self.env = {
            **os.environ, "DOTS_PLATFORM": "cpu", "DOTS_ROOT": str(folder), "DOTS_POD_ENV": str(folder / "given.env"),
            "DOTS_RETRY_SECONDS": "1", **env,
        }  # fmt: skip

    def boot(self, *words: str) -> subprocess.Popen:
        self.process = subprocess.Popen(
            ["bash", STARTUP, *words], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        return self.process

    def run(self, *words: str):
        return run("bash", STARTUP, *words, env=self.env)

    def preempt(self):
        """The machine is gone, with all that ran on it."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def state(self) -> str:
        return self.run("state").stdout

    def log(self) -> str:
        path = self.root / "train.log"
        return path.read_text() if path.exists() else ""


def wait_for(condition, seconds=200):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


TRAINING = """
import os, pathlib, signal, sys, time
count = pathlib.Path('count')
n = len(count.read_text()) if count.exists() else 0
count.write_text('x' * (n + 1))
"""
UNTIL_SIGTERM = """
signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(75)))
print('ready', flush=True)
time.sleep(60)
"""


def worker_of(folder: Path, script: str, **config) -> Worker:
    """A worker whose training is this script, which counts its starts in n."""
    source = folder / "source"
    (source / "dots_jax").mkdir(parents=True)
    (source / "dots_jax" / "train.py").write_text(TRAINING + script)
    settings = {
        "REPO": source, "PYTHON": sys.executable, "GIN_FILES": "('a b.gin' c.gin)", "WORKDIR": "w", "DEVICES": "8", **config,
    }  # fmt: skip
    return Worker(folder / "root", {}, {k: str(v) for k, v in settings.items()})


@pytest.mark.subprocess
def test_the_command_line_of_the_training(tmp_path):
    worker = worker_of(tmp_path, "print(sys.argv[1:], os.environ['JAX_PLATFORMS'])", GIN_BINDINGS="(\"A.b = 'c d'\")")
    out, _ = worker.boot().communicate(timeout=30)
    assert worker.process.returncode == 0
    expected = ["--gin_file=a b.gin", "--gin_file=c.gin", "--gin_bindings=A.b = 'c d'", "--workdir=w", "--distributed=auto",
                "--devices=cpu:8", "--exit_codes"]  # fmt: skip
    assert f"{expected} cpu" in worker.log()
    assert " finished | " in worker.state()


@pytest.mark.subprocess
def test_what_can_pass_is_tried_again_and_what_cannot_is_not(tmp_path):
    worker = worker_of(tmp_path, "print('trying'); sys.exit([1, 75, 134, 2][n])")
    worker.boot().communicate(timeout=60)
    assert worker.process.returncode == 2
    log = worker.log()
    assert log.count("trying") == 4
    assert "exit status 75; starting again in 1 s" in log and "exit status 134; starting again in 1 s" in log
    assert "stopped: exit status 2" in worker.state()


@pytest.mark.subprocess
def test_it_stops_trying(tmp_path):
    worker = worker_of(tmp_path, "sys.exit(1)", MAX_FAILURES=1)
    worker.boot().communicate(timeout=60)
    assert worker.process.returncode == 2 and "failed 1 times in a row" in worker.state()


@pytest.mark.subprocess
def test_one_training_a_worker_and_stop(tmp_path):
    worker = worker_of(tmp_path, UNTIL_SIGTERM)
    first = worker.boot()
    wait_for(lambda: "ready" in worker.log())
    second = worker.run("launch")
    assert second.returncode == 0 and "left alone" in second.stdout
    assert (worker.root.parent / "source" / "count").read_text() == "x"
    assert " training | ready" in worker.state()
    assert worker.run("stop").returncode == 0
    assert first.wait(timeout=20) == 0 and "saved" in worker.log()
    assert "stopped: asked to, exit status 75" in worker.state()
    worker.boot()
    wait_for(lambda: worker.log().count("ready") == 2)
    worker.preempt()
    assert "dead: nothing is running" in worker.state()


def test_no_tpu_no_training(tmp_path):
    """Without DOTS_PLATFORM=cpu this machine's CPU is refused, before anything is trained."""
    if any(Path("/dev").glob("accel*")) or any(Path("/dev/vfio").glob("[0-9]*")):
        pytest.skip("this machine may have a TPU")
    worker = worker_of(tmp_path, "print('trained')")
    del worker.env["DOTS_PLATFORM"]
    done = worker.run()
    assert done.returncode == 2 and "has no TPU chips" in done.stderr and "refusing to train on its CPU" in done.stderr
    assert worker.log() == ""


@pytest.mark.subprocess
def test_the_code_is_fetched_and_updated(tmp_path):
    """From git, at the commit that `pod` pinned; what git ignores stays."""
    repo = tmp_path / "repo"
    run("git", "init", "--quiet", "--initial-branch=main", repo)
    first = commit(repo, "requirements.txt")
    worker = Worker(tmp_path / "root", {}, {
        "REPO": f"file://{repo}", "BRANCH": "main", "REVISION": first, "GIN_FILES": "(a.gin)", "WORKDIR": "w", "DEVICES": "8",
        "PYTHON": shutil.which("true"),
    })  # fmt: skip
    source = worker.root / "src"
    assert worker.run().returncode == 0
    assert (source / "requirements.txt").exists()
    (source / ".cache").mkdir()
    second = commit(repo, "new.txt")
    assert worker.run().returncode == 0
    assert not (source / "new.txt").exists()
    given = worker.root / "given.env"
    given.write_text(given.read_text().replace(first, second))
    assert worker.run().returncode == 0
    assert (source / "new.txt").exists() and (source / ".cache").exists()


@pytest.fixture
def pod(workdir, tmp_path, repo_root):
    """Two workers with empty disks, who train the small run together."""
    made = []

    def make(*bindings):
        address, numbers = f"127.0.0.1:{free_port()}", range(len(made), len(made) + 2)
        workers = [
            Worker(tmp_path / f"machine{number}", {
                **workdir._env, "XLA_FLAGS": compiler_flags(4), "CUDA_VISIBLE_DEVICES": "",
                "PYTHONPATH": str(Path(__file__).parents[1]), "DOTS_DISTRIBUTED": f"{address},{process},2",
            }, {
                "REPO": repo_root, "PYTHON": sys.executable, "DEVICES": "8", "WORKDIR": workdir.path,
                "GIN_FILES": f"({workdir.gin})",
                "GIN_BINDINGS": "(" + " ".join(f'"{binding}"' for binding in (*MESH, *bindings)) + ")",
            })
            for process, number in enumerate(numbers)
        ]  # fmt: skip
        made.extend(workers)
        return workers

    yield make
    for worker in made:
        if worker.process and worker.process.poll() is None:
            worker.preempt()


def saved(workdir) -> int:
    """The newest checkpoint's step; 0 where there is none."""
    return max(workdir.steps(), default=0) if (workdir.path / "checkpoints").exists() else 0


@pytest.mark.subprocess
@pytest.mark.slow
def test_two_workers_are_preempted_and_go_on(workdir, pod):
    """Killed without a warning, made again with empty disks: the run goes on from the checkpoint and is complete.

    Claim: workers of a pod that are killed, lost or shut down resume from the checkpoint.
    """
    workers = pod()
    for worker in workers:
        worker.boot()
    wait_for(lambda: saved(workdir) >= 5)
    for worker in workers:
        worker.preempt()
    step = saved(workdir)
    assert step < 40

    workers = pod()
    for worker in workers:
        worker.boot()
    for worker in workers:
        worker.process.communicate(timeout=300)
    assert [worker.process.returncode for worker in workers] == [0, 0], workers[0].log() + workers[1].log()
    assert f"resuming    after step {step} " in workers[0].log()
    assert all(" finished | " in worker.state() for worker in workers)
    assert saved(workdir) == 40
    assert [row["step"] for row in workdir.rows()] == list(range(1, 41))


@pytest.mark.subprocess
@pytest.mark.slow
def test_a_worker_is_lost_and_one_is_asked_to_stop(workdir, pod):
    """The other waits and goes on with it, both times: after a machine died, and after one was shut down in good order."""
    first, second = pod("stable/Stage.tokens = 302_592")  # ten times the steps
    first.boot()
    second.boot()
    wait_for(lambda: saved(workdir) >= 5)
    second.preempt()
    wait_for(lambda: "starting again in" in first.log(), seconds=240)
    assert "exit status 2" not in first.log()
    before = saved(workdir)
    second.boot()
    wait_for(lambda: saved(workdir) > before, seconds=240)

    assert second.run("stop").returncode == 0
    assert "stopped: asked to, exit status 75" in second.state()
    wait_for(lambda: "exit status 75; starting again in 1 s" in first.log())
    before = saved(workdir)
    second.boot()
    wait_for(lambda: saved(workdir) > before, seconds=240)
    assert first.process.poll() is None and second.process.poll() is None
