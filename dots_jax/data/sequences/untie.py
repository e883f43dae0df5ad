"""Untie the knots (arXiv 2409.04774): documents of a long sequence are cut, shuffled and tied together by ids. Numpy only.

A stage with `Stage.untie` gives some of its sequences this form, so that the model must find the next piece of a
document somewhere behind it, and name the pieces in order when the document is complete:

    document of three chunks       a b c
    with knots                     a K0  |  K1 b K2  |  K3 c             where it was cut, on both sides of each cut
    with backtracing               <D> id </D> in front of each chunk, and after the chunk that is placed last
                                   <S> id_a <s> id_b <s> id_c </S>       in the order of the document

The chunks of all documents are shuffled together, uncut documents among them, except that the last chunk of the last
document stays last. Attention spans the sequence, so its segments are all 1. A sequence that is left alone keeps the
packing of every other stage.

Room. What is inserted takes room, and the answer must never be cut off. So every sequence of such a stage takes the same
`Stage.window_tokens` tokens of its source, and the rest (`Untie.reserve`) is for insertions: which tokens belong to
sequence n stays arithmetic. Documents are cut, in random order, while the reserve lasts; the others stay uncut. What the
reserve does not need is padding at the end. Nothing of the source is lost: each of its tokens is in one sequence a pass.
"""

import dataclasses

import numpy as np

from dots_jax.config import Untie, UserError
from dots_jax.data.sequences.order import key
from dots_jax.data.sequences.packing import Batch, empty

