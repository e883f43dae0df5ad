"""Which rows a run has, and with what: found out before the weights are read."""

import collections
from collections.abc import Iterable
from typing import NamedTuple

from dots_jax.cli.options import EvaluateOptions
from dots_jax.config import UserError
from dots_jax.evaluation.rows.table import ROWS, get_row
from dots_jax.evaluation.ruler.prompts import ITEMS, LENGTHS
from dots_jax.evaluation.tasks.files import Files, NoData
from dots_jax.evaluation.tasks.table import TASKS, rows_of
from dots_jax.evaluation.tasks.task import Group, Making, Task


class Planned(NamedTuple):
    """A row of the run. missing: why it has no items, in words; empty if it has."""

    name: str
    task: Task | None
    files: Files | None
    missing: str = ""


def row_names(options: EvaluateOptions) -> list[str]:
    """The suite's rows, or those of --rows in the suite's order. Raises UserError for another."""
    known = rows_of(options.suite)
    if not options.rows:
        return list(known)
    names = [get_row(name).name for name in options.rows.split(",") if name.strip()]
    if other := [name for name in names if name not in known]:
        raise UserError(f"--suite={options.suite} has no row {other[0]}; it has {', '.join(known)}.")
    return [name for name in known if name in names]


def making_of(options: EvaluateOptions, encode, context: int | None) -> Making:
    """Lengths above the model's context are left out. context: in tokens; None: of no model.

    Raises UserError for --lengths that are no numbers.
    """
    words = [word.strip() for word in (options.lengths or "").split(",") if word.strip()]
    if not all(word.isdecimal() and int(word) for word in words):
        raise UserError(f"--lengths is numbers of tokens, as 4096,8192, but is {options.lengths}.")
    lengths = sorted({int(word) for word in words}) or LENGTHS
    fits = tuple(length for length in lengths if context is None or length <= context)
    return Making(encode, fits, options.limit or ITEMS, options.seed)


def plan_row(name: str, data: str, making: Making, judge: str | None) -> Planned:
    """Reads the row's files once, so that a bad one is found now. A row that cannot be run stays, with the reason."""
    task = TASKS[name]
    if ROWS[name].judged and not judge:
        return Planned(name, None, None, "not run: it needs a judge, as --judge=URL")
    if task.make and not making.lengths:
        return Planned(name, None, None, "not run: every length is above the model's context")
    try:
        files = Files(data, task.folder or name)
        groups = task.groups(files, making)
        if not task.make:
            for group in groups:
                collections.deque(group.items, maxlen=0)
        return Planned(name, task, files)
    except NoData as error:
        return Planned(name, None, None, f"no data: {error}")


def groups_of(row: Planned, making: Making) -> Iterable[Group]:
    return row.task.groups(row.files, making)
