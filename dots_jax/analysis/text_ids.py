"""Text <-> token ids where there is no seqio or TensorFlow: a notebook that only looks at a model.

Gives the ids that `data/tokenizers/tokenizer.py` and the byte vocabulary give.
"""

import json
from collections.abc import Sequence

from dots_jax.config import UserError
from dots_jax.human import first_line
from dots_jax.storage import folder

FIRST_BYTE = 3  # of seqio's byte vocabulary, whose first ids are padding, end and unknown


class TextIds:
    """tokenizer: a Hugging Face tokenizer.json, on a disk or in a bucket; empty: bytes."""

    def __init__(self, tokenizer: str = ""):
        self._tokenizer = None
        if not tokenizer:
            return
        import tokenizers

        try:
            fields = json.loads(folder(tokenizer).read_text())
            for token in fields.get("added_tokens", []):
                token["special"] = True  # only what is marked so can be kept from being read out of a text
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(fields))
        except Exception as error:  # the library raises plain Exception
            raise UserError(f"The tokenizer {tokenizer} cannot be read: {first_line(error)}") from None
        self._tokenizer.encode_special_tokens = True  # text is only text, also where it spells a special token
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str) -> list[int]:
        if self._tokenizer is None:
            return [FIRST_BYTE + byte for byte in text.encode()]
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Special tokens by name; bytes that are no character are shown as U+FFFD."""
        if self._tokenizer is None:
            return bytes(i - FIRST_BYTE for i in ids if 0 <= i - FIRST_BYTE < 256).decode(errors="replace")
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each id alone."""
        return [self.decode([i]) for i in ids]
