"""One command of the story in a process group of its own, which ends when the driver does, however that ends.

A guard, `sh`, waits in another group for the end of a pipe that the driver alone holds open. The kernel closes it with the driver,
also after SIGKILL. The guard then asks the command's group to end (SIGTERM: a training run writes its checkpoint), and after
GRACE_SECONDS ends it. The command begins once its guard is there: until then it waits for a line of the driver.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

GRACE_SECONDS = 20
_BEGIN = 'read -r _ && exec "$@" </dev/null'
# $1: the group, $2: seconds. `read` returns at the end of the pipe.
_GUARD = """read -r _
kill -s TERM -- "-$1" 2>/dev/null || exit 0
left=$2
while [ "$left" -gt 0 ] && kill -s 0 -- "-$1" 2>/dev/null; do sleep 1; left=$((left - 1)); done
kill -s KILL -- "-$1" 2>/dev/null
exit 0
"""


def measured(command: Sequence[str], log: Path, folder: Path) -> tuple[int, dict]:
    """Runs `python -m COMMAND` in `folder`, its output at the end of `log`.

    Returns the exit status (negative: the signal that ended it), and seconds, core-seconds and the largest process, of the
    command and of those that it started. Interrupted, it ends the command first.
    """
    started = time.monotonic()
    with open(log, "a") as file:
        process = subprocess.Popen(
            ["sh", "-c", _BEGIN, "sh", sys.executable, "-m", *command],
            cwd=folder, stdin=subprocess.PIPE, stdout=file, stderr=file, process_group=0,
        )  # fmt: skip
        assert process.stdin
        with process.stdin, _guarded(process.pid):
            process.stdin.write(b"\n")
            process.stdin.close()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, {
        "seconds": time.monotonic() - started,
        "core_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": used.ru_maxrss / 1024,
    }


@contextlib.contextmanager
def _guarded(group: int) -> Iterator[None]:
    """The group ends with the block where an exception leaves it, and with this process."""
    guard = subprocess.Popen(
        ["sh", "-c", _GUARD, "sh", str(group), str(GRACE_SECONDS)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0,
    )  # fmt: skip
    assert guard.stdin
    try:
        yield
    except BaseException:
        guard.stdin.close()
        while guard.poll() is None:  # the command is this process's child: only a wait takes it away once it has ended
            _reap(group, os.WNOHANG)
            time.sleep(0.05)
        _reap(group, 0)
        raise
    # The command has ended; what it may have left behind does not outlive its step.
    guard.stdin.close()
    guard.wait()


def _reap(process: int, how: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, how)
