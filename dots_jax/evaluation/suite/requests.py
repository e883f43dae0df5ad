"""From the items of a task to requests of tokens, each with the key under which its answer is stored."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator

from dots_jax.config import UserError
from dots_jax.evaluation.tasks.task import Group, Item, Task

VERSION = 1  # of prompts and keys: higher when the same item gets another prompt or another way of generating
Encode = Callable[[str], list[int]]
GENERATION, RANKING = "generation", "ranking"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all requests of a run share, and what an answer depends on besides its prompt."""

    weights: str  # SHA-256 of the checkpoint's checksums
    tokenizer: str  # SHA-256
    dtype: str
    context: int  # tokens
    chat: bool = False


@dataclasses.dataclass(frozen=True)
class Request:
    """One item as the model gets it.

    tokens: the prompt. rows: of a ranked item, prompt and choice together and where the choice begins, for each choice.
    shots: in the prompt. dropped_shots: that did not fit. cut: tokens cut from the left, where the item alone did not fit.
    """

    mode: str
    task: Task
    group: str
    item: Item
    tokens: list[int]
    rows: tuple[tuple[list[int], int], ...]
    max_new_tokens: int
    stop: tuple[str, ...]
    shots: int
    dropped_shots: int
    cut: int
    key: str


class RequestMaker:
    """Makes the requests of tasks, one at a time."""

    def __init__(self, setting: Setting, encode: Encode, encode_chat: Encode, start: int):
        """start: the token that stands for an empty prompt."""
        self.setting, self._encode, self._encode_chat, self._start = setting, encode, encode_chat, start

    def requests(self, task: Task, groups: Iterable[Group], limit: int | None, mode: str) -> Iterator[Request]:
        """At most `limit` of a row, the first ones of its files. In RANKING mode only the items with choices.

        Raises UserError for an id that comes twice.
        """
        seen: set[str] = set()
        pairs = ((group, item) for group in groups for item in group.items)
        for group, item in itertools.islice(pairs, limit):
            if item.id in seen:
                raise UserError(f"{task.row}: the id {item.id!r} comes twice in its files: ids must differ.")
            seen.add(item.id)
            if mode == GENERATION:
                yield self._generation(task, group, item)
            elif item.choices:
                yield self._ranking(task, group, item)

    def _generation(self, task: Task, group: Group, item: Item) -> Request:
        # A chat answers at length, and ends by itself.
        new = max(task.max_new_tokens, 512) if self.setting.chat else task.max_new_tokens
        room = self.setting.context - min(new, self.setting.context // 2)
        encode = self._encode_chat if self.setting.chat else self._encode
        tokens, shots, dropped, cut = self._fit(task, group, item, encode, room)
        return self._request(GENERATION, task, group, item, tokens, (), new, shots, dropped, cut)

    def _ranking(self, task: Task, group: Group, item: Item) -> Request:
        longest = max(len(self._encode(choice)) for choice in item.choices)
        room = self.setting.context - longest
        _, shots, dropped, _ = self._fit(task, group, item, self._encode, room)
        prompt = task.prompt(group, item, shots)
        pairs = [encode_pair(prompt, choice, self._encode, self._start) for choice in item.choices]
        # The last token is a target alone: it is not fed, so that one more than the context fits.
        cut = max(0, max(len(tokens) for tokens, _ in pairs) - self.setting.context - 1)
        rows = tuple((tokens[cut:], max(1, begin - cut)) for tokens, begin in pairs)
        return self._request(RANKING, task, group, item, [], rows, 0, shots, dropped, cut)

    def _fit(self, task: Task, group: Group, item: Item, encode, room: int) -> tuple[list[int], int, int, int]:
        """The prompt's tokens, its shots, shots dropped, tokens cut. Shots go first, then the left end, as in OpenCompass."""
        available = 0 if self.setting.chat else len(task.chosen_shots(group, item))
        shots = available
        tokens = encode(task.prompt(group, item, shots))
        while len(tokens) > room and shots:
            shots -= 1
            tokens = encode(task.prompt(group, item, shots))
        cut = max(0, len(tokens) - room)
        return tokens[cut:] or [self._start], shots, available - shots, cut

    def _request(self, mode, task, group, item, tokens, rows, new, shots, dropped, cut) -> Request:
        stop = () if self.setting.chat else task.stop
        fields = [VERSION, mode, dataclasses.astuple(self.setting), task.row, item.id, tokens, rows, new, stop]
        key = hashlib.sha256(json.dumps(fields).encode()).hexdigest()
        return Request(mode, task, group.name, item, tokens, rows, new, stop, shots, dropped, cut, key)


def encode_pair(
    prompt: str, choice: str, encode: Callable[[str], list[int]], start: int
) -> tuple[list[int], int]:  # fmt: skip
    """The tokens of prompt and choice together, and where those of the choice begin (at least 1).

    As lm-evaluation-harness counts: blanks that end the prompt belong to the choice, and what is scored begins behind as many
    tokens as the prompt has alone. Where the choice has none left, since it merged with the prompt's last token, it begins
    at the first token that differs. An empty prompt is the token `start`.
    """
    blanks = len(prompt) - len(prompt.rstrip())
    if blanks:
        prompt, choice = prompt[:-blanks], prompt[-blanks:] + choice
    tokens, alone = encode(prompt + choice), encode(prompt) if prompt else []
    begin = len(alone)
    if begin >= len(tokens):
        begin = next((i for i, (a, b) in enumerate(zip(tokens, alone)) if a != b), len(tokens) - 1)
    return ([start, *tokens], 1) if begin == 0 else (tokens, begin)
