"""RULER's haystacks with needles, and variable tracking: prompts as functions of their amount of hay.

Templates, needles and parameters are those of NVIDIA/RULER (scripts/data/synthetic, scripts/synthetic.yaml), which fix what the
benchmark is. Depths follow a golden-ratio sequence over the prompts, so that any number of prompts spreads them evenly.
"""

import random
import string
import uuid
from collections.abc import Callable
from typing import NamedTuple

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "One of the special magic {kind} for {key} is: {value}."
GOLDEN = 0.6180339887498949
NIAH = (
    "Some special magic {kind} are hidden within the following text. Make sure to memorize it. I will quiz you about the "
    "{kind} afterwards.\n{context}\nWhat are all the special magic {kind} for {query} mentioned in the provided text? "
    "The special magic {kind} for {query} mentioned in the provided text are"
)
TRACKING = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\nQuestion: Find all "
    "variables that are assigned the value {query} in the text above. Answer: According to the chain(s) of variable assignment "
    "in the text above, {count} variables are assigned the value {query}, they are:"
)
Build = Callable[[int], str]


class Niah(NamedTuple):
    """hay: `noise`, `essay` or `needle`. keys, values of a key, and keys that are asked for."""

    hay: str
    key_kind: str = "words"
    value_kind: str = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1


def niah(
    spec: Niah, rng: random.Random, index: int, phase: float, sentences: list[str], words
) -> tuple[Build, list[str]]:
    """A prompt by its amount of hay (lines, or sentences of the essays), and the answers.

    phase: 0 to 1, where the sequence of depths begins. words: adjectives and nouns.
    """
    make = {
        "numbers": lambda: str(rng.randint(10**6, 10**7 - 1)),
        "words": lambda: f"{rng.choice(words[0])}-{rng.choice(words[1])}",
        "uuids": lambda: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
    }
    keys: list[str] = []
    while len(keys) < max(spec.keys, spec.queries):
        key = make[spec.key_kind]()
        if key not in keys:
            keys.append(key)
    values = [[make[spec.value_kind]() for _ in range(spec.values)] for _ in keys]
    asked = rng.sample(range(len(keys)), spec.queries)
    kind = spec.value_kind
    needles = [(number, NEEDLE.format(kind=kind, key=keys[number], value=value)) for number in range(len(keys))
               for value in values[number]]  # fmt: skip
    rng.shuffle(needles)
    depths = [rng.random() for _ in needles]
    # The first needle that is asked for takes the depth of the sequence.
    depths[next(i for i, (number, _) in enumerate(needles) if number in asked)] = (phase + index * GOLDEN) % 1
    texts = [text for _, text in needles]
    names = [keys[number] for number in asked]
    query = f"{', '.join(names[:-1])}, and {names[-1]}" if len(names) > 1 else names[0]
    template = NIAH
    if spec.queries * spec.values == 1:
        for plural, single in (("Some", "A"), ("are all", "is"), ("are", "is")):
            template = template.replace(plural, single)
        kind = kind[:-1]
    others: list[str] = []

    def hay(size: int) -> list[str]:
        if spec.hay == "essay":
            return _cycled(sentences, size)
        if spec.hay == "noise":
            return [NOISE] * size
        while len(others) < size:
            key = make[spec.key_kind]()
            if key not in keys:
                others.append(NEEDLE.format(kind=spec.value_kind, key=key, value=make[spec.value_kind]()))
        return others[:size]

    def build(size: int) -> str:
        context = (" " if spec.hay == "essay" else "\n").join(_inserted(hay(size), texts, depths))
        return template.format(kind=kind, context=context, query=query)

    return build, [value for number in asked for value in values[number]]


def _cycled(sentences: list[str], size: int) -> list[str]:
    return (sentences * -(-size // len(sentences)))[:size]


def _inserted(lines: list[str], needles: list[str], depths: list[float]) -> list[str]:
    """The lines with each needle at its share of them."""
    found, last = [], 0
    for depth, needle in sorted(zip(depths, needles)):
        place = int(depth * (len(lines) + 1))
        found += lines[last:place]
        found.append(needle)
        last = place
    return found + lines[last:]


def tracking(rng: random.Random, hops: int, example_size: int) -> tuple[Build, list[str]]:
    """A chain of `hops` + 1 variables between lines of noise, behind one example of `example_size` lines of noise."""
    example, names = _chain(rng, hops, 3, example_size)
    shown = f"{example(example_size)} {' '.join(names)}\n\n"
    build, answers = _chain(rng, hops, 5, 0)
    return lambda size: shown + build(size), answers


def _chain(rng: random.Random, hops: int, letters: int, size: int) -> tuple[Build, list[str]]:
    names: list[str] = []
    while len(names) <= hops:
        name = "".join(rng.choices(string.ascii_uppercase, k=letters))
        if name not in names:
            names.append(name)
    value = str(rng.randint(10_000, 99_998))
    lines = [f"VAR {names[0]} = {value}", *(f"VAR {b} = VAR {a} " for a, b in zip(names, names[1:]))]
    depths = sorted(rng.random() for _ in lines)

    def build(size: int) -> str:
        context = "\n".join(_ordered([NOISE] * size, lines, depths)).replace(". \n", ".\n")
        return TRACKING.format(context=context, query=value, count=len(names))

    return build, names


def _ordered(lines: list[str], chain: list[str], depths: list[float]) -> list[str]:
    """As `_inserted`, in the chain's own order."""
    found, last = [], 0
    for depth, each in zip(depths, chain):
        place = int(depth * (len(lines) + 1))
        found += [*lines[last:place], each]
        last = place
    return found + lines[last:]
