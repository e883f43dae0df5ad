"""The scripts for pods as commands, and a git repository for them to fetch."""

import os
import subprocess
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "tpu_scripts"
STARTUP = SCRIPTS / "startup.sh"


def run(*command, env=None, **keywords):
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=60, env={**os.environ, **(env or {})}, **keywords
    )  # fmt: skip


def commit(repo: Path, name: str) -> str:
    """Adds a file to a git repository; returns the commit."""
    git = ("git", "-C", repo, "-c", "user.name=a", "-c", "user.email=a@b")
    (repo / name).write_text("")
    run(*git, "add", ".")
    assert run(*git, "commit", "--quiet", "-m", name).returncode == 0
    return run(*git, "rev-parse", "HEAD").stdout.strip()
