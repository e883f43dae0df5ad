"""RULER's 13 tasks as rows of table 3: a group for each length, whose prompts are made while they are read."""

import functools
from collections.abc import Iterator

from dots_jax.evaluation.ruler.prompts import BUDGETS, ESSAY, NIAH, prompts, require_sources
from dots_jax.evaluation.tasks.files import Files
from dots_jax.evaluation.tasks.task import Group, Item, Making, Task

ROW = "ruler_{}"
LAYOUTS = {"qa_1": "squad.json (SQuAD 2.0 dev)", "qa_2": "hotpotqa.json (HotpotQA dev, distractor)"}


def _groups(files: Files, making: Making, task: str) -> list[Group]:
    """Raises NoData where the task's texts are not there; its prompts are made later."""
    require_sources(task, files)
    return [Group(str(length), _items(files, making, task, length)) for length in making.lengths]


def _items(files: Files, making: Making, task: str, length: int) -> Iterator[Item]:
    for index, prompt in enumerate(prompts(task, files, length, making.items, making.seed, making.encode)):
        yield Item(f"{length}/{index}", prompt.text, f" {', '.join(prompt.outputs)}", {"outputs": prompt.outputs})


def _layout(task: str) -> str:
    essays = task in NIAH and NIAH[task].hay == ESSAY
    return LAYOUTS.get(task, "PaulGrahamEssays.json or essays/*.txt" if essays else "nothing: made without a file")


TASKS = tuple(
    Task(
        row=ROW.format(task), layout=_layout(task), load=None, shots=0, stop=(), max_new_tokens=budget, folder="ruler",
        mean_of_groups=True, make=functools.partial(_groups, task=task),
        deviation="no blank ends the prompt; prompts by (seed, index), not by one stream of draws",
    )
    for task, budget in BUDGETS.items()
)  # fmt: skip
