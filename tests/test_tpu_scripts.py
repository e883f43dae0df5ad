"""The pod scripts without a cloud: `pod` against a fake gcloud, and startup.sh as two workers on this machine's CPU."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_multiprocess import MESH, free_port

SCRIPTS = Path(__file__).parents[1] / "tpu_scripts"
STARTUP = SCRIPTS / "startup.sh"


def run(*command, env=None, **keywords):
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})}, **keywords
    )


def test_shellcheck():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not shellcheck:
        pytest.skip("needs shellcheck")
    done = run(shellcheck, "-x", *sorted(SCRIPTS.iterdir()), cwd=SCRIPTS.parent)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", ["pod", "startup.sh", "pod.env.example"])
def test_bash_can_read_it(script):
    assert run("bash", "-n", SCRIPTS / script).returncode == 0


# --- pod, in front of a fake cloud ------------------------------------------------------------------------------------


class Cloud:
    """A fake cloud, a pod.env, and `pod` in front of them."""

    def __init__(self, folder: Path):
        self.folder, self.config = folder, folder / "pod.env"
        (folder / "bin").mkdir()
        gcloud = folder / "bin" / "gcloud"
        gcloud.write_text(f"#!/bin/sh\nexec {sys.executable} -S {Path(__file__).with_name('fake_gcloud.py')} \"$@\"\n")
        gcloud.chmod(0o755)
        self.now(state="ABSENT", nodes={"dots": ["READY", 2]})
        self.repo = folder / "repo"
        git = ["git", "-C", self.repo, "-c", "user.name=a", "-c", "user.email=a@b"]
        run("git", "init", "--quiet", "--initial-branch=main", self.repo)
        (self.repo / "requirements.txt").write_text("")
        (self.repo / "requirements-tpu.txt").write_text("")
        run(*git, "add", ".")
        assert run(*git, "commit", "--quiet", "-m", "first").returncode == 0
        self.commit = run(*git, "rev-parse", "HEAD").stdout.strip()
        self.example = (SCRIPTS / "pod.env.example").read_text()
        self.configure()

    def configure(self, **values):
        values = {"REPO": f"file://{self.repo}", **values}
        lines = [line for line in self.example.splitlines() if line.split("=")[0] not in values]
        self.config.write_text("\n".join(lines + [f"{name}={value}" for name, value in values.items()]) + "\n")

    def now(self, **cloud):
        (self.folder / "cloud.json").write_text(json.dumps(cloud))

    def pod(self, *arguments, **env):
        self.forget_calls()
        env = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "FAKE_CLOUD": self.folder, "POD_WATCH_SECONDS": "0.05",
            "POD_TIMEOUT": "20", "POD_SSH_TIMEOUT": "20", **env,
        }  # fmt: skip
        return run(SCRIPTS / "pod", f"--config={self.config}", *arguments, env={k: str(v) for k, v in env.items()})

    def forget_calls(self):
        (self.folder / "calls").write_text("")

    def calls(self) -> list[str]:
        """What gcloud was asked for, in short, without the questions about states."""
        every = [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]
        assert all({"--project=my-project", "--zone=us-east5-a", "--quiet"} <= set(call) for call in every)
        return [" ".join(call[3:5]) for call in every if call[3] != "describe"]

    def call(self, command: str) -> list[str]:
        for line in (self.folder / "calls").read_text().splitlines():
            if json.loads(line)[3] == command:
                return json.loads(line)
        raise AssertionError(f"gcloud was not asked to {command}")


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def test_create_asks_once(cloud):
    done = cloud.pod("create")
    assert done.returncode == 0, done.stderr
    assert "8 chip-hours for each hour" in done.stdout
    call = cloud.call("create")
    for flag in ("--node-id=dots", "--accelerator-type=v5litepod-8", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"):
        assert flag in call
    assert not any(flag.startswith(("--reserved", "--node-count")) for flag in call)
    (metadata,) = [flag for flag in call if flag.startswith("--metadata-from-file=")]
    assert metadata.startswith(f"--metadata-from-file=startup-script={STARTUP},dots-pod-env=")
    sent = (cloud.folder / "sent.env").read_text()
    assert sent.startswith(cloud.config.read_text()) and f"DEVICES=8\nREVISION={cloud.commit}\n" in sent
    done = cloud.pod("create")
    assert done.returncode == 0 and "is there already, ACTIVE" in done.stdout
    assert cloud.calls() == []


@pytest.mark.parametrize("kind, slices, devices", [("v5p-256", 1, 128), ("v5p-256", 3, 384), ("v6e-256", 2, 512), ("v4-8", 1, 4)])
def test_slices_and_devices(cloud, kind, slices, devices):
    cloud.configure(ACCELERATOR_TYPE=kind, SLICES=slices, SPOT="false", RESERVED="true", EXTRA_CREATE_FLAGS="(--network=n --tags=a,b)")
    assert cloud.pod("create").returncode == 0
    call = cloud.call("create")
    nodes = {f"--node-count={slices}", "--node-prefix=dots"} if slices > 1 else {"--node-id=dots"}
    assert nodes | {"--reserved", "--network=n", "--tags=a,b"} <= set(call) and "--spot" not in call
    assert f"DEVICES={devices}\n" in (cloud.folder / "sent.env").read_text()


def test_a_preempted_request_is_made_again(cloud):
    cloud.now(state="SUSPENDED", nodes={"dots": ["PREEMPTED", 2]})
    assert cloud.pod("create").returncode == 0
    assert cloud.calls() == ["delete dots", "create dots"]
    assert "--force" in cloud.call("delete")


def test_watch_asks_again_after_every_preemption(cloud):
    states = ["ABSENT", "WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED", "PROVISIONING", "SUSPENDED", "ACTIVE", "ABSENT"]  # fmt: skip
    cloud.now(state=states, nodes={"dots": ["READY", 2]})
    done = cloud.pod("create", "--watch")
    assert done.returncode == 0, done.stderr
    assert cloud.calls() == ["create dots"] + ["delete dots", "create dots"] * 2
    told = [line.split(" is ")[1] for line in done.stdout.splitlines() if line[9:].startswith("dots is ")]
    assert told[:4] == ["WAITING_FOR_RESOURCES", "ACTIVE", "SUSPENDING", "SUSPENDED"]
    assert "it was deleted" in done.stdout.splitlines()[-1]


def test_watch_sees_a_slice_that_is_gone_though_the_request_is_active(cloud):
    cloud.now(state=["ACTIVE", "ACTIVE", "ABSENT"], nodes={"dots": ["PREEMPTED", 2]})
    assert cloud.pod("create", "--watch").returncode == 0
    assert cloud.calls() == ["delete dots", "create dots"]


def test_watch_stops_at_a_failed_request(cloud):
    cloud.now(state=["PROVISIONING", "FAILED"], nodes={})
    done = cloud.pod("create", "--watch")
    assert done.returncode == 2 and "the request failed" in done.stderr
    assert cloud.calls() == []


def test_status_names_the_lost_worker(cloud):
    cloud.configure(SLICES=2)
    cloud.now(state="ACTIVE", nodes={"dots-0": ["READY", 2], "dots-1": ["READY", 2]}, lost=["1.0"], hang=["0.1"])
    begun = time.monotonic()
    done = cloud.pod("status", POD_SSH_TIMEOUT=2)
    assert time.monotonic() - begun < 20
    assert done.returncode == 1
    assert "lost: worker 1 of dots-0, worker 0 of dots-1." in done.stderr
    assert "worker 0: 2026-01-01T00:00:00Z training | step 0.0" in done.stdout
    assert "worker 1: LOST (gcloud did not answer within 2 s" in done.stdout
    assert "worker 0: LOST (ERROR: (gcloud.compute.tpus.queued-resources.ssh) ssh: connect" in done.stdout
    assert "step 1.1" in done.stdout


def test_status_of_what_is_not_there_yet_or_half_gone(cloud):
    for state in ("ABSENT", "WAITING_FOR_RESOURCES"):
        cloud.now(state=state, nodes={})
        done = cloud.pod("status")
        assert (done.returncode, cloud.calls()) == (0, []) and f"dots: {state} (1 x v5litepod-8, 8 chips)" in done.stdout
    cloud.configure(SLICES=2)
    cloud.now(state="ACTIVE", nodes={"dots-0": ["READY", 1]})
    done = cloud.pod("status")
    assert done.returncode == 1 and "lost: dots-1." in done.stderr


@pytest.mark.parametrize("arguments, words", [
    (["launch"], "startup.sh launch"), (["launch", "--restart"], "startup.sh launch --restart"), (["setup"], "startup.sh setup"),
])  # fmt: skip
def test_launch_and_setup_send_the_config_to_all(cloud, arguments, words):
    cloud.configure(SLICES=2)
    cloud.now(state="ACTIVE", nodes={"dots-0": ["READY", 2], "dots-1": ["READY", 2]})
    done = cloud.pod(*arguments)
    assert done.returncode == 0, done.stderr
    assert cloud.calls() == ["update dots-0", "update dots-1", "ssh dots"]
    call = cloud.call("ssh")
    assert {"--node=all", "--worker=all"} <= set(call)
    (command,) = [flag for flag in call if flag.startswith("--command=")]
    assert command.endswith(words)
    assert f"REVISION={cloud.commit}" in (cloud.folder / "sent.env").read_text()


def test_launch_names_the_worker_that_failed(cloud):
    cloud.now(state="ACTIVE", nodes={"dots": ["READY", 3]}, lost=["0.2"])
    done = cloud.pod("launch")
    assert done.returncode == 1 and "lost: worker 2 of dots." in done.stderr


@pytest.mark.parametrize("command", ["launch", "setup", "logs"])
def test_no_workers_yet(cloud, command):
    cloud.now(state="PROVISIONING", nodes={})
    done = cloud.pod(command)
    assert done.returncode == 2 and "dots is PROVISIONING, not ACTIVE" in done.stderr
    assert cloud.calls() == []


def test_logs(cloud):
    cloud.now(state="ACTIVE", nodes={"dots": ["READY", 2]})
    done = cloud.pod("logs", "--lines=7")
    assert done.returncode == 0 and "step all.all" in done.stdout
    assert "--command=sudo bash /opt/dots/startup.sh log 7" in cloud.call("ssh")


def test_delete(cloud):
    cloud.now(state="ACTIVE", nodes={"dots": ["READY", 2]}, lost=["0.1"])
    done = cloud.pod("delete")  # a checkpoint that cannot be saved must not keep the pod, which costs
    assert done.returncode == 0 and "not every worker could save" in done.stdout and "is deleted" in done.stdout
    assert cloud.calls() == ["ssh dots", "delete dots"]
    done = cloud.pod("delete")
    assert done.returncode == 0 and "nothing to delete" in done.stdout
    assert cloud.calls() == []
    cloud.now(state="ACTIVE", nodes={}, fail={"delete": "PERMISSION_DENIED"})
    done = cloud.pod("delete", "--now")
    assert done.returncode == 2 and "NOT deleted and still costs" in done.stderr
    assert cloud.calls() == ["delete dots"]


def test_a_cloud_that_fails_or_hangs(cloud):
    cloud.now(state="ABSENT", nodes={}, fail={"create": "RESOURCE_EXHAUSTED: Quota 'TPUV5' exceeded"})
    done = cloud.pod("create")
    assert done.returncode == 2 and "Quota" in done.stderr and "was refused" in done.stderr
    cloud.now(state="ABSENT", nodes={}, fail={"describe": "UNAUTHENTICATED: log in"})
    done = cloud.pod("create")
    assert done.returncode == 1 and "cannot say how dots is: ERROR" in done.stderr and "log in" in done.stderr
    assert cloud.calls() == []
    cloud.now(state="ABSENT", nodes={}, hang_on=["describe"])
    done = cloud.pod("delete", POD_TIMEOUT=1)
    assert done.returncode == 1 and "gcloud did not answer within 1 s" in done.stderr


@pytest.mark.parametrize("arguments", [["create", "--watch"], ["setup"], ["launch", "--restart"], ["logs"], ["status"], ["delete"]])
def test_dry_run_calls_nothing(cloud, arguments):
    cloud.configure(SLICES=2)
    done = cloud.pod(*arguments, "--dry_run")
    assert done.returncode == 0, done.stderr
    assert (cloud.folder / "calls").read_text() == ""
    lines = done.stdout.splitlines()
    assert all(line.startswith(("+ gcloud compute tpus ", "+ git ls-remote ", "# ")) for line in lines)
    assert sum(line.startswith("+ gcloud") for line in lines) >= 2


@pytest.mark.parametrize("values, words", [
    ({"WORKDIR": "runs/tiny"}, "WORKDIR must be in a bucket"), ({"RESERVED": "true"}, "spot or reserved, not both"),
    ({"ACCELERATOR_TYPE": "tpu7x-128"}, "needs GKE"), ({"ACCELERATOR_TYPE": "v9-8"}, "set DEVICES"), ({"SLICES": "two"}, "SLICES"),
    ({"GIN_FILES": "()"}, "GIN_FILES is empty"), ({"PROJECT": ""}, "PROJECT is empty"), ({"BRANCH": "none"}, "git finds no none"),
])  # fmt: skip
def test_a_config_that_cannot_be(cloud, values, words):
    cloud.configure(**values)
    done = cloud.pod("create")
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: ") and words in done.stderr
    assert cloud.calls() == []


def test_a_command_line_that_cannot_be(cloud):
    for arguments, words in [
        ([], "say what to do"), (["destroy"], "no command destroy"), (["delete", "create"], "one command at a time"),
        (["create", "--wacth"], "no flag --wacth"), (["logs", "--lines=x"], "--lines must be a number"),
    ]:  # fmt: skip
        done = cloud.pod(*arguments)
        assert done.returncode == 2 and words in done.stderr
    assert "pod create [--watch]" in cloud.pod("--help").stdout


# --- startup.sh, on this machine --------------------------------------------------------------------------------------


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


TRAINING = "import os, pathlib, sys, time\ncount = pathlib.Path('count')\nn = len(count.read_text()) if count.exists() else 0\ncount.write_text('x' * (n + 1))\n"  # fmt: skip


def worker_of(folder: Path, script: str, **config) -> Worker:
    """A worker whose training is this script, which counts its starts in n."""
    source = folder / "source"
    (source / "dots_jax").mkdir(parents=True)
    (source / "dots_jax" / "train.py").write_text(TRAINING + script)
    settings = {"REPO": source, "PYTHON": sys.executable, "GIN_FILES": "('a b.gin' c.gin)", "WORKDIR": "w", "DEVICES": "8", **config}
    return Worker(folder / "root", {}, {k: str(v) for k, v in settings.items()})


def test_the_command_line_of_the_training(tmp_path):
    worker = worker_of(tmp_path, "print(sys.argv[1:], os.environ['JAX_PLATFORMS'])", GIN_BINDINGS="(\"A.b = 'c d'\")")
    out, _ = worker.boot().communicate(timeout=30)
    assert worker.process.returncode == 0
    expected = ["--gin_file=a b.gin", "--gin_file=c.gin", "--gin_bindings=A.b = 'c d'", "--workdir=w", "--distributed=auto",
                "--devices=cpu:8", "--supervised"]  # fmt: skip
    assert f"{expected} cpu" in worker.log()
    assert " finished | " in worker.state()


def test_what_can_pass_is_tried_again_and_what_cannot_is_not(tmp_path):
    worker = worker_of(tmp_path, "print('trying'); sys.exit([1, 75, 134, 2][n])")
    worker.boot().communicate(timeout=60)
    assert worker.process.returncode == 2
    log = worker.log()
    assert log.count("trying") == 4
    assert "exit status 75; starting again in 1 s" in log and "exit status 134; starting again in 1 s" in log
    assert "stopped: exit status 2" in worker.state()


def test_it_stops_trying(tmp_path):
    worker = worker_of(tmp_path, "sys.exit(1)", MAX_FAILURES=1)
    worker.boot().communicate(timeout=60)
    assert worker.process.returncode == 2 and "failed 1 times in a row" in worker.state()


def test_one_training_a_worker_and_stop(tmp_path):
    script = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(75)))\nprint('ready', flush=True)\ntime.sleep(60)"  # fmt: skip
    worker = worker_of(tmp_path, script)
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


def test_the_code_is_fetched_and_updated(cloud):
    """From git, at the commit that `pod` pinned; what git ignores stays, and packages are installed once."""
    root = cloud.folder / "root"
    (root / "venv" / "bin").mkdir(parents=True)
    worker = Worker(cloud.folder / "worker", {"DOTS_ROOT": str(root)}, {
        "REPO": f"file://{cloud.repo}", "BRANCH": "main", "REVISION": cloud.commit, "GIN_FILES": "(a.gin)", "WORKDIR": "w", "DEVICES": "8",
        "PYTHON": shutil.which("true"), "GIN_BINDINGS": "()",
    })  # fmt: skip
    assert worker.run().returncode == 0
    assert (root / "src" / "requirements.txt").exists()
    (root / "src" / ".cache").mkdir()
    git = ["git", "-C", cloud.repo, "-c", "user.name=a", "-c", "user.email=a@b"]
    (cloud.repo / "new.txt").write_text("new")
    run(*git, "add", ".")
    run(*git, "commit", "--quiet", "-m", "second")
    assert worker.run().returncode == 0
    assert not (root / "src" / "new.txt").exists()  # pinned
    given = cloud.folder / "worker" / "given.env"
    given.write_text(given.read_text().replace(cloud.commit, run(*git, "rev-parse", "HEAD").stdout.strip()))
    assert worker.run().returncode == 0
    assert (root / "src" / "new.txt").exists() and (root / "src" / ".cache").exists()


@pytest.fixture
def pod(workdir, tmp_path, repo_root):
    """Two workers with empty disks, who train the small run together."""
    made = []

    def make(*bindings, address=f"127.0.0.1:{free_port()}"):
        numbers = range(len(made), len(made) + 2)
        workers = [
            Worker(tmp_path / f"machine{number}", {
                **workdir._env, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "CUDA_VISIBLE_DEVICES": "",
                "PYTHONPATH": str(Path(__file__).parent), "DOTS_DISTRIBUTED": f"{address},{process},2",
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


@pytest.mark.slow
def test_two_workers_are_preempted_and_go_on(workdir, pod):
    """Killed without a warning, made again with empty disks: the run goes on from the checkpoint and is complete."""
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
