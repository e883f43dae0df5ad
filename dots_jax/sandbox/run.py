"""One program in the sandbox, from its start to the end of the last process of it."""

import contextlib
import dataclasses
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence

from dots_jax.sandbox import fences
from dots_jax.sandbox.limits import DEFAULT, Limits, Outcome
from dots_jax.sandbox.processes import Usage, kill_all, usage

POLL_SECONDS = 0.05


@dataclasses.dataclass(frozen=True)
class Sandbox:
    """How programs are fenced in on this machine: `open_sandbox` makes one."""

    means: str  # bubblewrap, namespaces, none
    python: str = sys.executable

    def run(self, program: Sequence[str], stdin: bytes = b"", limits: Limits = DEFAULT) -> Outcome:
        """Runs a command, or with `-` and a text a Python program, in an empty scratch folder; never raises for what it does."""
        with self.start(program, stdin, limits, output=True) as process:
            return supervise(process, [], limits)

    @contextlib.contextmanager
    def start(self, program: Sequence[str], stdin: bytes, limits: Limits, pass_fds=(), output: bool = False):
        """The process while the block lasts; when it ends, nothing of it runs any more."""
        with contextlib.ExitStack() as stack:
            given = os.memfd_create("stdin")  # never blocks, as a pipe could
            stack.callback(os.close, given)
            with open(given, "wb", closefd=False) as file:
                file.write(stdin)
            os.lseek(given, 0, os.SEEK_SET)
            pipe = subprocess.PIPE if output else subprocess.DEVNULL
            process = subprocess.Popen(
                fences.command(self.means, program, limits, self.python),
                stdin=given, stdout=pipe, stderr=pipe, pass_fds=pass_fds, env=fences.ENVIRONMENT, start_new_session=True,
                cwd="/tmp" if self.means == "none" else "/",
            )  # fmt: skip
            try:
                yield process
            finally:
                kill_all([process.pid])
                process.wait()
                for stream in (process.stdout, process.stderr):
                    if stream is not None:
                        stream.close()


def open_sandbox(unsafe_code: bool = False, python: str = sys.executable) -> Sandbox:
    """The best sandbox that works here.

    Raises:
      UserError: none does, and unsafe_code is false. With unsafe_code programs then run with limits only.
    """
    return Sandbox(fences.choose(unsafe_code, python), python)


def supervise(process: subprocess.Popen, others: Sequence[subprocess.Popen], limits: Limits) -> Outcome:
    """Waits until `process` ends or all together reach a limit, then kills all of them and what they started.

    Memory, processes and CPU time are looked at every 50 ms; the kernel's own limits of each process hold in between.
    """
    began, output = time.monotonic(), {1: bytearray(), 2: bytearray()}
    roots, seen, status, next_look = [process.pid, *(p.pid for p in others)], Usage(), None, 0.0
    with selectors.DefaultSelector() as selector:
        for number, stream in ((1, process.stdout), (2, process.stderr)):
            if stream is not None:
                selector.register(stream, selectors.EVENT_READ, number)
        while status is None:
            for key, _ in selector.select(0.005) if selector.get_map() else ():
                block = os.read(key.fd, 1 << 16)
                output[key.data] += block
                if not block:
                    selector.unregister(key.fileobj)
            now = time.monotonic()
            if now >= next_look:
                seen = usage(roots)
                status, next_look = _exceeded(limits, seen, now - began), now + POLL_SECONDS
            if sum(map(len, output.values())) > limits.output_bytes:
                status = "output"
            elif status is None and process.poll() is not None:
                status = "exit"
            elif not selector.get_map():
                time.sleep(0.004)
    kill_all(roots)
    process.wait()
    for number, stream in ((1, process.stdout), (2, process.stderr)):
        if stream is not None and status == "exit":
            output[number] += _rest(stream.fileno(), limits.output_bytes)
    returncode = process.returncode if status == "exit" else None
    if returncode is not None and returncode > 128:
        returncode = 128 - returncode  # process 1 tells the signal that way
    if returncode == -24:  # SIGXCPU: one process reached it between two looks
        status, returncode = "cpu", None
    out, err = (bytes(output[number][: limits.output_bytes]) for number in (1, 2))
    return Outcome(status, returncode, out, err, seen.cpu_seconds, time.monotonic() - began)


def _exceeded(limits: Limits, seen: Usage, wall_seconds: float) -> str | None:
    if seen.cpu_seconds > limits.cpu_seconds:
        return "cpu"
    if seen.memory_bytes > limits.memory_bytes:
        return "memory"
    if seen.processes > limits.processes + 8:  # those of the fence itself
        return "processes"
    return "wall" if wall_seconds > limits.wall else None


def _rest(descriptor: int, limit: int) -> bytes:
    """What is still in the pipe of a process that has ended, with all that held the other end."""
    os.set_blocking(descriptor, False)
    found = bytearray()
    with contextlib.suppress(BlockingIOError):
        while len(found) <= limit and (block := os.read(descriptor, 1 << 16)):
            found += block
    return bytes(found)
