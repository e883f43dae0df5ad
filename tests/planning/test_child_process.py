"""A process of its own for the TPU compiler: a result, an exception, and an end without either."""

import os
import signal
import sys

import pytest

from dots_jax.config import UserError
from dots_jax.planning.child_process import run_in_child


def _double(x):
    os.write(2, b"the runtime talks\n")
    print("seen", file=sys.stderr)
    return 2 * x


def _refuse(x):
    raise UserError(f"{x} does not exist.")


def _end(status):
    os.write(2, b"first\nERROR: Unknown command line flag 'xla_flag_of_yesterday'\n")
    os._exit(status)


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_result_and_an_exception_come_back(capfd):
    assert run_in_child(_double, 21) == 42
    assert capfd.readouterr().err == "seen\n"
    with pytest.raises(UserError, match="pod does not exist"):
        run_in_child(_refuse, "pod")


def test_an_end_without_either_is_told_with_what_was_said(monkeypatch):
    """Status 1 of the runtime must not look like "it does not fit"."""
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_flag_of_yesterday=true")
    with pytest.raises(
        UserError, match=r"ended with status 1.*xla_flag_of_yesterday.*LIBTPU_INIT_ARGS='--xla_flag_of_yesterday=true'"
    ):
        run_in_child(_end, 1)
    monkeypatch.delenv("LIBTPU_INIT_ARGS")
    with pytest.raises(UserError, match="killed by signal 9 .*memory"):
        run_in_child(_die)
