"""Processes below one process: what they use, and their end. Reads /proc, as Linux has it."""

import contextlib
import dataclasses
import os
import signal
import time

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclasses.dataclass
class Usage:
    """Sums over a process and all that it started, also those whose parent has ended."""

    processes: int = 0  # with threads
    memory_bytes: int = 0  # resident
    cpu_seconds: float = 0.0  # also of ended processes that were waited for
    pids: list[int] = dataclasses.field(default_factory=list)


def usage(roots: list[int]) -> Usage:
    """Process 1 of a pid namespace adopts orphans, so that a walk down from outside it misses none."""
    found, waiting = Usage(), list(roots)
    while waiting:
        pid = waiting.pop()
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children") as file:
                    waiting += map(int, file.read().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
        found.pids.append(pid)
        found.processes += int(fields[17])
        found.memory_bytes += int(fields[21]) * PAGE
        found.cpu_seconds += sum(map(int, fields[11:15])) / TICKS
    return found


def kill_all(roots: list[int]) -> None:
    """SIGKILL for the processes and all below them, from the top; returns when none of them runs any more."""
    deadline = time.monotonic() + 5
    while True:
        pids = [pid for pid in usage(roots).pids if _runs(pid)]
        if not pids or time.monotonic() > deadline:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False
