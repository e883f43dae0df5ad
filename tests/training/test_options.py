"""What a command line becomes at the edge of train()."""

import dataclasses
from types import SimpleNamespace

import pytest

from dots_jax.training.options import RunOptions


def test_flags_of_a_command_become_options():
    flags = SimpleNamespace(
        workdir="runs/a", gin_text="a = 1\n", operative_text="", dry_run=False, max_steps=7, debug=True
    )
    options = RunOptions.from_flags(flags)
    assert (options.workdir, options.gin_text, options.max_steps, options.exit_codes) == ("runs/a", "a = 1\n", 7, False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.max_steps = 8
    assert RunOptions.from_flags(SimpleNamespace(workdir="runs/a", exit_codes=True)).exit_codes
