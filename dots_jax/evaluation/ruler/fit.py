"""How much hay a prompt gets: as much as its length in tokens allows."""

import dataclasses
import math
from collections.abc import Callable

from dots_jax.config import UserError

FULL = 0.98  # of the room: below it, another size is tried
AIM = 0.993  # of the room, so that the usual scatter of tokens stays inside it
TRIES = 24


@dataclasses.dataclass(frozen=True)
class Fitter:
    """Sizes of prompts for one room, in tokens. count: the tokens of a text."""

    count: Callable[[str], int]
    room: int

    def first_size(self, base: float, each: float) -> int:
        """Units of hay that fit behind `base` tokens."""
        return math.floor((self.room * AIM - base) / each)

    def rate(self, build: Callable[[int], str], size: int) -> tuple[float, float]:
        """Tokens of a prompt without hay, and of one more unit of hay, by two prompts near `size` and a quarter of it."""
        small, large = max(1, size // 4), max(2, size)
        a, b = self.count(build(small)), self.count(build(large))
        each = max((b - a) / (large - small), 1e-6)
        return a - each * small, each

    def text(self, build: Callable[[int], str], size: int, each: float, smallest: int, what: str) -> str:
        """The prompt with about as much hay as fits. It depends on the arguments alone.

        size: of the first try, which usually is in the range. each: tokens of a unit of hay. Each try is one count of tokens.
        Raises UserError where not even `smallest` fits.
        """
        low, high, best = smallest - 1, math.inf, None  # sizes that are known to fit, and not to fit
        below = above = 0  # tokens of a prompt of these sizes
        size = max(smallest, size)
        for attempt in range(TRIES):
            text = build(size)
            tokens = self.count(text)
            if tokens > self.room:
                high, above = size, tokens
            else:
                low, below, best = size, tokens, text
                if tokens >= FULL * self.room:
                    break
            step = math.floor((self.room * AIM - tokens) / each)
            if best is not None and high < math.inf:
                # Hay of unequal pieces: between what fits and what does not, in proportion, and every other time in the middle.
                share = 0.5 if attempt % 2 else (self.room * AIM - below) / (above - below)
                step = low + round(share * (high - low)) - size
            size = max(low + 1, min(size + step, high - 1))
            if size >= high:
                break
        if best is None:
            raise UserError(f"{what} does not fit: it needs more than {self.room:,} tokens with its instructions.")
        return best
