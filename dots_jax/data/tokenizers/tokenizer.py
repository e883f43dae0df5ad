"""A Hugging Face tokenizer.json as a seqio vocabulary."""

from collections.abc import Iterable, Sequence

import numpy as np
import seqio
import tensorflow as tf

from dots_jax.data.tokenizers.tokenizer_file import TokenizerFile


class TokenizerVocabulary(seqio.Vocabulary):
    """The ids of a `TokenizerFile`, and its errors.

    vocab_size is the highest id + 1. A model's embedding may have more rows (dots.llm1: 152 064) but not fewer.
    Attributes: path; sha256 of the file, in hex.
    """

    def __init__(self, path: str):
        super().__init__()
        self._file = TokenizerFile(path)
        self.path, self.sha256 = self._file.name, self._file.sha256

    def special_id(self, name: str) -> int:
        """The id of a special token. Raises UserError if the tokenizer has none of that name."""
        return self._file.special_id(name)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without end tokens, on all cores."""
        return self._file.encode_batch(texts)

    def token_bytes(self) -> list[bytes]:
        """The text bytes of each id in range(vocab_size); special tokens, and ids that no token has, stand for none."""
        return list(self._file.pieces)

    @property
    def eos_id(self) -> int:
        return self._file.eos_id

    @property
    def pad_id(self) -> int:
        """The end token, as Qwen2 has it: seqio's own padding, 0, is a real token here."""
        return self._file.eos_id

    @property
    def unk_id(self) -> None:
        return None

    @property
    def _base_vocab_size(self) -> int:
        return self._file.size

    def _encode(self, s: str) -> list[int]:
        return self._file.encode(s)

    def _decode(self, ids: Iterable[int]) -> str:
        return self._file.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(text) -> np.ndarray:
            return np.array(self._encode(text.decode("utf-8", "replace")), np.int32)

        ids = tf.numpy_function(encode, [s], tf.int32, stateful=False)
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(ids) -> np.ndarray:
            rows = ids.reshape(-1, ids.shape[-1])
            # Up through the first end token, as in Python: what follows it is padding.
            return np.array([self.decode(row.tolist()).encode() for row in rows], object).reshape(ids.shape[:-1])

        text = tf.numpy_function(decode, [ids], tf.string, stateful=False)
        text.set_shape(ids.shape[:-1])
        return text

    def __eq__(self, other) -> bool:
        return isinstance(other, TokenizerVocabulary) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __reduce__(self):
        """Other processes read the file again."""
        return TokenizerVocabulary, (self.path,)
