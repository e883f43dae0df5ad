"""The process in which a page is extracted, since native code hangs, eats memory and dies, and takes its process with it.

One child per `Sandbox`, kept for all pages and replaced when one kills it. Limits are the kernel's: processor time by
RLIMIT_CPU, set anew for each page (SIGXCPU ends native code too), address space by RLIMIT_AS, and a deadline of the wall
clock in the parent for a child that sleeps. Nothing here needs the main thread, so it works in Beam's workers.
Processor time, and not the wall clock, decides about slow pages, so that a busy machine gives the same corpus.
"""

import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from typing import NamedTuple

from dots_jax.config import ExtractConfig

WALL_FACTOR = 10  # seconds of the wall clock for one of the processor, before a child counts as asleep
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
    """One for all units of a thread, since a child needs a second to load its libraries. It ends with the thread."""
    if getattr(_mine, "config", None) != config:
        _mine.config, _mine.sandbox = config, Sandbox(config)
    return _mine.sandbox


class Sandbox:
    """Runs `extract.extract` in a child process. Not for two threads at the same time; each has its own."""

    def __init__(self, config: ExtractConfig):
        self._config, self._child = config, None
        self.restarts = 0

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *unused) -> None:
        self._stop()

    def __del__(self) -> None:
        self._stop()

    def run(self, html: str, engine: str) -> Text | Failure:
        child = self._child or self._start()
        request = json.dumps([html, engine]).encode()
        deadline = time.monotonic() + WALL_FACTOR * self._config.seconds
        try:
            _send(child.stdin.fileno(), request, deadline)
            answer = json.loads(_receive(child.stdout.fileno(), deadline))
        except TimeoutError:
            self._stop()
            return Failure("time limit", f"{engine} was asleep for {WALL_FACTOR * self._config.seconds} s")
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
        _receive(self._child.stdout.fileno(), time.monotonic() + 120)  # it has loaded its libraries
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


def _send(descriptor: int, data: bytes, deadline: float) -> None:
    view = memoryview(_LENGTH.pack(len(data)) + data)
    os.set_blocking(descriptor, False)
    while view:
        _, ready, _ = select.select([], [descriptor], [], max(deadline - time.monotonic(), 0))
        if not ready:
            raise TimeoutError
        view = view[os.write(descriptor, view[: 1 << 16]) :]


def _receive(descriptor: int, deadline: float) -> bytes:
    def exactly(number: int) -> bytes:
        parts = []
        while number:
            if not select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError
            part = os.read(descriptor, min(number, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            number -= len(part)
        return b"".join(parts)

    return exactly(_LENGTH.unpack(exactly(_LENGTH.size))[0])
