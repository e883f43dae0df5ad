"""The stages of training."""

import dataclasses
import math

from dots_jax.config.checks import check_types, require, require_not_negative, require_one_of, require_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class Untie:
    """Untie the knots (arXiv 2409.04774): documents are cut into chunks, which are shuffled and tied together by ids.

    The report uses it for 32K and publishes none of these numbers; the defaults are the best of that paper's ablations.
    """

    first_id: int  # first of `num_ids` consecutive reserved ids: 2 (max_chunks - 1) knots, <D>, </D>, <S>, <s>, </S>
    probability: float = 0.8  # share of sequences whose documents are cut
    min_chunks: int = 2  # of a document that is cut
    max_chunks: int = 3  # of a document that is cut
    keep_order: bool = True  # chunks of one document stay in order among those of the others
    backtrace: bool = True  # chunks carry random names, and the document's end asks for their order
    reserve: float = 1 / 16  # share of a sequence left free for inserted tokens, so that no answer is cut; our choice

    def __post_init__(self):
        check_types(self)
        require_positive(self, "first_id")
        require(0 <= self.probability <= 1, f"Untie.probability must be in [0, 1], but is {self.probability}.")
        require(
            2 <= self.min_chunks <= self.max_chunks,
            f"Untie.min_chunks must be at least 2 and at most max_chunks ({self.max_chunks}), but is {self.min_chunks}.",
        )
        require(0 < self.reserve < 1, f"Untie.reserve must be between 0 and 1, but is {self.reserve}.")

    def window(self, seq_len: int) -> int:
        """Tokens of its source in a sequence of seq_len: all but the reserve, or all if nothing is cut."""
        return seq_len - math.ceil(seq_len * self.reserve) if self.probability else seq_len

    @property
    def num_ids(self) -> int:
        """Reserved ids, which lie outside the vocabulary and inside the model's vocab_size."""
        return 2 * (self.max_chunks - 1) + 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the curriculum (report, section 3). `gin/schedules/dots142b.gin` holds the published ones."""

    name: str  # a plain word: metrics and folders carry it
    tokens: int = 0  # length of the stage; 0: `epochs` say it
    epochs: float = 0.0  # length in passes over a task or a mixture with repeats; 0: `tokens` say it
    mixture: str  # name of a seqio mixture or task
    seq_len: int  # tokens of a packed sequence
    batch_tokens: tuple[tuple[int, int], ...]  # ((from, size), ...): from that token of the stage on, tokens of a step
    learning_rate_start: float  # at the stage's first step, or at the end of its warm-up
    learning_rate_end: float  # at the stage's last step
    learning_rate_shape: str = "constant"  # between the two: constant, linear or cosine in the stage's tokens
    warmup_steps: int = 0  # first steps of the stage, over which the rate rises from 0
    microbatch_tokens: int = 0  # tokens of one gradient accumulation step; 0: the batch at once
    untie: Untie | None = None  # how documents are cut and tied; None: not at all
    too_long: str = "drop"  # of conversations longer than a sequence: drop, truncate, or split at questions
    sessions: int = 1  # conversations in one document that see each other, as far as they fit seq_len

    def __post_init__(self):
        check_types(self)
        at = f"Stage {self.name!r}"
        require(self.name.isidentifier(), f"{at}: the name must be a plain word, since metrics and folders carry it.")
        require(self.mixture != "", f"{at}: mixture must name a seqio mixture or task.")
        require_positive(self, "seq_len", "learning_rate_start", "learning_rate_end")
        require_not_negative(self, "tokens", "epochs")
        require(
            self.tokens > 0 or self.epochs > 0, f"{at}: tokens or epochs must be above 0, to say how long the stage is."
        )
        require(math.isfinite(self.epochs), f"{at}: epochs must be a number, but is {self.epochs}.")
        require_one_of(self, "learning_rate_shape", ("constant", "linear", "cosine"))
        require_one_of(self, "too_long", ("drop", "truncate", "split"))
        require(self.sessions >= 1, f"{at}: sessions must be at least 1, but is {self.sessions}.")
        require(
            self.learning_rate_shape != "constant" or self.learning_rate_start == self.learning_rate_end,
            f"{at}: a constant learning rate must end where it starts, but goes from {self.learning_rate_start} to "
            f"{self.learning_rate_end}: use linear or cosine.",
        )
        require_not_negative(self, "warmup_steps", "microbatch_tokens")
        self._check_batches(at)
        require(
            self.window_tokens > 0, f"{at}: Untie.reserve leaves no room in a sequence of {self.seq_len}: lower it."
        )

    def _check_batches(self, at: str) -> None:
        starts = [start for start, _ in self.batch_tokens]
        require(
            bool(starts)
            and starts[0] == 0
            and starts == sorted(set(starts))
            and (self.tokens == 0 or starts[-1] < self.tokens),
            f"{at}: batch_tokens must be ((0, size), (from, size), ...) with rising `from` inside the stage, "
            f"but is {self.batch_tokens}.",
        )
        for _, size in self.batch_tokens:
            require(
                size > 0 and size % self.seq_len == 0,
                f"{at}: a batch of {size} tokens is not a multiple of seq_len ({self.seq_len}).",
            )
            micro = self.microbatch_tokens or size
            require(
                size % micro == 0 and micro % self.seq_len == 0,
                f"{at}: microbatch_tokens ({micro}) must divide the batch ({size}) and be a multiple of seq_len "
                f"({self.seq_len}).",
            )

    @property
    def window_tokens(self) -> int:
        """Tokens of its source that one sequence takes."""
        return self.untie.window(self.seq_len) if self.untie else self.seq_len
