"""RULER's counting of words, and its questions on documents. Templates and parameters are those of NVIDIA/RULER."""

import math
import random
import string
from collections.abc import Callable

from dots_jax.config import UserError
from dots_jax.evaluation.ruler.fit import FULL
from dots_jax.evaluation.ruler.needles import Build
from dots_jax.evaluation.ruler.sources import Question, Reading

COMMON = (
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that appear most "
    "often.\n{context}\nQuestion: What are the 10 most common words in the above list? Answer: The top 10 words that appear most "
    "often in the list are:"
)
FREQUENT = (
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared coded "
    "words. {context}\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three most "
    "frequently appeared words in the above coded text? Answer: According to the coded text above, the three most frequently "
    "appeared words are:"
)
ONLY = "Only give me the answer and do not output any other words."
READING = (
    f"Answer the question based on the given documents. {ONLY}\n\nThe following are given documents.\n\n{{context}}\n\nAnswer the "
    f"question based on the given documents. {ONLY}\n\nQuestion: {{query}} Answer:"
)
TOP, CODED_LETTERS = 10, 6
DRAWN = 1000  # documents that are drawn for a prompt, of which as many as fit are taken


def common_words(rng: random.Random, words: list[str], long: bool) -> tuple[Build, list[str]]:
    """Ten words that come 30 times among others that come 3 times (6 and once in prompts below 4,096 tokens)."""
    shot, few, many = ((40, 10, 3), 3, 30) if long else ((20, 3, 1), 1, 6)
    chosen = rng.sample(words, shot[0])
    shown = COMMON.format(context=_numbered(rng.random(), chosen, shot[1], shot[2]))
    shown += " " + " ".join(f"{place}. {word}" for place, word in enumerate(chosen[:TOP], 1))
    order, seed = rng.sample(words, len(words)), rng.random()

    def build(size: int) -> str:
        if size > len(order):
            raise UserError(
                f"RULER's cwe needs more than the {len(order):,} words of wonderwords: take a shorter length."
            )
        return f"{shown}\n{COMMON.format(context=_numbered(seed, order[:size], many, few))}"

    return build, order[:TOP]


def _numbered(seed: float, words: list[str], many: int, few: int) -> str:
    listed = words[:TOP] * many + words[TOP:] * few
    random.Random(seed).shuffle(listed)
    return " ".join(f"{place}. {word}" for place, word in enumerate(listed, 1))


def frequent_words(rng: random.Random, room: int) -> tuple[Build, list[str]]:
    """Coded words by a zeta distribution of exponent 2; the most frequent one is dots, and the next three are asked for."""
    coded: dict[str, None] = {}
    while len(coded) < max(8, room // 50):
        coded["".join(rng.choices(string.ascii_lowercase, k=CODED_LETTERS))] = None
    names, seed = ["...", *list(coded)[1:]], rng.random()

    def build(size: int) -> str:
        """size: words in all, before counts are rounded down."""
        listed = [name for rank, name in enumerate(names, 1) for _ in range(int(size * 6 / (math.pi * rank) ** 2))]
        random.Random(seed).shuffle(listed)
        return FREQUENT.format(context=" ".join(listed))

    return build, names[1:4]


def reading(
    rng: random.Random, question: Question, data: Reading, room: int, count: Callable[[str], int], count_document
) -> str:  # fmt: skip
    """The question behind its own documents and as many others as fit, shuffled.

    count_document: tokens of a document by its place, which are counted once for all prompts.
    """
    numbered = lambda chosen: "\n\n".join(
        f"Document {i}:\n{data.documents[place]}" for i, place in enumerate(chosen, 1)
    )
    make = lambda chosen: READING.format(context=numbered(chosen), query=question.text)
    needed = list(dict.fromkeys(question.needed))
    left = room - count(make([])) - sum(map(count_document, needed))
    if left < 0:
        raise UserError(
            f"RULER's documents of the question {question.text[:60]!r} take {room - left:,} tokens, but the prompt has room for "
            f"{room:,}: take a longer length."
        )
    taken = {*needed, *question.near}
    near = rng.sample(question.near, len(question.near))
    far = [
        place for place in rng.sample(range(len(data.documents)), min(DRAWN, len(data.documents))) if place not in taken
    ]
    others = near + far
    pool, chosen = (others or needed) * max(1, -(-room // (50 * max(1, len(others))))), []
    for place in pool:
        size = count_document(place)
        if size <= left:
            chosen.append(place)
            left -= size
        if left < (1 - FULL) * room / 4:
            break
    seed = rng.random()
    while True:
        places = needed + chosen
        random.Random(seed).shuffle(places)
        text = make(places)
        if count(text) <= room or not chosen:
            return text
        chosen.pop()  # tokens that merge or split at the joints
