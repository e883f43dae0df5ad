"""One writer at a time in a folder, on this machine and in a bucket.

    with owned(folder, "the token cache"):
        ...

The owner writes who it is (host, process, when it began) into `<folder>/.owner.json`, renews the file every BEAT_SECONDS, and
removes it at the end. A second one is refused in one sentence, or waits. An owner that is dead is replaced: at once if it
ran on this machine and its process is gone, else after STALE_SECONDS without a renewal.

On a disk the file appears by a hard link, which fails if it is there already. In a bucket it is created on the condition
that no object has its name (if-generation-match 0), where the client of the bucket can say that; else it is written and read
back, which two that start in the same two seconds can both pass: the loser learns it at its next renewal.
"""

import contextlib
import dataclasses
import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from etils import epath

from dots_jax.config import UserError
from dots_jax.storage import filesystem, in_bucket
from dots_jax.storage import folder as folder_of

NAME = ".owner.json"
BEAT_SECONDS = 15  # 5,760 writes a day: cents in a bucket
STALE_SECONDS = 120
_POLL_SECONDS = 0.2
_SETTLE_SECONDS = 2  # until the last of two writers to one object is seen by both


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who holds a folder. machine: kernel boot and process namespace, in which `pid` and `started` name one process.
    since, beat: seconds of the clock (time.time). token: of this one taking."""

    host: str
    machine: str
    pid: int
    started: str
    since: float
    beat: float
    token: str

    @classmethod
    def here(cls) -> "Owner":
        now = time.time()
        return cls(
            socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()) or "", now, now, uuid.uuid4().hex
        )

    def is_gone(self) -> bool | None:
        """Whether its process has ended; None if this machine cannot know."""
        if self.machine != _machine():
            return None
        started = _started(self.pid)
        return started is None or (self.started != "" and started != self.started)

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        return f"process {self.pid} on {self.host}, since {since}"


class Lock:
    """A folder that this process holds."""

    def __init__(self, path: epath.Path, what: str, owner: Owner):
        self.path, self._what, self._owner, self._lost = path, what, owner, False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"renews {path}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises UserError if another took the folder over, as after a pause of this process: call it before a last step."""
        found = _read(self.path)
        if self._lost or found is None or found.token != self._owner.token:
            who = f" ({found})" if found else ""
            raise UserError(
                f"{self._what} in {self.path.parent} was taken over by another process{who}, since this one gave no sign of "
                f"life for {STALE_SECONDS} seconds: it stops here."
            )

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # buckets have errors of their own
            found = _read(self.path)
            if found is not None and found.token == self._owner.token:
                self.path.unlink()

    def _renew(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with contextlib.suppress(
                Exception
            ):  # a disk or a bucket that is away for a moment: each client has its own errors
                found = _read(self.path)
                if found is None or found.token != self._owner.token:
                    self._lost = True
                    return
                if in_bucket(str(self.path)):
                    self.path.write_text(_text(dataclasses.replace(self._owner, beat=time.time())))
                else:
                    os.utime(self.path)  # the time of the file's own server, as _age compares


class Busy(UserError):
    """Another process holds the folder."""

    retryable = True  # it ends, or turns out to be dead


@contextlib.contextmanager
def owned(
    folder: str | os.PathLike, what: str, *, wait: float = 0, name: str = NAME,
    on_wait: Callable[[str], None] | None = None,
) -> Iterator[Lock]:  # fmt: skip
    """Holds a folder, which is made if it is not there, for as long as the block runs.

    Args:
      what: is in the folder, as a sentence names it: "the token cache", "the run".
      wait: seconds to wait for an owner that lives; math.inf: for ever.
      name: of the file; folders with several things in them have several.
      on_wait: called once with a sentence, when the waiting begins.

    Raises:
      Busy: another process holds it. OSError: the folder cannot be written.
    """
    path = folder_of(str(folder)) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    take = _take_in_bucket if in_bucket(str(path)) else _take_on_disk
    mine, until, said = Owner.here(), time.monotonic() + wait, False
    while (found := take(path, mine)) is not None:
        other, age = found
        if other is not None and time.monotonic() >= until:
            raise Busy(_refusal(path, what, other, age))
        if other is not None and on_wait and not said:
            on_wait(f"waiting for {what} in {path.parent}, which {other} works on")
            said = True
        time.sleep(_POLL_SECONDS if not in_bucket(str(path)) else 10 * _POLL_SECONDS)
    lock = Lock(path, what, mine)
    try:
        yield lock
    finally:
        lock.release()


def _refusal(path: epath.Path, what: str, other: Owner, age: float) -> str:
    if other.is_gone() is False:
        return f"{what} in {path.parent} is being worked on by {other}: wait until that process ends, or end it."
    return (
        f"{what} in {path.parent} is being worked on by {other}: wait until that process ends, or end it; if it is dead already, "
        f"start again in {max(1, math.ceil(STALE_SECONDS - age))} seconds."
    )


# --- taking -----------------------------------------------------------------------------------------------------------
#
# Each returns None once `mine` is the owner; else the living owner and the age of its last renewal, or (None, 0): try again.


def _take_on_disk(path: epath.Path, mine: Owner) -> tuple[Owner | None, float] | None:
    new = path.parent / f"{path.name}.{mine.token}"
    new.write_text(_text(mine))
    try:
        if _link(new, path):
            return None
        try:
            age = new.stat().mtime - path.stat().mtime  # both times are of the disk's own server
        except OSError:
            return None, 0  # it has just been released
        other = _read(path)
        if other is None:
            if age < STALE_SECONDS:
                return None, 0  # it is just being written
            token = "unreadable"
        elif not _is_dead(other, age):
            return other, age
        else:
            token = other.token
        # Only one of those that found the same dead owner replaces its file: the one whose link with that token is first.
        marker = path.parent / f"{path.name}.{token}.ended"
        if not _link(new, marker):
            with contextlib.suppress(OSError):
                if new.stat().mtime - marker.stat().mtime > STALE_SECONDS:  # who began to replace it died too
                    marker.unlink()
            return None, 0
        try:
            now = _read(path)
            if (now.token if now else "unreadable") != token:
                return None, 0  # another replaced it before the link was made
            os.replace(new, path)
            return None
        finally:
            marker.unlink(missing_ok=True)
    finally:
        new.unlink(missing_ok=True)


def _take_in_bucket(path: epath.Path, mine: Owner) -> tuple[Owner | None, float] | None:
    other = _read(path)
    if other is not None:
        age = time.time() - other.beat
        if not _is_dead(other, age):
            return other, age
        path.unlink(missing_ok=True)
    created = _create_in_bucket(path, _text(mine))
    if created is False:
        return None, 0
    if created is None:
        path.write_text(_text(mine))
        time.sleep(_SETTLE_SECONDS)
    found = _read(path)
    return None if found is not None and found.token == mine.token else (found, 0)


def _create_in_bucket(path: epath.Path, text: str) -> bool | None:
    """Whether the object is now ours and was not there; None if the client has no such condition."""
    if path._backend not in (epath.backend.fsspec_backend, epath.backend.tf_backend):  # a bucket of the tests
        return None
    try:
        # Through gcsfs in either case: TensorFlow's files cannot say it.
        filesystem(str(path)).pipe_file(str(path), text.encode(), mode="create")
    except FileExistsError:
        return False
    except (ImportError, TypeError, NotImplementedError, ValueError):
        return None
    return True


def _link(source: epath.Path, target: epath.Path) -> bool:
    """Makes `target` with the content of `source`, if nothing is there."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as file:
            file.write(source.read_text())
    return True


def _is_dead(owner: Owner, age: float) -> bool:
    gone = owner.is_gone()
    return age > STALE_SECONDS if gone is None else gone


def _text(owner: Owner) -> str:
    return json.dumps(dataclasses.asdict(owner), indent=1) + "\n"


def _read(path: epath.Path) -> Owner | None:
    """None if there is none, or none that can be read."""
    try:
        return Owner(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return None


# --- processes --------------------------------------------------------------------------------------------------------


def _machine() -> str:
    """Where a process id means one process. Containers of one machine have the same kernel and other ids."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {uuid.getnode():x}"


def _started(pid: int) -> str | None:
    """When a process of this machine began, in the kernel's ticks; "" if it lives and that is unknown; None: it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else fields[19].decode()
    except FileNotFoundError:
        if os.path.exists("/proc/self/stat"):
            return None
    except OSError:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""
