"""Which conversations stand in which packed sequence, and what happens to one that is longer than a sequence. Pure numpy.

1. A conversation that is longer than a sequence is dropped, truncated or split (`LayoutRule.too_long`).
2. With `LayoutRule.sessions` = n, n conversations that follow each other in the stream become one segment, whose later
   sessions see the earlier ones; fewer if they do not fit a sequence. Each keeps its system message and its end token.
3. Best-fit decreasing puts the segments into sequences (best_fit.py).

The result depends on the stream alone, so the order of a run stays a function of (seed, index). In no sequence stands a
learned token without its prompt in front of it in its segment: all that was there, or with `split` the question that it
answers and all that follows it.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dots_jax.data.sequences.best_fit import best_fit


class LayoutRule(NamedTuple):
    """too_long: `drop`: it is left out; `truncate`: its last turns are; `split`: it goes on in further sequences, at questions of
    the user. sessions: conversations in one segment."""

    too_long: str = "drop"
    sessions: int = 1


DEFAULT = LayoutRule()


class Piece(NamedTuple):
    """Tokens [start, end) of a conversation."""

    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """starts, lengths: int64 [pieces], places in the stream, in the order of the sequences. ends_segment: bool [pieces], False if
    the next piece goes on in the same segment. rows: int64 [sequences + 1]; sequence i has pieces rows[i]:rows[i + 1].
    left_out: what of the stream is in no sequence -> conversations."""

    starts: np.ndarray
    lengths: np.ndarray
    ends_segment: np.ndarray
    rows: np.ndarray
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.rows) - 1


def truncated(tokens: np.ndarray, weights: np.ndarray, seq_len: int) -> list[Piece]:
    """The complete turns up to the last answer that is learned and fits; none if the first does not.

    Args: tokens: int [n], of one conversation. weights: 0 or 1 [n], whether each is learned."""
    closes = _answer_ends(weights)
    closes = closes[closes <= seq_len]
    return [Piece(0, int(closes[-1]))] if len(closes) else []


def split(tokens: np.ndarray, weights: np.ndarray, seq_len: int, question_id: int) -> list[Piece]:
    """Pieces of exchanges, a question and its answers; each takes as many as fit. An exchange that is too long is in none, nor
    is a piece without a learned token. Nothing is repeated: the system message is in the first piece alone.

    Args: question_id: the token that opens a message of the user; an exchange begins where it follows a learned token."""
    after = np.append(0, weights[:-1])
    edges = [0, *np.flatnonzero((tokens == question_id) & (after == 1)).tolist(), len(tokens)]
    pieces: list[Piece] = []
    start = 0
    for begin, end in zip(edges[:-1], edges[1:]):
        if end - start > seq_len:
            pieces.append(Piece(start, begin))
            start = begin
        if end - start > seq_len:  # alone
            start = end
    pieces.append(Piece(start, len(tokens)))
    return [one for one in pieces if weights[one.start + 1 : one.end].any()]


def _answer_ends(weights: np.ndarray) -> np.ndarray:
    """Places behind each run of learned tokens."""
    learned = np.append(np.asarray(weights) == 1, False)
    return np.flatnonzero(learned[:-1] & ~learned[1:]) + 1


def lay_out(
    ends: np.ndarray,
    seq_len: int,
    rule: LayoutRule,
    read: Callable[[int, int], tuple[np.ndarray, np.ndarray]],
    question_id: int,
) -> Layout:
    """The layout of a stream.

    Args:
      ends: rising int [conversations], the place behind each.
      read: (start, tokens) -> tokens and weights of that part of the stream; it is asked for those that are too long alone.
      question_id: below 0 if unknown: then nothing can be split.
    """
    ends = np.asarray(ends, np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    lengths = ends - starts
    left_out: Counter[str] = Counter()
    long = np.flatnonzero(lengths > seq_len)
    cut: list[tuple[int, int, int]] = []  # (conversation, start, length)
    for number in long.tolist() if rule.too_long != "drop" else ():
        tokens, weights = read(int(starts[number]), int(lengths[number]))
        pieces = (
            truncated(tokens, weights, seq_len)
            if rule.too_long == "truncate"
            else split(tokens, weights, seq_len, question_id)
        )
        cut += [(number, int(starts[number]) + one.start, one.end - one.start) for one in pieces]
        left_out[_what(rule, pieces, weights)] += 1
    if rule.too_long == "drop" and len(long):
        left_out["longer than a sequence"] = len(long)
    left_out.pop("", None)
    if len(long):
        kept = np.flatnonzero(lengths <= seq_len)
        more = np.array(cut, np.int64).reshape(-1, 3)
        order = np.argsort(np.concatenate([kept, more[:, 0]]), kind="stable")  # of the stream
        starts = np.concatenate([starts[kept], more[:, 1]])[order]
        lengths = np.concatenate([lengths[kept], more[:, 2]])[order]
    segment_of = _segments(lengths, rule.sessions, seq_len)
    row_of = best_fit(np.bincount(segment_of, weights=lengths).astype(np.int64), seq_len)[segment_of]
    order = np.argsort(row_of, kind="stable")
    segments = segment_of[order]
    ends_segment = np.append(segments[:-1] != segments[1:], True) if len(order) else np.zeros(0, bool)
    rows = np.concatenate([[0], np.cumsum(np.bincount(row_of))]) if len(order) else np.zeros(1, np.int64)
    return Layout(starts[order], lengths[order], ends_segment, rows, dict(sorted(left_out.items())))


def _what(rule: LayoutRule, pieces: list[Piece], weights: np.ndarray) -> str:
    """What is in no sequence of a conversation that was cut; "" if every learned token is in one."""
    learned = sum(int(weights[one.start : one.end].sum()) for one in pieces)
    if learned == weights.sum():
        return ""
    if not pieces:
        return "longer than a sequence, their first answer included"
    return (
        "cut behind the last answer that fits" if rule.too_long == "truncate" else "an exchange longer than a sequence"
    )


def _segments(lengths: np.ndarray, sessions: int, seq_len: int) -> np.ndarray:
    """The segment of each piece: as many as `sessions` one after the other, as long as they fit a sequence."""
    if sessions == 1:
        return np.arange(len(lengths))
    found, segment, held, room = np.empty(len(lengths), np.int64), -1, sessions, 0
    for number, length in enumerate(lengths.tolist()):
        if held == sessions or length > room:
            segment, held, room = segment + 1, 0, seq_len
        found[number] = segment
        held, room = held + 1, room - length
    return found
