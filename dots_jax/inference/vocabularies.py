"""The vocabularies of `data` as generation reads them. Importing this loads TensorFlow."""

from dots_jax.config import UserError
from dots_jax.data.sources.text_task import BYTES
from dots_jax.data.tokenizers.tokenizer import TokenizerVocabulary
from dots_jax.data.tokenizers.vocabulary import token_bytes


class DataVocabulary:
    """See `text.Vocabulary`; also what `chat.encode` asks of one."""

    def __init__(self, vocabulary, name: str):
        self.name, self.size, self.eos_id = name, vocabulary.vocab_size, vocabulary.eos_id
        self.pieces, self._vocabulary = token_bytes(vocabulary), vocabulary

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        if isinstance(self._vocabulary, TokenizerVocabulary):
            return self._vocabulary.encode_batch(texts)  # without the offsets that `encode` makes
        return [list(map(int, self._vocabulary.encode(text))) for text in texts]

    def special_id(self, name: str) -> int:
        if not hasattr(self._vocabulary, "special_id"):
            raise UserError(f"The vocabulary of this model, {self.name}, has no special token {name!r}.")
        return self._vocabulary.special_id(name)


def tokenizer_vocabulary(path: str) -> DataVocabulary:
    return DataVocabulary(TokenizerVocabulary(path), path)


def bytes_vocabulary() -> DataVocabulary:
    return DataVocabulary(BYTES, "bytes")
