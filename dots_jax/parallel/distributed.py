"""Several processes as one run."""

from collections.abc import Callable
from typing import TypeVar

import jax
from jax.experimental import multihost_utils

from dots_jax.config import UserError
from dots_jax.human import first_line

T = TypeVar("T")


class NotTogetherError(UserError):
    """The processes did not find each other: the same command may well succeed a minute later."""

    retryable = True


def initialize(distributed: str | None) -> None:
    """Joins the processes of one run, before anything touches a device, and sees to it that there is a device.

    distributed: None for a single process; `auto` on TPU pods and clusters that jax knows (Slurm, GKE, Open MPI);
      otherwise ADDRESS:PORT,PROCESS,PROCESSES, as in `10.0.0.2:8476,0,2`.

    Raises:
      UserError: it is none of these, or JAX has no device. Where the others do not come, jax itself ends the process, after
        five minutes.
    """
    if distributed:
        _join(distributed)
    require_backend()


def require_backend() -> None:
    """Raises UserError where JAX has no device of the kind that it is asked for: its own error may not name that kind."""
    try:
        jax.devices()
    except Exception as error:  # noqa: BLE001  RuntimeError, AssertionError, or AttributeError under python -O
        asked = jax.config.values["jax_platforms"]
        why = first_line(error) if str(error) else "no reason is given"
        raise UserError(
            f"JAX finds no device with JAX_PLATFORMS={asked or ''} ({why}): unset JAX_PLATFORMS, or install jax for that device, "
            "as in pip install 'jax[cuda12]'."
        ) from error


def _join(distributed: str) -> None:
    arguments = {}
    if distributed != "auto":
        try:
            address, process, processes = distributed.split(",")
            if ":" not in address:
                raise ValueError
            arguments = {"coordinator_address": address, "process_id": int(process), "num_processes": int(processes)}
        except ValueError:
            raise UserError(
                f"--distributed must be auto or ADDRESS:PORT,PROCESS,PROCESSES, as in 10.0.0.2:8476,0,2, but is {distributed}."
            ) from None
    try:
        jax.distributed.initialize(**arguments)
    except (RuntimeError, ValueError) as error:
        kind = UserError if isinstance(error, ValueError) else NotTogetherError
        raise kind(f"The processes of --distributed={distributed} did not find each other: {error}") from error


def require_devices(devices: str | None) -> None:
    """Raises unless JAX sees exactly these devices, all processes together.

    devices: PLATFORM:NUMBER, as in `tpu:128`; None checks nothing. This catches a silent CPU fallback and a missing host.

    Raises:
      UserError: the run has others.
    """
    if not devices:
        return
    platform, _, number = devices.partition(":")
    if not platform or not number.isdecimal():
        raise UserError(f"--devices must be PLATFORM:NUMBER, as in tpu:128, but is {devices}.")
    found = jax.devices()
    if (found[0].platform, len(found)) != (platform, int(number)):
        raise UserError(
            f"--devices={devices}, but this run has {len(found)} {found[0].platform} device(s), of {jax.process_count()} "
            "process(es): fix the machines, or change --devices."
        )


def once_per_process(make: Callable[[], T]) -> T:
    """Process 0 first, the others when it is done: for caches on a disk that they share. Returns what `make` returns."""
    if jax.process_count() == 1:
        return make()
    if jax.process_index() == 0:
        made = make()
        multihost_utils.sync_global_devices("process 0 is done")
        return made
    multihost_utils.sync_global_devices("process 0 is done")
    return make()
