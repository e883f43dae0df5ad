"""What a run of the tests takes from its machine and gives back: compiled programs, memory, signals."""

import contextlib
import ctypes
import gc
import importlib.metadata
import os
import resource
import signal
import sys
import threading
from pathlib import Path

from packaging.version import Version

# --- compiling ----------------------------------------------------------------------------------------------------------


def compiler_flags(devices: int) -> str:
    """XLA_FLAGS for a process with N fake devices.

    Without fusion emitters, which lower each fusion by way of MLIR, the CPU compiler takes less than half the time for a
    train step. jaxlib 0.12 has no other way, and aborts at a flag that it does not know.
    """
    old = Version(importlib.metadata.version("jaxlib")) < Version("0.12")
    quick = ["--xla_cpu_use_fusion_emitters=false"] if old else []
    return " ".join([f"--xla_force_host_platform_device_count={devices}", *quick])


# --- memory -------------------------------------------------------------------------------------------------------------


def forget_compiled() -> None:
    """Compiled programs stay in memory until jax is told to drop them; a later file needs few of an earlier one's, and the
    cache on the disk has those."""
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what is freed for itself otherwise


_held = 0.0  # MiB that this process held after it forgot within a file


def forget_compiled_above(mib: int, growth: int = 150) -> None:
    """The same within a file whose tests compile much, once the process holds more than that, and that much more than after the
    last time: what stays is no program, and collecting garbage takes half a second."""
    global _held
    if _private_mib(os.getpid()) > max(mib, _held + growth):
        forget_compiled()
        _held = _private_mib(os.getpid())


def largest_processes() -> tuple[int, int]:
    """Peak resident MiB of this process, and of the largest process that it started and that has ended."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return tuple(resource.getrusage(who).ru_maxrss // unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


class MemoryWatch:
    """The most that this process and all below it hold at a time, looked at twice a second. Linux only: /proc says it."""

    def __init__(self):
        self.peak_mib = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._stop.set()
        self._thread.join()
        return self.peak_mib

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self.peak_mib = max(self.peak_mib, sum(_private_mib(pid) for pid in _below(os.getpid())))


def _below(root: int) -> list[int]:
    """The process and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _private_mib(pid: int) -> float:
    """Resident memory without the pages of files, most of which are libraries that all of them share."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
        return (resident - shared) * resource.getpagesize() / 2**20
    return 0.0


# --- signals ------------------------------------------------------------------------------------------------------------


class Interrupts:
    """Signals that somebody sent to the tests. A command under test takes SIGINT for the end of the command, and a run under
    test takes SIGTERM for the end of the run: neither may be all that comes of it."""

    def __init__(self):
        self._read, write = os.pipe()
        for end in (self._read, write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)  # whatever handler a test sets, the number arrives here
        self._own: list[int] = []

    def send(self, number: int) -> None:
        """A signal that a test sends to this process on purpose."""
        self._own.append(number)
        os.kill(os.getpid(), number)

    def came(self) -> int | None:
        """A signal since the last call that no test sent."""
        try:
            numbers = list(os.read(self._read, 1024))
        except BlockingIOError:
            numbers = []
        for number in self._own:
            if number in numbers:
                numbers.remove(number)
        self._own.clear()
        return next((number for number in numbers if number in (signal.SIGINT, signal.SIGTERM)), None)


interrupts = Interrupts()
