"""The means of this machine that can fence a program in, and the command line of each."""

import functools
import itertools
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources

from dots_jax.config import UserError
from dots_jax.sandbox.limits import Limits

SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/etc/alternatives", "/etc/ld.so.cache",
          "/etc/localtime", "/etc/ssl")  # fmt: skip
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",  # an order of sets that no run changes
    "PYTHONDONTWRITEBYTECODE": "1",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",  # threads count as processes
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
REFUSED = (
    "This machine has no sandbox for the code that a model writes ({why}): install bubblewrap, allow user namespaces, or "
    "accept the risk with --unsafe_code."
)
_numbers = itertools.count()


def guest(name: str) -> str:
    """The text of a program that runs inside."""
    return resources.files("dots_jax.sandbox.guest").joinpath(f"{name}.py").read_text(encoding="utf-8")


@functools.cache
def choose(unsafe_code: bool = False, python: str = sys.executable) -> str:
    """`bubblewrap`, `namespaces`, or with unsafe_code `none`, after a program has run in it here.

    Raises:
      UserError: this machine refuses both, and unsafe_code is false.
    """
    reasons = []
    for means in ("bubblewrap", "namespaces"):
        why = _trial(means, python)
        if why is None:
            return means
        reasons.append(f"{means}: {why}")
    if unsafe_code:
        return "none"
    raise UserError(REFUSED.format(why="; ".join(reasons)))


def _trial(means: str, python: str) -> str | None:
    """Why it does not work here, or None."""
    if means == "bubblewrap" and shutil.which("bwrap") is None:
        return "not installed"
    words = command(means, ["-", "print('inside')"], Limits(), python)
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=60, env=ENVIRONMENT, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0 and done.stdout == "inside\n":
        return None
    return (done.stderr.strip().splitlines() or ["no reason given"])[-1][:200]


def command(means: str, program: Sequence[str], limits: Limits, python: str = sys.executable) -> list[str]:
    """The words that start a program. program: a command, or `-` and the text of a Python program and its arguments."""
    root = os.getuid() == 0 and means != "none"
    # Each sandbox of root has a user of its own: the kernel counts processes by user.
    uid = 100_000_000 + (os.getpid() * 1009 + next(_numbers)) % 900_000_000 if root else None
    settings = json.loads(limits.for_guest(uid)) | {"count_processes": means != "none" and _counts_by_namespace(root)}
    inner = [python, "-P", "-s", "-c", guest("start"), json.dumps(settings), *program]
    if means == "bubblewrap":
        return [*_bubblewrap(limits, python, root), *inner]
    if means == "namespaces":
        folders, links = _visible(python)
        about = json.dumps({"folders": folders, "links": links, "scratch_bytes": limits.file_bytes})
        return [python, "-I", "-S", "-c", guest("launcher"), about, *inner]
    return inner


def _counts_by_namespace(root: bool) -> bool:
    """Before Linux 5.14 the kernel counts all processes of a user, also those outside."""
    return root or tuple(map(int, platform.release().split(".")[:2])) >= (5, 14)


def _bubblewrap(limits: Limits, python: str, root: bool) -> list[str]:
    size = str(limits.file_bytes)
    words = ["bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    words += ["--die-with-parent", "--new-session", "--hostname", "sandbox", "--cap-drop", "ALL"]
    # Root makes its mounts as root, for folders that only root can read, and start.py gives it up.
    words += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if root else ["--unshare-user"]
    folders, links = _visible(python)
    parents = {str(parent) for folder in folders for parent in pathlib.PurePath(folder).parents}
    for parent in sorted(parents - {"/", *folders}):
        words += ["--perms", "0755", "--dir", parent]
    for folder in folders:
        words += ["--ro-bind", folder, folder]
    for link, target in links.items():
        words += ["--symlink", target, link]
    words += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", size, "--tmpfs", "/dev/shm"]
    words += [
        "--remount-ro",
        "/dev",
        "--perms",
        "1777",
        "--size",
        size,
        "--tmpfs",
        "/tmp",
        "--chdir",
        "/tmp",
        "--remount-ro",
        "/",
    ]
    return [*words, "--"]


def _visible(python: str) -> tuple[list[str], dict[str, str]]:
    """Folders that programs may read, and symbolic links at the root: the system's, and those of Python."""
    links = {path: os.readlink(path) for path in SYSTEM if os.path.islink(path) and os.path.dirname(path) == "/"}
    folders = [path for path in SYSTEM if os.path.exists(path) and path not in links]
    for path in _python_folders(python):
        if not any(path == folder or path.startswith(folder + "/") for folder in folders):
            folders.append(path)
    return folders, links


@functools.cache
def _python_folders(python: str) -> tuple[str, ...]:
    """Of an interpreter: where it is, and where its libraries are; a virtual environment has two such folders."""
    if python == sys.executable:
        found = {sys.prefix, sys.base_prefix}
    else:
        code = "import sys; print(sys.prefix); print(sys.base_prefix)"
        found = set(subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.split())
    found |= {os.path.realpath(folder) for folder in found}
    link = python
    while link:  # each link on the way to the interpreter
        found.add(os.path.dirname(os.path.dirname(os.path.abspath(link))))
        link = os.path.join(os.path.dirname(link), os.readlink(link)) if os.path.islink(link) else ""
    return tuple(sorted(folder for folder in found if folder not in ("/", "")))
