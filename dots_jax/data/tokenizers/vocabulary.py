"""What a seqio vocabulary's ids stand for, in bytes; and what tells two vocabularies apart."""

import hashlib

import numpy as np
import seqio

from dots_jax.config import UserError

# Words, code, Chinese, an emoji, a control character, digits: vocabularies that encode this alike are taken for one.
_PROBE = "The quick brown fox\n\tdef f(x): return x**2  # 你好,世界 🦊 \x01 3.14159 naïve"


def token_bytes(vocabulary: seqio.Vocabulary) -> list[bytes]:
    """The text bytes of each id in range(vocab_size); special ids stand for none.

    A vocabulary of one's own offers them as a method `token_bytes()`. Raises UserError for one that cannot say.
    """
    if hasattr(vocabulary, "token_bytes"):
        return vocabulary.token_bytes()
    if isinstance(vocabulary, seqio.ByteVocabulary):
        first = vocabulary.vocab_size - vocabulary.extra_ids - 256
        return [bytes([i - first]) if 0 <= i - first < 256 else b"" for i in range(vocabulary.vocab_size)]
    raise UserError(
        f"{type(vocabulary).__name__} cannot say how many bytes each token stands for, which bits per byte need: "
        "give it a method token_bytes() that returns the bytes of every id."
    )


def token_byte_lengths(vocabulary: seqio.Vocabulary) -> np.ndarray:
    """int64 [vocab_size]: text bytes of each id."""
    return np.array([len(b) for b in token_bytes(vocabulary)], np.int64)


def identity(vocabulary: seqio.Vocabulary) -> str:
    """Equal for vocabularies that encode alike; readable, since messages show it."""
    if hasattr(vocabulary, "sha256"):  # of the file that says all
        return f"{type(vocabulary).__name__}(vocab_size={vocabulary.vocab_size}, sha256={vocabulary.sha256[:12]})"
    probe = hashlib.sha256(repr(list(vocabulary.encode(_PROBE))).encode()).hexdigest()[:12]
    return f"{type(vocabulary).__name__}(vocab_size={vocabulary.vocab_size}, eos_id={vocabulary.eos_id}, probe={probe})"


def encode_batch(vocabulary: seqio.Vocabulary, texts: list[bytes]) -> list[np.ndarray]:
    """The ids of each text (UTF-8), without end tokens: what `vocabulary.encode` gives, at the speed of a batch.

    A vocabulary of one's own may offer a method `encode_batch(list of str) -> list of ids`.
    """
    if hasattr(vocabulary, "encode_batch"):
        return [
            np.asarray(ids, np.int64)
            for ids in vocabulary.encode_batch([text.decode(errors="replace") for text in texts])
        ]
    if isinstance(vocabulary, seqio.ByteVocabulary):
        first = vocabulary.vocab_size - vocabulary.extra_ids - 256
        return [np.frombuffer(text, np.uint8).astype(np.int64) + first for text in texts]
    return [np.asarray(vocabulary.encode(text.decode(errors="replace")), np.int64) for text in texts]


class DataVocabulary:
    """A seqio vocabulary as generation reads one: see `inference.text.Vocabulary`."""

    def __init__(self, vocabulary: seqio.Vocabulary, name: str):
        self.name, self.size, self.eos_id = name, vocabulary.vocab_size, vocabulary.eos_id
        self.pieces, self._vocabulary = token_bytes(vocabulary), vocabulary

    def encode(self, text: str) -> list[int]:
        return list(map(int, self._vocabulary.encode(text)))

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def special_id(self, name: str) -> int:
        if not hasattr(self._vocabulary, "special_id"):
            raise UserError(f"The vocabulary of this model, {self.name}, has no special token {name!r}.")
        return self._vocabulary.special_id(name)
