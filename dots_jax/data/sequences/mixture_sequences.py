"""A mixture, or one split of a task, as an indexable list of packed sequences: what the training loop reads."""

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

from dots_jax.config import Untie, UserError
from dots_jax.data.cache.token_cache import open_stream
from dots_jax.data.cache.token_stream import TokenStream
from dots_jax.data.registry import TaskMixture, find_mixture
from dots_jax.data.sequences.conversation_layout import DEFAULT, LayoutRule
from dots_jax.data.sequences.order import BLOCK, MixtureOrder, Place
from dots_jax.data.sequences.packing import Batch, empty, stack
from dots_jax.data.sequences.token_source import TokenSource
from dots_jax.data.sequences.untie import Untier


class MixtureSequences:
    """The training sequences of one stage, endless unless it has epochs, in an order that depends on (seed, salt, index) only.

    Opening makes the token caches that are missing. Safe to read from several threads.

    Args:
      mixture: a registered seqio mixture or task, by name or as the registry found it.
      seed: of the run. salt: of the stage (its name), so that two stages of one mixture differ in order.
      untie: how documents are knotted (untie.py); a sequence then takes fewer tokens of its task.
      layout: how conversations come into sequences (conversation_layout.py).
      epochs: passes over the mixture, after which only padding follows; 0: endless. It needs a task alone or `Mixture.repeats`.
      open_task: (task, split, cache_dir) -> TokenStream; stages that share tasks can share the streams.

    Attributes:
      tasks: names, sorted. rates: task -> exact share of the sequences.
      window: tokens of the source in a sequence. windows: task -> sequences in one pass over it. documents: task -> documents in
      one pass. tokens: task -> tokens in one pass, end tokens included.
      left_out: task of conversations -> what is not in its sequences, since it is too long -> conversations.
      vocab_size, eos_id: of the vocabulary that the tasks share.
      length: sequences in all, 0 without epochs: behind them come sequences of padding.
      identity: changes when the data does; worth saving with a checkpoint.
    """

    def __init__(
        self, mixture: str | TaskMixture, seq_len: int, seed: int, cache_dir: str | Path, salt: str = "", split: str = "train",
        untie: Untie | None = None, layout: LayoutRule = DEFAULT, epochs: float = 0.0,
        open_task: Callable[[str, str, str | Path], TokenStream] = open_stream,
    ):  # fmt: skip
        mixture = find_mixture(mixture) if isinstance(mixture, str) else mixture
        if seq_len < 1:
            raise UserError(f"Mixture {mixture.name!r}: seq_len must be above 0, but is {seq_len}.")
        self.name, self.seq_len, self.split = mixture.name, seq_len, split
        self.tasks = tuple(sorted(mixture.rates))
        self._layout = layout
        self.window = window = untie.window(seq_len) if untie else seq_len
        self._streams = streams = {task: open_task(task, split, cache_dir) for task in self.tasks}
        self.windows = {task: stream.num_sequences(window, layout) for task, stream in streams.items()}
        self.tokens = {task: stream.num_tokens for task, stream in streams.items()}
        self.documents = {task: stream.num_documents for task, stream in streams.items()}
        weighted = [task for task in self.tasks if streams[task].weighted]
        self.left_out = {task: streams[task].layout(window, layout).left_out for task in weighted}
        vocabulary = mixture.vocabulary
        self.vocab_size, self.eos_id = vocabulary.vocab_size, vocabulary.eos_id
        self._untier = Untier(untie, seq_len, vocabulary, seed, salt) if untie else None
        files = [[file["sha256"] for file in streams[task].manifest.files] for task in self.tasks]
        packed = ("best fit", tuple(layout)) if weighted else ()
        self.identity = hashlib.sha256(repr((self.tasks, files, *packed)).encode()).hexdigest()[:16]
        in_a_pass = {task: times * self.windows[task] for task, times in mixture.repeats.items()}
        total = sum(in_a_pass.values())
        self.rates = {task: Fraction(n, total) for task, n in in_a_pass.items()} if in_a_pass else mixture.rates
        if epochs and not in_a_pass:
            raise UserError(
                f"Mixture {mixture.name!r} has rates, so no number of epochs reads all of its tasks: give it repeats, or set "
                "Stage.tokens."
            )
        self.length = math.ceil(Fraction(repr(float(epochs))) * total)
        self._order = MixtureOrder(self.rates, self.windows, seed, salt, self.length)

    def rows(self, indices: Sequence[int]) -> Batch:
        """Sequences of the stage by index, any indices >= 0: packing.FEATURES, each [len(indices), seq_len]."""
        return stack([self._row(int(index)) for index in indices])

    def _row(self, index: int) -> Batch:
        if self.length and index >= self.length:
            return empty(self.seq_len)
        task, _, window = self._order.place(index)
        row = self._streams[task].sequence(window, self.window, self._layout)
        return self._untier.row(row, index) if self._untier else row

    def indices(self, task: str, start: int, end: int, below: int) -> list[int]:
        """The sequences of the stage, of its first `below`, that hold a token of [start, end) of a task's stream; sorted."""
        below, found = self._inside(below), []
        windows = self._streams[task].sequences_of(start, end, self.window, self._layout)
        for window in windows:
            for epoch in itertools.count():
                index = self._order.index(Place(task, epoch, window))
                if index < below:
                    found.append(index)
                elif index >= below + BLOCK:  # the order inside a block may put a later epoch first
                    break
        return sorted(found)

    def counts(self, index: int) -> dict[str, int]:
        """Sequences of each task before sequence `index` of the stage."""
        return self._order.counts(self._inside(index))

    def epochs(self, index: int) -> dict[str, float]:
        """Passes over each task's data before sequence `index` of the stage."""
        return self._order.epochs(self._inside(index))

    def _inside(self, index: int) -> int:
        return min(index, self.length) if self.length else index


class SplitSequences:
    """One split of a task, each sequence once, in stream order.

    Attributes: num_tokens (end tokens included), num_bytes (of text; None if the vocabulary cannot say).
    """

    def __init__(self, task: str, split: str, seq_len: int, cache_dir: str | Path):
        self._source, self._split = TokenSource(task, seq_len, cache_dir), split
        stream = self._source.stream(split)
        self.num_tokens, self.num_bytes = stream.num_tokens, stream.num_bytes

    def __len__(self) -> int:
        return self._source.num_input_examples(self._split)

    def rows(self, indices: Sequence[int]) -> Batch:
        """packing.FEATURES, each [len(indices), seq_len]; indices in range(len(self))."""
        return stack([self._source.sequence(self._split, int(index)) for index in indices])
