"""One command from its words to its exit status: every failure becomes one line on stderr."""

import importlib
import importlib.util
import logging
import os
import resource
import select
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence

from absl import logging as absl_logging

from dots_jax.cli.arguments import parse
from dots_jax.config import UserError

ENOUGH_ADDRESSES = 16 * 2**30


def execute(options_class: type, main: Callable, about: str, words: Sequence[str]) -> int:
    """Calls `main(options)`, which may return an exit status; returns it, or 0, 2 for what the user or a person must fix, 130
    after Ctrl-C, and 141 without a word when the reader of what it prints is gone, as after `| head`: what a shell gives a
    command that SIGPIPE ended. With options.exit_codes it is 1 for what may pass when the command is started again.
    """
    # TensorFlow and gRPC read these when they are loaded, which is after this; a user's own choice stays.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    options = None
    try:
        options = parse(options_class, about, words)
        if options is None:  # --help
            return 0
        if not options.debug:
            _quiet_libraries()
        _note_memory_limit()
        status = main(options)
        sys.stdout.flush()  # here, where a closed pipe is still ours to answer
        return status if isinstance(status, int) else 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its end
            return 141
        if options is not None and options.debug:
            traceback.print_exc()
        print("error: " + _sentence(error), file=sys.stderr, flush=True)
        # Whatever starts the command again needs to know whether that can help; a person reads the sentence.
        return 1 if getattr(options, "exit_codes", False) and getattr(error, "retryable", True) else 2


def _note_memory_limit() -> None:
    """JAX and TensorFlow reserve more addresses than they use: a low limit ends them in native code, without a sentence."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if 0 <= limit < ENOUGH_ADDRESSES:
        print(
            f"note: ulimit -v allows this process {limit / 2**30:.1f} GiB of addresses, and the libraries may end it there: "
            "if they do, raise it (ulimit -v unlimited)",
            file=sys.stderr,
            flush=True,
        )


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads; a bucket's connection may break as well."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _quiet_libraries() -> None:
    absl_logging.set_verbosity(
        absl_logging.FATAL
    )  # what a library logs as an error it also raises: it becomes our line
    # When a read or write fails, orbax's other threads print tracebacks next to the error that it raises.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda _: None


def load_tensorflow(debug: bool) -> None:
    """Loads it quietly, for commands that read data and so load it anyway; nothing happens where it is not installed.

    TensorFlow 2.21 greets with six lines that none of its settings silence: they go to a file while it is loaded. If loading
    fails, what it said is shown.
    """
    if debug or importlib.util.find_spec("tensorflow") is None:
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            importlib.import_module("tensorflow")
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _sentence(error: Exception) -> str:
    """One line. Errors that nobody foresaw keep their type and say how to see more."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    text = text if len(text) <= 500 else text[:500] + " ..."
    return f"{type(error).__name__}: {text} (add --debug to see where)".replace(":  (", " (")
