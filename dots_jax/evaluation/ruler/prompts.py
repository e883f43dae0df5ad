"""The 13 tasks by name, and the prompts of a task at a length. Every prompt is a function of (task, length, seed, index).

A prompt and its budget of new tokens are together at most as long as asked, and at least 97 % of it, by the model's tokenizer.
"""

import functools
import math
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dots_jax.config import UserError
from dots_jax.evaluation.ruler import needles, sources, words
from dots_jax.evaluation.ruler.fit import AIM, FULL, Fitter
from dots_jax.evaluation.ruler.needles import Niah
from dots_jax.evaluation.tasks.files import Files

ESSAY = "essay"
NIAH = {
    "niah_single_1": Niah("noise"),
    "niah_single_2": Niah(ESSAY),
    "niah_single_3": Niah(ESSAY, value_kind="uuids"),
    "niah_multikey_1": Niah(ESSAY, keys=4),
    "niah_multikey_2": Niah("needle"),
    "niah_multikey_3": Niah("needle", key_kind="uuids", value_kind="uuids"),
    "niah_multivalue": Niah(ESSAY, values=4),
    "niah_multiquery": Niah(ESSAY, queries=4),
}
BUDGETS = dict.fromkeys(NIAH, 128) | {"vt": 30, "cwe": 120, "fwe": 50, "qa_1": 32, "qa_2": 32}  # new tokens
READINGS = {"qa_1": sources.squad, "qa_2": sources.hotpotqa}
HOPS, EXAMPLE_TOKENS = 4, 500
LENGTHS, ITEMS = (4096, 8192, 16_384, 32_768), 500


class Prompt(NamedTuple):
    """One item. `text` ends where the answer begins; tokens: of text."""

    text: str
    outputs: list[str]


def require_sources(task: str, files: Files) -> None:
    """Raises NoData or UserError where the task's texts are not there."""
    if task in READINGS:
        READINGS[task](files)
    elif task in NIAH and NIAH[task].hay == ESSAY:
        sources.essay_sentences(files)
    if task in NIAH or task == "cwe":
        sources.word_lists()


def prompts(
    task: str, files: Files, length: int, items: int, seed: int, encode: Callable[[str], list[int]]
) -> Iterator[Prompt]:  # fmt: skip
    """The first `items` prompts of a task. QA has as many as its file has questions.

    Raises UserError for a length without room for the task's instructions.
    """
    room = length - BUDGETS[task]
    if room < 200:
        raise UserError(f"RULER's {task} needs more than {length} tokens: its budget alone is {BUDGETS[task]}.")
    rng_of = lambda index: random.Random(f"{seed}/{task}/{length}/{index}")
    count = lambda text: len(encode(text))
    if task in READINGS:
        yield from _reading(READINGS[task](files), items, room, rng_of, count)
        return
    fitter = Fitter(count, room)
    make, smallest = _maker(task, files, length, rng_of, count)
    base, each = fitter.rate(make(rng_of("rate"), 0)[0], max(smallest, _guess(task, room)))
    size = fitter.first_size(base, each)
    if task in NIAH and NIAH[task].hay == ESSAY:
        size = _essay_size(fitter, make(rng_of("rate"), 0)[0], sources.essay_sentences(files), each)
    for index in range(items):
        build, outputs = make(rng_of(index), index)
        yield Prompt(fitter.text(build, size, each, smallest, f"RULER's {task} of {length:,} tokens"), outputs)


def _essay_size(fitter: Fitter, build, sentences: list[str], each: float) -> int:
    """Sentences that fit. They differ in length, so that a rate alone would need several tries for each prompt."""
    size = max(1, fitter.first_size(fitter.count(build(0)), each))
    for _ in range(8):
        tokens = fitter.count(build(size))
        step = math.floor((fitter.room * AIM - tokens) / each)
        if FULL * fitter.room <= tokens <= fitter.room and abs(step) <= 1:
            break
        size = max(1, size + step)
    return size


def _guess(task: str, room: int) -> int:
    """Units of hay from which a first rate is taken: less than fit with any tokenizer."""
    return max(8, room // {"fwe": 8, "cwe": 60}.get(task, 100))


def _maker(task: str, files: Files, length: int, rng_of, count):
    """(rng, index) -> (build, outputs), and the least hay."""
    if task in NIAH:
        spec, lists = NIAH[task], sources.word_lists()
        sentences = sources.essay_sentences(files) if spec.hay == ESSAY else []
        phase = rng_of("phase").random()
        return lambda rng, index: needles.niah(spec, rng, index, phase, sentences, lists), 1
    if task == "vt":
        size = _example_size(rng_of("example"), count)
        return lambda rng, index: needles.tracking(rng, HOPS, size), 1
    if task == "cwe":
        everything = sources.word_lists()[2]
        return lambda rng, index: words.common_words(rng, everything, length >= 4096), words.TOP
    room = length - BUDGETS[task]
    return lambda rng, index: words.frequent_words(rng, room), 16


def _example_size(rng: random.Random, count) -> int:
    """Lines of noise of the example, so that it takes some 500 tokens."""
    build, _ = needles._chain(rng, HOPS, 3, 0)
    empty, five = count(build(0)), count(build(5))
    return max(5, int((EXAMPLE_TOKENS - 30 - empty) / max(1, (five - empty) / 5)))


def _reading(data: sources.Reading, items: int, room: int, rng_of, count) -> Iterator[Prompt]:
    count_document = functools.cache(lambda place: count(f"\n\nDocument 100:\n{data.documents[place]}"))
    for index, question in enumerate(data.questions[:items]):
        yield Prompt(words.reading(rng_of(index), question, data, room, count, count_document), question.answers)
