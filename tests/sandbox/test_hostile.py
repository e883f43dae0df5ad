"""Hostile programs, as root and as an ordinary user, all at once.

Claim: 25 hostile programs at once each get their verdict, none passes, none touches the host, and nothing of them stays alive.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
from hostile import HOSTILE, TESTS, host

from dots_jax.config import UserError
from dots_jax.sandbox import fences
from dots_jax.sandbox.check import ScriptTests, check
from dots_jax.sandbox.run import Sandbox, open_sandbox

pytestmark = pytest.mark.subprocess
NOBODY = 65534
LIMITED = {"sleep": "timeout", "swallowed alarm": "timeout", "endless output": "timeout"}


def works(means: str) -> bool:
    return fences._trial(means, sys.executable) is None


def readable_by_all(path: str) -> bool:
    folders = [path, *(os.path.dirname(path[: n + 1]) for n, letter in enumerate(path) if letter == "/" and n)]
    return all(os.stat(folder).st_mode & 0o005 == 0o005 for folder in folders if folder)


@pytest.mark.parametrize("user", ["self", "nobody"])
@pytest.mark.parametrize("means", ["bubblewrap", "namespaces"])
def test_none_passes_and_nothing_is_touched(repo_root, means, user):
    if not works(means):
        pytest.skip(f"{means} does not work on this machine")
    python, becomes = sys.executable, {}
    if user == "nobody":
        if os.getuid() != 0:
            pytest.skip("only root can become another user; the test of this user covers an ordinary one")
        python = next(
            (
                p
                for p in (python, shutil.which("python3", path="/usr/bin"))
                if p and readable_by_all(os.path.realpath(p))
            ),
            None,
        )
        if python is None or not readable_by_all(str(repo_root)):
            pytest.skip("no Python of this machine, or not this checkout, can be read by another user")
        becomes = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    done = subprocess.run(
        [python, "tests/sandbox/hostile.py", means], cwd=repo_root, capture_output=True, text=True, timeout=60,
        env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}, **becomes,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    verdicts = json.loads(done.stdout)
    assert verdicts.keys() == HOSTILE.keys()
    for name, (status, seconds, _) in verdicts.items():
        assert status in ("failed", "timeout", "memory", "processes", "output"), (name, status)
        assert status == LIMITED.get(name, status), (name, status)
        assert seconds < 10 + 5, (name, seconds)  # its wall limit, and 25 at once on two cores


def test_the_same_programs_succeed_without_a_sandbox():
    """So that the test above tests something."""
    with pytest.raises(AssertionError, match="socket of the host"), host() as words:
        for name in ("files of the parent", "socket"):
            text = HOSTILE[name].replace("{folder!r}", repr(words["folder"])).replace("{port}", str(words["port"]))
            assert check(Sandbox("none"), text, ScriptTests(code=TESTS, entry_point="f")).passed, name


def test_a_machine_that_refuses_says_so_in_one_sentence(monkeypatch):
    fences.choose.cache_clear()
    monkeypatch.setattr(fences, "_trial", lambda means, python: "Operation not permitted")
    with pytest.raises(
        UserError, match="no sandbox for the code that a model writes .*Operation not permitted.*--unsafe_code"
    ):
        open_sandbox()
    assert open_sandbox(unsafe_code=True).means == "none"
    fences.choose.cache_clear()
