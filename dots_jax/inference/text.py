"""From tokens to text while they come: complete characters only, and cut off where a stop string begins."""

import codecs
from collections.abc import Iterable, Sequence
from typing import Protocol

from dots_jax.config import UserError

END_OF_RESPONSE = "<|endofresponse|>"  # closes the assistant's turn in dots.llm1's chat template


class Vocabulary(Protocol):
    """What generation needs of a tokenizer."""

    name: str
    size: int
    eos_id: int
    pieces: Sequence[bytes]  # the text of each id; special tokens have none

    def encode(self, text: str) -> list[int]: ...

    def special_id(self, name: str) -> int:
        """Raises UserError for a name that it does not have."""
        ...


def stop_ids(vocabulary: Vocabulary | None) -> set[int]:
    """The ids that end a text: end of text and, where there is one, the end of a response."""
    if vocabulary is None:
        return set()
    try:
        return {vocabulary.eos_id, vocabulary.special_id(END_OF_RESPONSE)}
    except UserError:
        return {vocabulary.eos_id}


class RowText:
    """The text of one row as it grows.

    text: what is known so far, complete characters, cut off before a stop string. kept: tokens up to and with the one that
    completed the stop string, or all. stopped: whether one was found. found: which.
    """

    def __init__(self, pieces: Sequence[bytes], stop: Iterable[str] = ()):
        self._pieces, self._stop = pieces, tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.text, self.kept, self.stopped, self.found = "", 0, False, ""
        self._shown = 0

    def add(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            if self.stopped:
                return
            self.kept += 1
            self._extend(self._decoder.decode(self._pieces[token] if token < len(self._pieces) else b""))

    def end(self) -> None:
        """No more tokens come: half a character becomes U+FFFD."""
        if not self.stopped:
            self._extend(self._decoder.decode(b"", final=True))

    def show(self, ended: bool = False) -> str:
        """What can be shown and was not yet: the start of what may become a stop string waits, unless nothing more comes."""
        until = len(self.text)
        if not (ended or self.stopped):
            until -= max((_overlap(self.text, stop) for stop in self._stop), default=0)
        new, self._shown = self.text[self._shown : until], max(until, self._shown)
        return new

    def _extend(self, more: str) -> None:
        if not more:
            return
        longest = max(map(len, self._stop), default=0)
        begin = max(0, len(self.text) - longest)
        self.text += more
        found = [(at, stop) for stop in self._stop if (at := self.text.find(stop, begin)) >= 0]
        if found:
            at, self.found = min(found)
            self.text, self.stopped = self.text[:at], True


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of text that begin `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
