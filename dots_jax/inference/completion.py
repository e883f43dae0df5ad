"""What a model wrote for each request, as tokens and as text, and why it stopped."""

import heapq
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from dots_jax.inference.generation import Generator, Request
from dots_jax.inference.text import RowText, Vocabulary


class Completion(NamedTuple):
    """tokens: up to and with the one that ended the row. logprobs: the model's, of each token, in nats, before temperature,
    top_k and top_p. text: without special tokens, cut off before the stop string; empty without a vocabulary.

    finish_reason: "stop", or "length" for a row that was cut off at max_new_tokens or where the context ends. stop_reason: the
    stop string (str) or the stop id (int) that ended it, or None. The two fields are those of vLLM.
    """

    tokens: list[int]
    logprobs: list[float]
    text: str
    finish_reason: str
    stop_reason: str | int | None


def complete(
    generator: Generator, requests: Sequence[Request], stop_ids: Collection[int], vocabulary: Vocabulary | None, *,
    stop: Sequence[str] | Sequence[Sequence[str]] = (), on_text=None, **options,
) -> Iterator[tuple[int, Completion]]:  # fmt: skip
    """(number of the request, completion), in the order in which they end; `in_order` sorts them.

    stop: strings before which a text ends: the same for all, or a tuple for each request. on_text(number, text) gets new
    text as it comes, complete characters only. options: of `Generator.generate`.
    """
    pieces = vocabulary.pieces if vocabulary else ()
    rows: dict[int, tuple[list[int], list[float], RowText]] = {}
    stop_of = lambda number: stop if not stop or isinstance(stop[0], str) else stop[number]

    def on_tokens(number: int, new: list[int], new_logprobs: list[float]) -> bool:
        if number not in rows:
            rows[number] = [], [], RowText(pieces, stop_of(number))
        tokens, logprobs, text = rows[number]
        tokens += new
        logprobs += new_logprobs
        text.add(new)
        if on_text:
            on_text(number, text.show())
        return not text.stopped

    for number in generator.generate(requests, stop_ids, on_tokens, **options):
        tokens, logprobs, text = rows.pop(number)
        text.end()
        if on_text:
            on_text(number, text.show(ended=True))
        tokens, logprobs = tokens[: text.kept], logprobs[: text.kept]
        reason = text.found if text.stopped else tokens[-1] if tokens[-1] in stop_ids else None
        yield number, Completion(tokens, logprobs, text.text, "length" if reason is None else "stop", reason)


def in_order(completions: Iterator[tuple[int, Completion]]) -> Iterator[tuple[int, Completion]]:
    """The same, in the order of the requests: those that end early wait."""
    waiting: list[tuple[int, Completion]] = []
    following = 0
    for found in completions:
        heapq.heappush(waiting, found)
        while waiting and waiting[0][0] == following:
            yield heapq.heappop(waiting)
            following += 1
