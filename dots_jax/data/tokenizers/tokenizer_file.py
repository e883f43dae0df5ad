"""A Hugging Face tokenizer.json: dots.llm1's own, or one of train_tokenizer. Needs neither seqio nor TensorFlow.

Byte-level BPE of the Qwen2 family: any text can be written with its tokens, so there is no unknown token, and id 0 is a
token like any other. Special tokens are found by name, never by number, since sources disagree on the numbers.

Text is only text: the letters `<|endoftext|>` in a document become the tokens of those letters, never the special token.
So it is with all that a tokenizer.json calls added tokens, also `<tool_call>` and its like, which Qwen2's does not mark as
special. Whoever wants one asks for its id with `special_id`; so no document can end itself, or speak as a system prompt.
"""

import collections
import hashlib
import json
from collections.abc import Iterable, Sequence

import tokenizers

from dots_jax.config import UserError
from dots_jax.data.tokenizers.chat import CHAT_TOKENS
from dots_jax.storage import in_bucket, open_file

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, *CHAT_TOKENS)

_FIX = "use dots.llm1's own tokenizer.json, or one of `python -m dots_jax.train_tokenizer`"


class TokenizerFile:
    """Text <-> ids of a byte-level tokenizer.json. `decode(encode(text))` is the text after the file's own normaliser
    (Qwen2: Unicode NFC).

    Attributes: name: the path; sha256 of the file, in hex; size: the highest id + 1; pieces: the text bytes of each id,
    where special tokens, and ids that no token has, stand for none; eos_id: that of `<|endoftext|>`.
    Raises UserError for a file that is missing, malformed, not byte-level, or without exactly one `<|endoftext|>`; the
    chat tokens are asked for when conversations are, so that a plain Qwen2 tokenizer serves for text.
    """

    def __init__(self, path: str):
        self.name = path = str(path)
        content = _read(path)
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._tokenizer, added = _load(path, content)
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        # The ids that the file says: where these leave a gap, the library numbers added tokens anew without a word.
        self._special_ids = _unique_ids(path, added, vocabulary)
        self.pieces = [b""] * (max([*vocabulary.values(), *self._special_ids.values()], default=0) + 1)
        self.size = len(self.pieces)
        for name, i in vocabulary.items():
            if name not in self._special_ids:
                self.pieces[i] = _bytes_of(path, name)
        if {bytes([b]) for b in range(256)} - set(self.pieces):
            raise _not_byte_level(path)
        self._shown = {i: name.encode() for name, i in self._special_ids.items()}
        self.eos_id = self.special_id(END_OF_TEXT)

    def special_id(self, name: str) -> int:
        """The id of a special token. Raises UserError if the tokenizer has none of that name."""
        if name not in self._special_ids:
            raise UserError(f"The tokenizer {self.name} has no special token {name!r}: {_FIX}.")
        return self._special_ids[name]

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without an end token."""
        return self._tokenizer.encode(_unicode(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without end tokens, on all cores."""
        encodings = self._tokenizer.encode_batch_fast([_unicode(text) for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """Special tokens appear by name; ids that no token has, and bytes that are not UTF-8, as U+FFFD."""
        return b"".join(self._piece(int(i)) for i in ids).decode("utf-8", "replace")

    def _piece(self, i: int) -> bytes:
        known = 0 <= i < len(self.pieces)
        return (self.pieces[i] if known else b"") or self._shown.get(i, "\ufffd".encode())


def _read(path: str) -> bytes:
    if in_bucket(path):
        with open_file(path) as file:
            return file.read()
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise UserError(f"There is no tokenizer file {path}: {_FIX}.") from None
    except OSError as error:
        raise UserError(f"The tokenizer file {path} cannot be read ({error.strerror}): {_FIX}.") from None


def _load(path: str, content: bytes) -> tuple[tokenizers.Tokenizer, list[dict]]:
    """The tokenizer, which reads special tokens in a text as plain letters; and its added tokens."""
    try:
        fields = json.loads(content)
        added = fields["added_tokens"]
        for token in added:
            token["special"] = True  # only what is marked so can be kept from being read out of a text
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(fields))
    except Exception as error:  # the library raises plain Exception
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(
            f"{path} is no Hugging Face tokenizer.json ({type(error).__name__}: {reason}): {_FIX}."
        ) from None
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, added


def _unique_ids(path: str, added: list[dict], vocabulary: dict[str, int]) -> dict[str, int]:
    """Name -> id of the special tokens, each name with one id and each id with one name."""
    names = collections.Counter(token["content"] for token in added)
    users = collections.defaultdict(set)
    for name, i in [*vocabulary.items(), *((token["content"], token["id"]) for token in added)]:
        users[i].add(name)
    special = {token["content"]: token["id"] for token in added}
    for name, i in special.items():
        if names[name] > 1 or len(users[i]) > 1 or vocabulary.get(name, i) != i:
            raise UserError(
                f"The tokenizer {path} has no id of its own for the special token {name!r}, since its entry is double or "
                f"shares id {i}: {_FIX}."
            )
    return special


def _unicode(text: str) -> str:
    """Half a surrogate pair, which JSON can spell, is no character: U+FFFD takes its place."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _byte_letters() -> dict[str, int]:
    """The letter that byte-level BPE writes for each byte: itself where that can be seen, else one from 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [b for b in range(256) if b not in seen]
    return {chr(b): b for b in seen} | {chr(256 + n): b for n, b in enumerate(hidden)}


_BYTE_LETTERS = _byte_letters()


def _bytes_of(path: str, token: str) -> bytes:
    try:
        return bytes(_BYTE_LETTERS[letter] for letter in token)
    except KeyError:
        raise _not_byte_level(path) from None


def _not_byte_level(path: str) -> UserError:
    return UserError(f"The tokenizer {path} is not a byte-level BPE, so it cannot write every text: {_FIX}.")
