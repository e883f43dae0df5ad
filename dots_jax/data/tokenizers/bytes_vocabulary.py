"""Bytes as tokens, for models that were trained without a tokenizer. Needs neither seqio nor TensorFlow."""

from dots_jax.config import UserError

FIRST_BYTE = 3  # of seqio's byte vocabulary, whose first ids are padding, end and unknown


class BytesVocabulary:
    """The ids of seqio.ByteVocabulary(extra_ids=0); see `inference.text.Vocabulary`."""

    name, size, eos_id = "bytes", FIRST_BYTE + 256, 1
    pieces = (b"",) * FIRST_BYTE + tuple(bytes([byte]) for byte in range(256))

    def encode(self, text: str) -> list[int]:
        return [FIRST_BYTE + byte for byte in text.encode()]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def special_id(self, name: str) -> int:
        raise UserError(f"The vocabulary of this model, {self.name}, has no special token {name!r}.")
