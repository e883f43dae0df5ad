"""Which conversations stand in which packed sequence, and what happens to one that is longer than a sequence. Pure numpy.

1. A conversation that is longer than a sequence is dropped, truncated or split (`LayoutRule.too_long`).
2. Best-fit decreasing puts the conversations into sequences (best_fit.py), each a segment of its own.
3. With `LayoutRule.sessions` = n, every n conversations of a sequence are one segment, whose later sessions see the earlier
   ones; the last segment of a sequence may have fewer. Each session keeps its system message and its end token.

The result depends on the stream alone, so the order of a run stays a function of (seed, index). In no sequence stands a
learned token without its prompt in front of it in its segment: all that was there, or with `split` the question that it
answers and all that follows it.
"""

import bisect
import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dots_jax.data.sequences.best_fit import best_fit


class LayoutRule(NamedTuple):
    """too_long: `drop`: it is left out; `truncate`: its last turns are; `split`: it goes on in further sequences, at questions of
    the user. sessions: conversations in one segment, at most."""

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


def truncated(tokens: np.ndarray, weights: np.ndarray, seq_len: int) -> tuple[list[Piece], bool]:
    """The complete turns up to the last answer that is learned and fits, none if the first does not; whether any is lost.

    Args: tokens: int [n], of one conversation. weights: 0 or 1 [n], whether each is learned."""
    closes = _answer_ends(weights[: seq_len + 1])
    closes = closes[closes <= seq_len]
    end = int(closes[-1]) if len(closes) else 0
    return [Piece(0, end)] if end else [], np.count_nonzero(weights[end:]) > 0


def split(tokens: np.ndarray, weights: np.ndarray, seq_len: int, question_id: int) -> tuple[list[Piece], bool]:
    """Pieces of exchanges, a question and its answers; each takes as many as fit. An exchange that is too long is in none.
    Nothing is repeated: the system message is in the first piece alone. And whether any answer is lost.

    Args: question_id: the token that opens a message of the user; an exchange begins where it follows a learned token."""
    begins = np.flatnonzero(tokens[1:] == question_id) + 1
    edges = [0, *begins[weights[begins - 1] == 1].tolist(), len(tokens)]
    pieces, lost, at = [], False, 0
    while at < len(edges) - 1:
        last = bisect.bisect_right(edges, edges[at] + seq_len) - 1  # the furthest edge that fits
        # In front of every edge but the last stands a learned token.
        learned = max(last, at + 1) < len(edges) - 1 or np.count_nonzero(weights[edges[at] :]) > 0
        if last > at and learned:
            pieces.append(Piece(edges[at], edges[last]))
        lost = lost or (last == at and learned)
        at = max(last, at + 1)
    return pieces, lost


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
        pieces, lost = (
            truncated(tokens, weights, seq_len)
            if rule.too_long == "truncate"
            else split(tokens, weights, seq_len, question_id)
        )
        cut += [(number, int(starts[number]) + one.start, one.end - one.start) for one in pieces]
        if lost:
            left_out[_what(rule, pieces)] += 1
    if rule.too_long == "drop" and len(long):
        left_out["longer than a sequence"] = len(long)
    if len(long):
        kept = np.flatnonzero(lengths <= seq_len)
        more = np.array(cut, np.int64).reshape(-1, 3)
        order = np.argsort(np.concatenate([kept, more[:, 0]]), kind="stable")  # of the stream
        starts = np.concatenate([starts[kept], more[:, 1]])[order]
        lengths = np.concatenate([lengths[kept], more[:, 2]])[order]
    row_of = best_fit(lengths, seq_len)
    order = np.argsort(row_of, kind="stable")  # in a sequence, the order of the stream
    counts = np.bincount(row_of) if len(order) else np.zeros(0, np.int64)
    rows = np.concatenate([[0], np.cumsum(counts)])
    place = np.arange(len(order)) - np.repeat(rows[:-1], counts)
    ends_segment = (place % rule.sessions == rule.sessions - 1) | (place == np.repeat(counts, counts) - 1)
    return Layout(starts[order], lengths[order], ends_segment, rows, dict(sorted(left_out.items())))


def _what(rule: LayoutRule, pieces: list[Piece]) -> str:
    """What is lost of a conversation of which some is."""
    if not pieces:
        return "longer than a sequence, their first answer included"
    return (
        "cut behind the last answer that fits" if rule.too_long == "truncate" else "an exchange longer than a sequence"
    )