ID_CHARACTERS = 6
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@dataclasses.dataclass(frozen=True)
class Marks:
    """The reserved ids, in the order in which they follow `Untie.first_id`."""

    knots: tuple[int, ...]  # before and after cut c: knots[2 * c] closes a chunk, knots[2 * c + 1] opens the next
    open_id: int  # <D>
    close_id: int  # </D>
    open_answer: int  # <S>
    next_id: int  # <s>
    close_answer: int  # </S>

    @classmethod
    def of(cls, untie: Untie) -> "Marks":
        ids = range(untie.first_id, untie.first_id + untie.num_ids)
        return cls(tuple(ids[:-5]), *ids[-5:])


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Tokens start..end of the window: chunk `number` of the `of` that its document was cut into."""

    document: int
    number: int
    of: int
    start: int
    end: int


class Untier:
    """Rewrites the sequences of one stage.

    Args:
      vocabulary: a seqio vocabulary. Ids are written with its letters and digits, ID_CHARACTERS of them each, every
        character by itself, so that an id is always as many tokens (`alphabet_of`).
      seed: of the run. salt: of the stage. The random numbers of a sequence depend on (seed, salt, index) only.
    """

    def __init__(self, untie: Untie, seq_len: int, vocabulary, seed: int, salt: str):
        self._untie, self._marks, self._seed, self._salt = untie, Marks.of(untie), seed, salt
        self._alphabet = np.array(alphabet_of(vocabulary) if untie.backtrace else [], np.int32)
        self._eos_id = vocabulary.eos_id
        self._seq_len, self._budget = seq_len, seq_len - untie.window(seq_len)
        needed = self.cost(untie.min_chunks)
        if untie.probability and self._budget < needed:
            raise UserError(
                f"Stage {salt!r}: Untie.reserve keeps {self._budget} of {seq_len} tokens free, but cutting one document "
                f"inserts {needed}: raise it to {needed / seq_len:.3f} or more."
            )

    def cost(self, chunks: int) -> int:
        """Tokens that are inserted for a document cut into that many chunks."""
        knots = 2 * (chunks - 1)
        names = chunks * (2 + ID_CHARACTERS)
        answer = 2 + chunks * ID_CHARACTERS + chunks - 1
        return knots + (names + answer if self._untie.backtrace else 0)

    def row(self, window: Batch, index: int) -> Batch:
        """Sequence `index` of the stage: packing.FEATURES, each [seq_len].

        window: the packed sequence of Stage.window_tokens tokens (packing.FEATURES) that it is made of.
        """
        rng = np.random.Generator(np.random.PCG64(key(self._seed, self._salt, "untie", index)))
        if rng.random() >= self._untie.probability:
            return self._padded(window)
        size = int((window["segments"] > 0).sum())
        source, weights, segments = (window[name][:size] for name in ("targets", "weights", "segments"))
        ends = np.append(np.flatnonzero(np.diff(segments)) + 1, size)
        return self._packed(*self.write(source, weights, self.shuffle(self.cut(ends, rng), rng), rng))

    def cut(self, ends: np.ndarray, rng: np.random.Generator) -> list[list[Chunk]]:
        """Each document of a window as its chunks, in order. ends: rising [documents], where each ends in the window."""
        budget, starts = self._budget, np.concatenate([[0], ends[:-1]])
        pieces = [[Chunk(d, 0, 1, int(start), int(end))] for d, (start, end) in enumerate(zip(starts, ends))]
        for document in rng.permutation(len(ends)):
            start, end = int(starts[document]), int(ends[document])
            of = int(rng.integers(self._untie.min_chunks, self._untie.max_chunks + 1))
            if end - start < of or self.cost(of) > budget:
                continue
            budget -= self.cost(of)
            cuts = np.sort(rng.choice(end - start - 1, of - 1, replace=False)) + start + 1
            bounds = [start, *cuts.tolist(), end]
            pieces[document] = [Chunk(int(document), n, of, bounds[n], bounds[n + 1]) for n in range(of)]
        return pieces

    def shuffle(self, documents: list[list[Chunk]], rng: np.random.Generator) -> list[Chunk]:
        """All chunks in their new order."""
        *free, last = [chunk for document in documents for chunk in document]
        free = [free[i] for i in rng.permutation(len(free))]
        if self._untie.keep_order:
            in_order = [iter(document) for document in documents]
            free = [next(in_order[chunk.document]) for chunk in free]
        return [*free, last]

    def write(
        self, source: np.ndarray, weights: np.ndarray, chunks: list[Chunk], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int32 [n] and their weights as targets, float32 [n]: source tokens keep theirs (`weights`), except behind
        a knot; knots and `<D> id </D>` have 0; of the answer all but <S> have 1."""
        marks, names = self._marks, self._draw_ids(chunks, rng)
        left = {chunk.document: chunk.of for chunk in chunks}
        tokens: list[np.ndarray] = []
        counts: list[np.ndarray] = []

        def put(values, weight) -> None:
            tokens.append(np.asarray(values, np.int32))
            counts.append(np.full(len(values), weight, np.float32))

        for chunk in chunks:
            backtrace = self._untie.backtrace and chunk.of > 1
            if backtrace:
                put([marks.open_id, *names[chunk.document, chunk.number], marks.close_id], 0)
            if chunk.number > 0:
                put([marks.knots[2 * chunk.number - 1]], 0)
            put(source[chunk.start : chunk.end], weights[chunk.start : chunk.end])
            if chunk.number > 0:
                counts[-1][0] = 0  # nothing says which chunk follows a knot
            if chunk.number < chunk.of - 1:
                put([marks.knots[2 * chunk.number]], 0)
            left[chunk.document] -= 1
            if backtrace and left[chunk.document] == 0:
                put([marks.open_answer], 0)
                for number in range(chunk.of):
                    put(names[chunk.document, number], 1)
                    put([marks.next_id if number < chunk.of - 1 else marks.close_answer], 1)
        return np.concatenate(tokens), np.concatenate(counts)

    def _draw_ids(self, chunks: list[Chunk], rng: np.random.Generator) -> dict[tuple[int, int], list[int]]:
        """(document, chunk) -> its id, different from every other of the sequence."""
        names: dict[tuple[int, int], list[int]] = {}
        taken: set[tuple[int, ...]] = set()
        for chunk in sorted(chunks, key=lambda c: (c.document, c.number)) if self._untie.backtrace else ():
            while chunk.of > 1 and (chunk.document, chunk.number) not in names:
                drawn = tuple(self._alphabet[rng.integers(len(self._alphabet), size=ID_CHARACTERS)].tolist())
                if drawn not in taken:
                    taken.add(drawn)
                    names[chunk.document, chunk.number] = list(drawn)
        return names

    def _packed(self, targets: np.ndarray, counts: np.ndarray) -> Batch:
        """One sequence that is a single segment of attention. What the model reads first is what it reads before any document."""
        n, out = len(targets), empty(self._seq_len)
        out["targets"][:n] = targets
        out["tokens"][1:n] = targets[:-1]
        out["tokens"][0] = self._eos_id
        out["weights"][:n] = counts
        out["segments"][:n] = 1
        out["positions"][:n] = np.arange(n)
        return out

    def _padded(self, window: Batch) -> Batch:
        out = empty(self._seq_len)
        for name, values in window.items():
            out[name][: len(values)] = values
        return out


def alphabet_of(vocabulary) -> list[int]:
    """The ids with which a seqio vocabulary writes each letter and digit by itself."""
    ids = sorted({int(vocabulary.encode(character)[-1]) for character in ALPHABET})
    if len(ids) < len(ALPHABET) // 2:
        raise UserError(
            f"Stage.untie names chunks by letters and digits, but {type(vocabulary).__name__} writes only {len(ids)} of "
            f"the {len(ALPHABET)} differently: use another vocabulary, or Untie.backtrace = False."
        )
    return ids
