"""What a program may use before it is killed, and what came of it."""

import dataclasses
import json

MIB = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Of all processes of one program together, except where a field says otherwise."""

    cpu_seconds: float = 10.0  # user and system time; does not depend on what else the machine does
    wall_seconds: float | None = None  # default: 4 x cpu_seconds, for programs that wait
    memory_bytes: int = 2048 * MIB  # resident memory of all, and address space of each process
    file_bytes: int = 64 * MIB  # the scratch folder, and each file in it
    processes: int = 48  # threads count
    output_bytes: int = MIB  # standard output and error

    @property
    def wall(self) -> float:
        return 4 * self.cpu_seconds if self.wall_seconds is None else self.wall_seconds

    def for_guest(self, uid: int | None) -> str:
        """JSON for `guest/start.py`; uid: the user to become, which only root can."""
        return json.dumps(dataclasses.asdict(self) | {"uid": uid})


DEFAULT = Limits()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a program ended.

    `status` is `exit` (returncode says how, negative for a signal), or the limit that ended it: `cpu`, `wall`, `memory`,
    `processes`, `output`.
    """

    status: str
    returncode: int | None
    stdout: bytes
    stderr: bytes
    cpu_seconds: float
    wall_seconds: float

    @property
    def timed_out(self) -> bool:
        return self.status in ("cpu", "wall")
