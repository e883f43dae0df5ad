"""Training order as a pure function: (seed, sequence index) -> (task, epoch, window). Pure Python integers.

Nothing is remembered between two sequences, so a run resumes at any index on any number of hosts, in time that does
not depend on the index. Two ideas make that possible:

* Mixture. Counting the first N sequences, a binary tree splits N between its two sides in proportion to their rates,
  rounding to the nearest, down to single tasks. Splitting N + 1 instead of N changes one side by one, so every
  sequence belongs to exactly one task and its rank among that task's sequences is a count. Rates are exact fractions.
  Inside each block of BLOCK sequences the order is then permuted by a key, so that a task does not always fall on the
  same row of a batch. All sequences of a stage have the same length: exact in sequences is exact in tokens.
* Epochs. Sequence number r of a task is window permutation_e(r mod W) of epoch e = r div W, where W is the number of
  windows of the task and the permutation is a keyed Feistel network: each epoch visits every window once.
"""

import functools
import hashlib
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

# Small, so that a window of 10 000 sequences cannot gain or lose more than a few of a task at its two cut blocks.
BLOCK = 8

_ROUNDS = 6
_MASK64 = (1 << 64) - 1


class Place(NamedTuple):
    """Where a sequence comes from: window `window` of the task's stream, in its pass number `epoch` (from 0)."""

    task: str
    epoch: int
    window: int


@functools.lru_cache(maxsize=4096)
def key(*parts) -> int:
    """64 bits that depend on every part and on nothing else (not on the process, unlike `hash`)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def _mix(x: int) -> int:
    """splitmix64's finaliser: every input bit reaches every output bit."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK64
    return x ^ (x >> 31)


def permute(index: int, size: int, permutation_key: int) -> int:
    """Where a keyed permutation of range(size) sends index.

    A balanced Feistel network permutes the next power of four; walking its cycle until inside range(size) keeps it a
    permutation there, in fewer than four steps on average.
    """
    if not 0 <= index < size:
        raise ValueError(f"permute: {index} is not in range({size}).")
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for round_number in range(_ROUNDS):
            left, right = right, left ^ (_mix(right ^ permutation_key ^ (round_number << 56)) & mask)
        index = left << half | right
        if index < size:
            return index


def unpermute(index: int, size: int, permutation_key: int) -> int:
    """What `permute` sends to index."""
    if not 0 <= index < size:
        raise ValueError(f"unpermute: {index} is not in range({size}).")
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for round_number in reversed(range(_ROUNDS)):
            left, right = right ^ (_mix(left ^ permutation_key ^ (round_number << 56)) & mask), left
        index = left << half | right
        if index < size:
            return index


class _Split:
    """A node of the mixture tree: how many of the first n sequences go to its left side."""

    def __init__(self, left, right, left_weight: int, right_weight: int):
        self.left, self.right = left, right
        self._weight, self._total = left_weight, left_weight + right_weight

    def left_count(self, n: int) -> int:
        return (2 * n * self._weight + self._total) // (2 * self._total)


def _mixture_tree(weights: Mapping[str, int]):
    """Always joining the two lightest keeps every task's rounding error under 3 sequences, for any rates."""
    nodes = sorted((weight, name, name) for name, weight in weights.items())
    while len(nodes) > 1:
        (light, name, node), (heavy, _, other) = nodes[:2]
        nodes = sorted(nodes[2:] + [(light + heavy, name, _Split(node, other, light, heavy))], key=lambda n: n[:2])
    return nodes[0][2]


class MixtureOrder:
    """The order of one stage.

    Args:
      rates: task -> rate, above 0; only their proportions matter.
      windows: task -> number of windows in the task's stream, above 0.
      seed: of the run. salt: distinguishes stages of one run, whose orders must not repeat each other.
      length: sequences of the stage, if it ends after a number of passes: its last block is then permuted in itself, so that the
        counts of the tasks are those of `length` sequences exactly. 0: endless.
    """

    def __init__(
        self, rates: Mapping[str, Fraction | int], windows: Mapping[str, int], seed: int, salt: str, length: int = 0
    ):
        if not rates or any(rate <= 0 for rate in rates.values()) or any(windows[task] <= 0 for task in rates):
            raise ValueError(f"MixtureOrder needs rates and windows above 0, not {rates} and {windows}.")
        scale = math.lcm(*(Fraction(rate).denominator for rate in rates.values()))
        self.tasks = tuple(sorted(rates))
        self._windows = {task: windows[task] for task in self.tasks}
        self._tree = _mixture_tree({task: int(Fraction(rates[task]) * scale) for task in self.tasks})
        self._seed, self._salt, self._length = seed, salt, length

    def place(self, index: int) -> Place:
        """The task, epoch and window of sequence `index` of the stage; any index >= 0."""
        task, rank = self._task_and_rank(self._shuffled(index))
        epoch, step = divmod(rank, self._windows[task])
        epoch_key = key(self._seed, self._salt, "epoch", task, epoch)
        return Place(task, epoch, permute(step, self._windows[task], epoch_key))

    def index(self, place: Place) -> int:
        """The sequence of the stage that comes from there: `place(index(p)) == p`."""
        epoch_key = key(self._seed, self._salt, "epoch", place.task, place.epoch)
        windows = self._windows[place.task]
        rank = place.epoch * windows + unpermute(place.window, windows, epoch_key)
        low, high = rank, rank + 1  # the sequence of that rank is in [low, high), before the order inside blocks
        while self._count(place.task, high) <= rank:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._count(place.task, middle) > rank else (middle, high)
        if self._length and low >= self._length:
            return low  # behind the stage's last sequence, where there is no order
        block = range(low - low % BLOCK, low - low % BLOCK + BLOCK)
        return next(i for i in block if self._shuffled(i) == low)

    def _count(self, task: str, n: int) -> int:
        """Sequences of a task among the first n, before the order inside blocks."""
        pending = [(self._tree, n)]
        while pending:
            node, n = pending.pop()
            if node == task:
                return n
            if not isinstance(node, str):
                left = node.left_count(n)
                pending += [(node.left, left), (node.right, n - left)]
        raise KeyError(task)

    def counts(self, index: int) -> dict[str, int]:
        """Sequences of each task before sequence `index`."""
        block_start = index - index % BLOCK
        counts = dict.fromkeys(self.tasks, 0)
        pending = [(self._tree, block_start)]
        while pending:
            node, n = pending.pop()
            if isinstance(node, str):
                counts[node] = n
            else:
                left = node.left_count(n)
                pending += [(node.left, left), (node.right, n - left)]
        for i in range(block_start, index):
            counts[self._task_and_rank(self._shuffled(i))[0]] += 1
        return counts

    def epochs(self, index: int) -> dict[str, float]:
        """Passes over each task's stream before sequence `index`."""
        return {task: count / self._windows[task] for task, count in self.counts(index).items()}

    def _shuffled(self, index: int) -> int:
        block, offset = divmod(index, BLOCK)
        size = min(BLOCK, self._length - block * BLOCK) if self._length else BLOCK
        return block * BLOCK + permute(offset, size, _mix(key(self._seed, self._salt, "block") ^ (block & _MASK64)))

    def _task_and_rank(self, n: int) -> tuple[str, int]:
        node = self._tree
        while not isinstance(node, str):
            left = node.left_count(n)
            if node.left_count(n + 1) > left:
                node, n = node.left, left
            else:
                node, n = node.right, n - left
        return node, n
