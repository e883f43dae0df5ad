"""From texts to token ids, and from those to batches of one shape.

A document is its first tokens and an end token. A line is the end of the line before, the beginning of the line after, and then
itself, with an end token behind each: the model is causal, so the line's own tokens see both neighbours, and only they are
pooled.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tokenizers

END_OF_TEXT = "<|endoftext|>"
CHARACTERS = 16  # of a text for each token that is used, four times what a token stands for: the rest is not tokenised


class Example(NamedTuple):
    """ids: int32, at least one. start: of the tokens that are pooled."""

    ids: np.ndarray
    start: int


class Batch(NamedTuple):
    """int32 [B, T] each. segments: 1 for tokens, 0 for padding; pool: 1 for tokens whose hidden states are averaged."""

    ids: np.ndarray
    segments: np.ndarray
    pool: np.ndarray


def load_tokenizer(text: str) -> tokenizers.Tokenizer:
    """From the content of a tokenizer.json. Special tokens in a text are plain letters."""
    tokenizer = tokenizers.Tokenizer.from_str(text)
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def documents(tokenizer: tokenizers.Tokenizer, texts: Sequence[str], length: int) -> list[Example]:
    """One example a text."""
    found = _encode(tokenizer, [text[: CHARACTERS * length] for text in texts])
    end = [tokenizer.token_to_id(END_OF_TEXT)]
    return [Example(np.array(ids[: length - 1] + end, np.int32), 0) for ids in found]


def lines(tokenizer: tokenizers.Tokenizer, texts: Sequence[str], length: int) -> list[list[Example]]:
    """For each text one example a line. Half of the length is the line's, a quarter each neighbour's."""
    end, quarter = [tokenizer.token_to_id(END_OF_TEXT)], length // 4
    found = []
    for text in texts:
        ids = _encode(tokenizer, [line[: CHARACTERS * length] for line in text.split("\n")])
        examples = []
        for number, line in enumerate(ids):
            before = ids[number - 1][-(quarter - 1) :] if number else []
            after = ids[number + 1][: quarter - 1] if number + 1 < len(ids) else []
            around = before + end + after + end
            examples.append(Example(np.array(around + line[: length - 2 * quarter - 1] + end, np.int32), len(around)))
        found.append(examples)
    return found


def of_kind(kind: str, tokenizer: tokenizers.Tokenizer, texts: Sequence[str], length: int) -> list[list[Example]]:
    """For each text its examples: one, or one a line."""
    if kind == "line":
        return lines(tokenizer, texts, length)
    return [[example] for example in documents(tokenizer, texts, length)]


def _encode(tokenizer: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    clean = [text.encode("utf-8", "replace").decode() for text in texts]  # half a surrogate pair is no character
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(clean, add_special_tokens=False)]


def pad(examples: Sequence[Example], rows: int, length: int) -> Batch:
    """[rows, length]; rows without an example hold one token, so that no mean is of nothing."""
    batch = Batch(*(np.zeros((rows, length), np.int32) for _ in Batch._fields))
    batch.segments[:, 0] = batch.pool[:, 0] = 1
    for place, example in enumerate(examples):
        size = len(example.ids)
        batch.ids[place, :size] = example.ids
        batch.segments[place, :size] = 1
        batch.pool[place, 0] = 0
        batch.pool[place, example.start : size] = 1
    return batch


def batches(examples: Sequence[Example], rows: int, length: int) -> Iterator[tuple[slice, Batch]]:
    """All examples in order, in batches of one shape, each with the places of its examples."""
    for first in range(0, len(examples), rows):
        yield slice(first, min(first + rows, len(examples))), pad(examples[first : first + rows], rows, length)
