"""From the names in a config to seqio Tasks and exact rates."""

import importlib
import math
from collections.abc import Sequence
from fractions import Fraction

import seqio

from dots_jax.config import UserError
from dots_jax.data.tokenizers import vocabulary as vocabularies


def import_tasks(modules: Sequence[str]) -> None:
    """Imports DataConfig.tasks_modules, which registers their tasks and mixtures."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the module is there, and something it imports is not
            raise UserError(f"DataConfig.tasks_modules names {module!r}, which is no Python module here.") from error


def get_task(name: str) -> seqio.Task:
    if name not in seqio.TaskRegistry.names():
        raise UserError(f"No seqio task is named {name!r}: known tasks are {_listed(seqio.TaskRegistry)}.")
    return seqio.TaskRegistry.get(name)


def get_rates(mixture_or_task: str) -> dict[str, Fraction]:
    """Task name -> share of the mixture's sequences, summing to 1. Raises UserError for what cannot be mixed."""
    if mixture_or_task in seqio.MixtureRegistry.names():
        mixture = seqio.MixtureRegistry.get(mixture_or_task)
        rates = {task.name: float(mixture.get_rate(task)) for task in mixture.tasks}
    elif mixture_or_task in seqio.TaskRegistry.names():
        rates = {mixture_or_task: 1.0}
    else:
        raise UserError(
            f"No seqio mixture or task is named {mixture_or_task!r}: known mixtures are "
            f"{_listed(seqio.MixtureRegistry)}; known tasks are {_listed(seqio.TaskRegistry)}."
        )
    for name, rate in rates.items():
        if not 0 < rate < math.inf:
            raise UserError(f"Mixture {mixture_or_task!r}: the rate of {name!r} must be above 0, but is {rate}.")
    known = {vocabularies.identity(task_vocabulary(get_task(name))): name for name in rates}
    if len(known) > 1:
        raise UserError(f"Mixture {mixture_or_task!r} mixes vocabularies ({known}): give its tasks the same one.")
    # Through the shortest decimal, so that a rate of 0.1 is one tenth and not the nearest binary fraction.
    exact = {name: Fraction(repr(rate)) for name, rate in rates.items()}
    total = sum(exact.values())
    return {name: rate / total for name, rate in exact.items()}


def registered_rates(names: Sequence[str]) -> dict[str, dict[str, Fraction]]:
    """get_rates of those of the names that are registered."""
    known = {*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()}
    return {name: get_rates(name) for name in names if name in known}


def task_vocabulary(task: seqio.Task) -> seqio.Vocabulary:
    """Of the `targets`, which is all a language model learns from."""
    if "targets" not in task.output_features:
        raise UserError(f"Task {task.name!r} has no feature 'targets': a language-modelling task must have that one.")
    return task.output_features["targets"].vocabulary


def check_split(task: seqio.Task, split: str) -> None:
    if split not in task.splits:
        raise UserError(f"Task {task.name!r} has no split {split!r}: it has {', '.join(sorted(task.splits))}.")


def _listed(registry) -> str:
    return ", ".join(sorted(registry.names())) or "none"
