"""From the names in a config to seqio Tasks and exact rates."""

import dataclasses
import importlib
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import seqio

from dots_jax.config import UserError
from dots_jax.curriculum.mixture_use import exact_shares
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


@dataclasses.dataclass(frozen=True)
class TaskMixture:
    """What the name of a mixture, or of a task alone, stands for."""

    name: str
    rates: Mapping[str, Fraction]  # task -> share of the sequences; they sum to 1
    vocabulary: seqio.Vocabulary  # the same for all tasks
    repeats: Mapping[str, int] = dataclasses.field(default_factory=dict)  # task -> times in one pass; empty: by rates

    def __post_init__(self):
        if not self.repeats and len(self.rates) == 1:
            object.__setattr__(self, "repeats", dict.fromkeys(self.rates, 1))


def find_mixture(name: str) -> TaskMixture:
    """The registered mixture or task of that name. Raises UserError for a name that is not there or cannot be mixed."""
    repeated = {}
    if name in seqio.MixtureRegistry.names():
        mixture = seqio.MixtureRegistry.get(name)
        tasks, rates = mixture.tasks, {task.name: float(mixture.get_rate(task)) for task in mixture.tasks}
        repeated = getattr(mixture, "repeats", {})
    elif name in seqio.TaskRegistry.names():
        tasks, rates = [seqio.TaskRegistry.get(name)], {name: 1.0}
    else:
        raise UserError(
            f"No seqio mixture or task is named {name!r}: known mixtures are "
            f"{_listed(seqio.MixtureRegistry)}; known tasks are {_listed(seqio.TaskRegistry)}."
        )
    for task, rate in rates.items():
        if not 0 < rate < math.inf:
            raise UserError(f"Mixture {name!r}: the rate of {task!r} must be above 0, but is {rate}.")
    vocabulary_of = {task.name: task_vocabulary(task) for task in tasks}
    known = {vocabularies.identity(vocabulary): task for task, vocabulary in vocabulary_of.items()}
    if len(known) > 1:
        raise UserError(f"Mixture {name!r} mixes vocabularies ({known}): give its tasks the same one.")
    return TaskMixture(name, exact_shares(rates), vocabulary_of[min(vocabulary_of)], repeated)


def get_rates(name: str) -> Mapping[str, Fraction]:
    """The rates of `find_mixture`."""
    return find_mixture(name).rates


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
