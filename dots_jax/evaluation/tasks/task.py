"""What a task is: items with their prompts, and how a row's answers are generated and averaged."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from dots_jax.evaluation.tasks.files import Files


@dataclasses.dataclass(frozen=True)
class Item:
    """One question. `context` ends where the answer begins, `answer` follows it in a shot."""

    id: str  # unique in its row
    context: str
    answer: str
    gold: Any  # what the row's scorer takes
    choices: tuple[str, ...] = ()  # the continuations that ranking compares; empty: the row cannot be ranked
    right: int | None = None  # of the choices
    shots: tuple["Item", ...] | None = None  # of this item alone, in place of the group's


@dataclasses.dataclass(frozen=True)
class Group:
    """The items of one subject, which share their shots."""

    name: str
    items: Iterable[Item]
    shots: tuple[Item, ...] = ()
    preamble: str = ""  # before the shots


@dataclasses.dataclass(frozen=True)
class Making:
    """What a task needs that makes its items. lengths: of prompt and answer, in tokens; a group each, of `items` items."""

    encode: Callable[[str], list[int]]
    lengths: tuple[int, ...]
    items: int
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """How one row is run.

    `load` yields the groups of the files that are there, and raises NoData where they are not; a task whose items are made
    for the model's tokenizer has `make` instead, whose groups make their items while they are read. Prompts are
    preamble + shots + context, with `separator` after each shot.
    """

    row: str
    layout: str  # the files that `load` reads, in DATA/row
    load: Callable[[Files], Iterable[Group]] | None
    shots: int
    stop: tuple[str, ...]
    max_new_tokens: int
    separator: str = "\n\n"
    mean_of_groups: bool = False  # the score is the mean over groups, else over items
    folder: str = ""  # in DATA, where it is not the row's name
    deviation: str = ""  # from the row's reference, in words
    make: Callable[[Files, Making], Iterable[Group]] | None = None

    def groups(self, files: Files, making: Making) -> Iterable[Group]:
        return self.make(files, making) if self.make else self.load(files)

    def prompt(self, group: Group, item: Item, shots: int | None = None) -> str:
        """The text before the answer, with at most `shots` shots. An item is never a shot of itself."""
        chosen = self.chosen_shots(group, item)[: self.shots if shots is None else shots]
        return group.preamble + "".join(s.context + s.answer + self.separator for s in chosen) + item.context

    def chosen_shots(self, group: Group, item: Item) -> list[Item]:
        found = group.shots if item.shots is None else item.shots
        return [shot for shot in found if shot.context != item.context][: self.shots]
