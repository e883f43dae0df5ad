"""The process in which a page is extracted, since native code hangs, eats memory and dies, and takes its process with it.

One child per `Sandbox`, kept for all pages and replaced when one kills it. Limits are the kernel's: processor time by
RLIMIT_CPU, set anew for each page (SIGXCPU ends native code too), address space by RLIMIT_AS, and in the parent a limit for a
child that sleeps, which uses no processor. Nothing here needs the main thread, so it works in Beam's workers.
Processor time, and not the wall clock, decides about slow pages, so that a busy machine gives the same corpus.
"""

import atexit
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
from typing import NamedTuple

from dots_jax.config import ExtractConfig

ASLEEP_SECONDS = 30  # of the wall clock without any progress of a child, before it counts as asleep
_LENGTH = struct.Struct("<Q")


class Text(NamedTuple):
    text: str
    engine: str
    wrong: str  # what was wrong on the way, though there is a text


class Failure(NamedTuple):
    """reason: `time limit`, `memory limit`, `extractor died` or `extractor failed`."""

    reason: str
    detail: str


_mine = threading.local()


def of_this_thread(config: ExtractConfig) -> "Sandbox":
    """One for all units of a thread, since a child needs a second to load its libraries."""
    if getattr(_mine, "config", None) != config:
        _mine.config, _mine.sandbox = config, Sandbox(config)
        atexit.register(_mine.sandbox.close)  # threads of Beam may never end
    return _mine.sandbox


class Sandbox:
    """Runs `extract.extract` in a child process. Not for two threads at the same time; each has its own."""

    def __init__(self, config: ExtractConfig):
        self._config, self._child = config, None
        self.restarts = 0

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *unused) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child. A later page starts another one."""
        self._stop()

    def run(self, html: str, engine: str) -> Text | Failure:
        child = self._child or self._start()
        request = f"{engine}\n{html}".encode("utf-8", "replace")
        try:
            _send(child, request)
            answer = json.loads(_receive(child))
        except TimeoutError:
            self._stop()
            return Failure("time limit", f"{engine} was asleep for {ASLEEP_SECONDS} s")
        except (EOFError, BrokenPipeError):
            return self._why(child, engine)
        if "reason" in answer:
            self._stop()  # a process that ran out of memory is in no known state
            return Failure(**answer)
        return Text(**answer)

    def _start(self) -> subprocess.Popen:
        words = [str(value) for value in (self._config.seconds, self._config.memory)]
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._child = subprocess.Popen(
            [sys.executable, "-m", "dots_jax.curation.sandbox_child", json.dumps(self._config.__dict__), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        _receive(self._child)  # it has loaded its libraries
        return self._child

    def _why(self, child: subprocess.Popen, engine: str) -> Failure:
        """Of a child that is gone."""
        status = child.wait()
        self._stop()
        if status == -signal.SIGXCPU:
            return Failure("time limit", f"{engine} took more than {self._config.seconds} s of the processor")
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        return Failure("extractor died", f"{engine} ended with {name}")

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            self.restarts += 1
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()


def _send(child: subprocess.Popen, data: bytes) -> None:
    descriptor = child.stdin.fileno()
    view = memoryview(_LENGTH.pack(len(data)) + data)
    os.set_blocking(descriptor, False)
    while view:
        _wait(child, descriptor, select.POLLOUT)
        view = view[os.write(descriptor, view[: 1 << 16]) :]


def _receive(child: subprocess.Popen) -> bytes:
    descriptor = child.stdout.fileno()

    def exactly(number: int) -> bytes:
        parts = []
        while number:
            _wait(child, descriptor, select.POLLIN)
            part = os.read(descriptor, min(number, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            number -= len(part)
        return b"".join(parts)

    return exactly(_LENGTH.unpack(exactly(_LENGTH.size))[0])


def _wait(child: subprocess.Popen, descriptor: int, event: int) -> None:
    """Until the descriptor is ready or its other end is closed.

    Raises TimeoutError for a child that used no processor time in ASLEEP_SECONDS; one that works has RLIMIT_CPU as its limit.
    """
    poll = select.poll()
    poll.register(descriptor, event)
    used = None
    while not poll.poll(1000 * ASLEEP_SECONDS):
        now = _processor_ticks(child.pid)
        if now == used:
            raise TimeoutError
        used = now


def _processor_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
