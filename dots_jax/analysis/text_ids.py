"""Text <-> token ids where there is no seqio or TensorFlow: a notebook that only looks at a model.

Gives the ids that `data/tokenizers/tokenizer_file.py` and the byte vocabulary give.
"""

import itertools
import json
from collections.abc import Sequence

from dots_jax.config import UserError
from dots_jax.data.tokenizers.bytes_vocabulary import FIRST_BYTE
from dots_jax.human import first_line
from dots_jax.storage import folder


class TextIds:
    """tokenizer: a Hugging Face tokenizer.json, on a disk or in a bucket; empty: bytes."""

    def __init__(self, tokenizer: str = ""):
        self._tokenizer = None
        self._special: dict[int, str] = {}
        self._pieces: frozenset[int] = frozenset()
        if not tokenizer:
            return
        import tokenizers

        try:
            fields = json.loads(folder(tokenizer).read_text())
            for token in fields.get("added_tokens", []):
                token["special"] = True  # only what is marked so can be kept from being read out of a text
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(fields))
            # The file's own numbers: the library numbers special tokens anew where they stand behind unused ids.
            self._special = {int(token["id"]): token["content"] for token in fields.get("added_tokens", [])}
        except Exception as error:  # the library raises plain Exception
            raise UserError(f"The tokenizer {tokenizer} cannot be read: {first_line(error)}") from None
        self._pieces = frozenset(self._tokenizer.get_vocab(with_added_tokens=False).values()) - self._special.keys()
        self._tokenizer.encode_special_tokens = True  # text is only text, also where it spells a special token
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str) -> list[int]:
        if self._tokenizer is None:
            return [FIRST_BYTE + byte for byte in text.encode()]
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Special tokens by name; bytes that are no character, and ids that no token has, are shown as U+FFFD."""
        if self._tokenizer is None:
            return bytes(i - FIRST_BYTE for i in ids if 0 <= i - FIRST_BYTE < 256).decode(errors="replace")
        shown = []
        for is_text, run in itertools.groupby(ids, self._pieces.__contains__):
            if is_text:
                shown.append(self._tokenizer.decode(list(run), skip_special_tokens=False))
            else:
                shown += [self._special.get(i, "\ufffd") for i in run]
        return "".join(shown)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each id alone."""
        return [self.decode([i]) for i in ids]
