"""Several processes as one run."""

import jax

from dots_jax.config import UserError


def initialize(distributed: str | None) -> None:
    """Joins the processes of one run, before anything touches a device.

    distributed: None for a single process; `auto` on TPU pods and clusters that jax knows (Slurm, GKE, Open MPI);
      otherwise ADDRESS:PORT,PROCESS,PROCESSES, as in `10.0.0.2:8476,0,2`.

    Raises:
      UserError: it is none of these. Where the others do not come, jax itself ends the process, after five minutes.
    """
    if not distributed:
        return
    arguments = {}
    if distributed != "auto":
        try:
            address, process, processes = distributed.split(",")
            arguments = {"coordinator_address": address, "process_id": int(process), "num_processes": int(processes)}
        except ValueError:
            raise UserError(
                f"--distributed must be auto or ADDRESS:PORT,PROCESS,PROCESSES, as in 10.0.0.2:8476,0,2, but is {distributed}."
            ) from None
    try:
        jax.distributed.initialize(**arguments)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"The processes of --distributed={distributed} did not find each other: {error}") from error
