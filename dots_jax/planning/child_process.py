"""Runs a function in a process of its own, whose stderr is kept: the TPU runtime talks a lot, and may end the process.

A flag that libtpu does not know ends the process with status 1, which is also the planner's "it does not fit". What happens in
the child is told apart here: a result, an exception, or an end without either.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile

from dots_jax.config import UserError

# Read by libtpu and XLA when they start.
VARIABLES = ("LIBTPU_INIT_ARGS", "XLA_FLAGS")
_SHOWN_LINES = 5


def run_in_child(function, *arguments):
    """`function(*arguments)`, all of it picklable. What the function prints through sys.stdout and sys.stderr is shown; what
    libraries write to file descriptor 2 is not.

    Raises:
      UserError: raised by the function; or the process ended before the function did. The sentence holds the last lines of
        its stderr and names the environment variables that may be at fault.
      Exception: raised by the function.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile(prefix="dots_jax_stderr_") as said:
        child = context.Process(target=_child, args=(sender, said.name, function, arguments))
        child.start()
        sender.close()
        try:
            succeeded, result = receiver.recv()
        except EOFError:
            child.join()
            with open(said.name, encoding="utf-8", errors="replace") as file:
                raise UserError(_end_without_result(child.exitcode, file.read())) from None
        finally:
            if sys.exc_info()[0] is KeyboardInterrupt:
                child.kill()
            child.join()
    if not succeeded:
        raise result
    return result


def _child(sender, said: str, function, arguments) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    logging.getLogger("jax").setLevel(logging.ERROR)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(said, os.O_WRONLY | os.O_APPEND), 2)
    try:
        answer = (True, function(*arguments))
    except Exception as error:  # noqa: BLE001  the parent raises it
        answer = (False, error)
    sys.stdout.flush()
    try:
        pickle.dumps(answer)
    except Exception:  # noqa: BLE001
        answer = (False, RuntimeError(f"{type(answer[1]).__name__}: {answer[1]}"))
    sender.send(answer)


def _end_without_result(status: int, said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()][-_SHOWN_LINES:]
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    if status == -signal.SIGKILL:
        how += " (the machine may be out of memory)"
    set_ones = [f"{name}={os.environ[name]!r}" for name in VARIABLES if os.environ.get(name)]
    blame = (
        f" The environment has {' and '.join(set_ones)}: remove flags that this version does not know."
        if set_ones
        else ""
    )
    return f"The TPU compiler's process {how}. It said: {' | '.join(lines) or 'nothing'}.{blame}"
