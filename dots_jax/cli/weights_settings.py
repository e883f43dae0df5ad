"""What a run file may leave to the weights that a run starts from: the model, and the tokenizer; as lines of gin."""

import dataclasses
from collections.abc import Sequence

from dots_jax.checkpoint.open import Opened, open_checkpoint
from dots_jax.cli.gin_check import MACRO, Binding, Reference
from dots_jax.config import UserError
from dots_jax.storage import folder

_SETTING = "TrainConfig.initial_checkpoint"


def settings_of_weights(bindings: Sequence[Binding], workdir: str | None) -> tuple[str, str] | None:
    """(where the lines are from, the lines) for a run file that names weights and no model; else None.

    A run that has begun has its model in its workdir, and needs the other weights no more.

    Raises:
      UserError: there are no such weights.
    """
    path = _value(bindings, "TrainConfig", "initial_checkpoint")
    if not isinstance(path, str) or not path or _value(bindings, "TrainConfig", "model") is not None:
        return None
    opened = _open(path, workdir)
    lines = ["TrainConfig.model = @ModelConfig()"]
    lines += [f"ModelConfig.{name} = {value!r}" for name, value in dataclasses.asdict(opened.model).items()]
    reads_data = _value(bindings, "TrainConfig", "data") is not None
    if reads_data and opened.tokenizer and _value(bindings, "DataConfig", "tokenizer") is None:
        lines.append(f"DataConfig.tokenizer = {opened.tokenizer!r}")
    return f"the weights {opened.path}", "\n".join(lines)


def _open(path: str, workdir: str | None) -> Opened:
    checkpoints = folder(workdir) / "checkpoints" if workdir else None
    if checkpoints and checkpoints.is_dir() and any(checkpoints.iterdir()):
        return open_checkpoint(workdir)
    try:
        return open_checkpoint(path)
    except UserError as error:
        raise UserError(f"{_SETTING}, from which the model is read: {error}") from error


def _value(bindings: Sequence[Binding], name: str, parameter: str):
    """What is bound last, through macros; None if nothing is."""
    for binding in reversed(bindings):
        if (binding.scope, binding.name, binding.parameter) != ((), name, parameter):
            continue
        value = binding.value
        if isinstance(value, Reference) and value.name == MACRO:
            return _macro(bindings, "/".join(value.scope))
        return value
    return None


def _macro(bindings: Sequence[Binding], target: str):
    return next((b.value for b in reversed(bindings) if b.name == MACRO and str(b) == target), None)
