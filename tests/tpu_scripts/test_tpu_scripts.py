"""tpu_scripts/pod without a cloud: against a fake gcloud that records, fails, hangs and loses workers."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
from pod_scripts import SCRIPTS, STARTUP, commit, run

pytestmark = pytest.mark.subprocess


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
        gcloud.write_text(f'#!/bin/sh\nexec {sys.executable} -S {Path(__file__).parents[1] / "fake_gcloud.py"} "$@"\n')
        gcloud.chmod(0o755)
        self.now(state="ABSENT", nodes={"dots": ["READY", 2]})
        self.repo = folder / "repo"
        run("git", "init", "--quiet", "--initial-branch=main", self.repo)
        self.commit = commit(self.repo, "requirements.txt")
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


@pytest.mark.parametrize(
    "kind, slices, devices", [("v5p-256", 1, 128), ("v5p-256", 3, 384), ("v6e-256", 2, 512), ("v4-8", 1, 4)]
)
def test_slices_and_devices(cloud, kind, slices, devices):
    more = "(--network=n --tags=a,b)"
    cloud.configure(ACCELERATOR_TYPE=kind, SLICES=slices, SPOT="false", RESERVED="true", EXTRA_CREATE_FLAGS=more)
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
    states = (
        "ABSENT WAITING_FOR_RESOURCES ACTIVE ACTIVE SUSPENDING SUSPENDED PROVISIONING SUSPENDED ACTIVE ABSENT".split()
    )
    cloud.now(state=states, nodes={"dots": ["READY", 2]})
    done = cloud.pod("create", "--watch")
    assert done.returncode == 0, done.stderr
    assert cloud.calls() == ["create dots"] + ["delete dots", "create dots"] * 2
    told = [line.split(" is ")[1] for line in done.stdout.splitlines() if line[9:].startswith("dots is ")]
    assert told[:4] == ["WAITING_FOR_RESOURCES", "ACTIVE", "SUSPENDING", "SUSPENDED"]
    assert "it was deleted" in done.stdout.splitlines()[-1]


def test_watch_sees_a_slice_that_is_gone_though_the_request_is_active(cloud):
    cloud.now(state=["ACTIVE", "ABSENT"], nodes={"dots": ["PREEMPTED", 2]})
    assert cloud.pod("create").returncode == 0
    assert cloud.calls() == ["delete dots", "create dots"]
    states = ["PROVISIONING", "ACTIVE", "ABSENT"]
    cloud.now(state=states, nodes={"dots": ["PREEMPTED", 2]})
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
        assert done.returncode == 0 and f"dots: {state} (1 x v5litepod-8, 8 chips)" in done.stdout
        assert cloud.calls() == []
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


@pytest.mark.parametrize(
    "arguments", [["create", "--watch"], ["setup"], ["launch", "--restart"], ["logs"], ["status"], ["delete"]]
)
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
    ({"GIN_FILES": "()"}, "GIN_FILES is empty"), ({"PROJECT": ""}, "PROJECT is"), ({"BRANCH": "none"}, "no branch or tag none"),
])  # fmt: skip
def test_a_config_that_cannot_be(cloud, values, words):
    cloud.configure(**values)
    done = cloud.pod("create")
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: ") and words in done.stderr
    assert cloud.calls() == []


def git(repo, *arguments: str) -> str:
    done = run("git", "-C", repo, "-c", "user.name=a", "-c", "user.email=a@b", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def sent_revision(cloud, branch: str) -> str:
    cloud.now(state="ABSENT", nodes={"dots": ["READY", 2]})
    cloud.configure(BRANCH=branch)
    done = cloud.pod("create")
    assert done.returncode == 0, done.stderr
    return (cloud.folder / "sent.env").read_text().rsplit("REVISION=", 1)[1].strip()


def test_a_branch_or_tag_becomes_the_commit_that_a_person_means(cloud):
    """Names are compared in full, an annotated tag stands for its commit, a short commit is refused."""
    first = cloud.commit
    git(cloud.repo, "branch", "a/main")  # sorts before main, and ends in it
    git(cloud.repo, "tag", "--annotate", "v1", "-m", "one")
    second = commit(cloud.repo, "more")
    assert sent_revision(cloud, "main") == second
    assert sent_revision(cloud, "a/main") == first
    assert sent_revision(cloud, "v1") == first
    assert sent_revision(cloud, "refs/tags/v1") == first
    assert sent_revision(cloud, first.upper()) == first
    git(cloud.repo, "branch", "v1")
    for branch, words in [
        ("v1", "a branch and a tag v1"), (first[:9], "all of its 40 digits"), ("-x", "must be a branch"), ("''", "must be"),
    ]:  # fmt: skip
        cloud.now(state="ABSENT", nodes={"dots": ["READY", 2]})
        cloud.configure(BRANCH=branch)
        done = cloud.pod("create")
        assert done.returncode == 2 and words in done.stderr, done.stderr
        assert cloud.calls() == []


def test_a_config_from_an_editor_of_windows(cloud):
    cloud.config.write_bytes(b"\xef\xbb\xbf" + cloud.config.read_bytes().replace(b"\n", b"\r\n"))
    done = cloud.pod("create")
    assert done.returncode == 0, done.stderr
    sent = (cloud.folder / "sent.env").read_bytes()
    assert b"\r" not in sent and not sent.startswith(b"\xef") and b"\nPROJECT=my-project\n" in sent
    assert all("\r" not in word for word in cloud.call("create"))


def test_a_command_line_that_cannot_be(cloud):
    for arguments, words in [
        ([], "say what to do"), (["destroy"], "no command destroy"), (["delete", "create"], "one command at a time"),
        (["create", "--wacth"], "no flag --wacth"), (["logs", "--lines=x"], "--lines must be a number"),
    ]:  # fmt: skip
        done = cloud.pod(*arguments)
        assert done.returncode == 2 and words in done.stderr
    assert "pod create [--watch]" in cloud.pod("--help").stdout
