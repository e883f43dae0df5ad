"""Multiple choice: one question with 2 to 26 options as an item, in the template of each row's reference."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from dots_jax.config import UserError
from dots_jax.evaluation.rows.gold import ALPHABET
from dots_jax.evaluation.tasks.task import Item


@dataclasses.dataclass(frozen=True)
class Template:
    """The text of a question. `closing` may hold {letters} (A，B，C) and {last} (C). Nothing ends in a space."""

    before: str = ""
    option: str = "{letter}. {text}"
    between: str = "\n"
    closing: str = "Answer:"
    space: str = " "  # before the letter

    def item(
        self, id: str, question: str, options: Sequence[str], right: int, *,
        gold: Any = None, answer: str | None = None, ranked: bool = True,
    ) -> Item:  # fmt: skip
        """right: the index of the right option. answer: what a shot shows, default: the letter.

        Raises UserError for fewer than two options, or a right one that is not among them.
        """
        if not 2 <= len(options) <= len(ALPHABET) or not 0 <= right < len(options):
            raise UserError(f"The item {id} has {len(options)} options and the right one is number {right + 1}.")
        letters = ALPHABET[: len(options)]
        lines = [self.option.format(letter=letter, text=text) for letter, text in zip(letters, options)]
        quoted = "，".join(f"“{letter}”" for letter in letters)
        closing = self.closing.replace("{letters}", quoted).replace("{last}", letters[-1])
        context = f"{self.before}{question}\n{self.between.join(lines)}\n{closing}"
        return Item(
            id, context, self.space + letters[right] if answer is None else answer,
            {"options": list(options), "answer": letters[right]} if gold is None else gold,
            tuple(self.space + letter for letter in letters) if ranked else (), right if ranked else None,
        )  # fmt: skip


def index_of(answer: str, id: str, labels: Sequence[str]) -> int:
    """The place of a letter or label among those of the options. Raises UserError for another."""
    answer = answer.strip()
    if answer not in labels:
        raise UserError(f"The item {id} has the answer {answer[:40]!r}, which is none of {', '.join(labels)[:80]}.")
    return list(labels).index(answer)
