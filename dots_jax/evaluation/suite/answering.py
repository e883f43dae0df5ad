"""The model's answers to requests, a window of requests at a time: what their prompts begin with is fed once."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from dots_jax.checkpoint.open import Opened
from dots_jax.evaluation.suite.requests import RANKING, Request
from dots_jax.inference import generation
from dots_jax.inference import weights as serving
from dots_jax.inference.completion import complete, in_order
from dots_jax.inference.generation import Generator
from dots_jax.inference.prefix import Prefix, chunk_size, common_prefix, padded_batch_size
from dots_jax.inference.sampling import GREEDY, Sampling
from dots_jax.inference.scoring import Scorer
from dots_jax.inference.session import serving_dtype
from dots_jax.inference.text import Vocabulary, stop_ids

SLOTS = (1024, 4096, 16_384, 65_536)  # sizes of the cache: few, since each is compiled
SHORTEST = 32  # tokens of a prefix that is worth its copy


@dataclasses.dataclass
class Counts:
    """fed: tokens that the model took as prompts, prefixes once. asked: tokens of the prompts. generated: new tokens."""

    fed: int = 0
    asked: int = 0
    generated: int = 0


@dataclasses.dataclass(frozen=True)
class Answer:
    """Of a generation: the text before its stop string, its tokens, and what ended it ("stop" or "length").
    Of a ranked item: the log-probability of each choice, in nats."""

    text: str = ""
    new_tokens: int = 0
    ended: str = ""
    logprobs: tuple[float, ...] = ()
    greedy: tuple[bool, ...] = ()  # with `greedy`: whether each choice is what greedy decoding gives


class Answerer:
    """One model, with the weights of one checkpoint after another. Compiled for one batch size and a few sizes of cache."""

    def __init__(
        self, opened: Opened, dtype: str | None, batch_size: int, vocabulary: Vocabulary, *, greedy: bool = False,
        sampling: Sampling = GREEDY,
    ):  # fmt: skip
        """greedy: ranked answers also say whether a choice is what greedy decoding gives."""
        self._dtype, self._mesh = serving_dtype(dtype, opened), serving.serving_mesh(opened.model)
        self._greedy, self._sampling = greedy, sampling
        self._definition = serving.define(opened.model, self._dtype)
        self._generator: Generator | None = None
        self._scorer: Scorer | None = None
        self._vocabulary, self._batch_size, self._stop_ids = vocabulary, batch_size, stop_ids(vocabulary)
        self._to_load: Opened | None = None
        self._drawn = 0  # requests before
        self.use(opened)

    def use(self, opened: Opened) -> None:
        """The weights of another checkpoint of the same model. They are read when the first answer is asked for."""
        self._to_load = opened
        self._prefix: Prefix | None = None
        self._prefix_slots = 0
        self.counts = Counts()

    def _load(self) -> None:
        if self._to_load is None:
            return
        if self._generator is None:
            weights = serving.load_weights(self._to_load, self._definition, self._mesh)
            self._generator = Generator(self._to_load.model, self._dtype, self._mesh, weights, self._sampling)
            self._scorer = Scorer(self._to_load.model, self._dtype, self._mesh, weights)
        else:
            # What is compiled stays; the old weights go before the new ones come.
            self._generator.weights = self._scorer.weights = None
            weights = serving.load_weights(self._to_load, self._definition, self._mesh)
            self._generator.weights = self._scorer.weights = weights
        self._to_load = None

    def answers(self, window: Sequence[Request]) -> Iterator[list[tuple[Request, Answer]]]:
        """Batch after batch, in their order. All of a window have one mode and one task."""
        if not window:
            return
        self._load()
        ranking = window[0].mode == RANKING
        prompts = [
            tokens for each in window for tokens in ([row for row, _ in each.rows] if ranking else [each.tokens])
        ]
        shared = common_prefix(prompts)
        if ranking:
            shared = min(shared, min(begin for each in window for _, begin in each.rows) - 1)
        step, batch_rows = self._batch_size, self._batch_size
        if ranking:
            choices = max(len(each.rows) for each in window)
            step = max(1, self._batch_size // choices)
            batch_rows = max(batch_rows, choices)
        shared = shared if shared >= SHORTEST else 0
        slots = self._slots(max(map(len, prompts)) - shared, shared + window[0].max_new_tokens, batch_rows)
        prefix = self._prefix_of(prompts[0][:shared], slots) if shared else None
        if not ranking:
            answers = self._generate(list(window), prefix, slots)
            while batch := list(itertools.islice(answers, step)):
                yield batch
            return
        for first in range(0, len(window), step):
            batch = list(window[first : first + step])
            yield list(zip(batch, self._rank(batch, prefix, slots)))

    def text_loss(self, rows: Sequence[Sequence[int]], progress=lambda batches: batches) -> float:
        """The negative log-likelihood of all tokens but the first of each row, in nats."""
        self._load()
        step, total = self._batch_size, 0.0
        for first in progress(range(0, len(rows), step)):
            scored = self._scorer.logprobs(rows[first : first + step], batch=step)
            total -= sum(sum(row) for row in scored)
        return total

    def _prefix_of(self, tokens: list[int], slots: int) -> Prefix:
        if self._prefix is None or self._prefix.tokens != tuple(tokens) or self._prefix_slots != slots:
            generator = self._generator
            self._prefix = Prefix(generator.decoder, generator.weights, generator.mesh, tokens, slots)
            self._prefix_slots = slots
            self.counts.fed += len(tokens)
        return self._prefix

    def _generate(self, window: list[Request], prefix: Prefix | None, slots: int) -> Iterator[tuple[Request, Answer]]:
        self._count([request.tokens for request in window], prefix)
        # Draws depend on a row's number; greedy decoding makes none.
        first = 0 if self._sampling == GREEDY else self._drawn
        self._drawn += len(window)
        rows = [
            generation.Request(request.tokens, first + number, request.max_new_tokens)
            for number, request in enumerate(window)
        ]
        found = complete(
            self._generator, rows, self._stop_ids, self._vocabulary, stop=[request.stop for request in window],
            batch_size=self._batch_size, prefix=prefix, slots=slots,
        )  # fmt: skip
        for number, completion in in_order(found):
            self.counts.generated += len(completion.tokens)
            yield window[number], Answer(completion.text, len(completion.tokens), completion.finish_reason)

    def _rank(self, batch: list[Request], prefix: Prefix | None, slots: int) -> list[Answer]:
        rows = [row for request in batch for row, _ in request.rows]
        found = self._scorer.scores(rows, prefix=prefix, batch=self._batch_size, slots=slots, greedy=self._greedy)
        self._count(rows, prefix)
        skipped, scored = len(prefix.tokens) if prefix else 0, iter(found)
        answers = []
        for request in batch:
            parts = [(pair, begin - 1 - skipped) for (_, begin), pair in zip(request.rows, scored)]
            sums = tuple(sum(logprobs[begin:]) for (logprobs, _), begin in parts)
            answers.append(Answer(logprobs=sums, greedy=tuple(all(first[begin:]) for (_, first), begin in parts)))
        return answers

    def _count(self, prompts: list[list[int]], prefix: Prefix | None) -> None:
        asked = sum(map(len, prompts))
        self.counts.asked += asked
        self.counts.fed += asked - (len(prefix.tokens) * len(prompts) if prefix else 0)

    def _slots(self, rest: int, others: int, batch_size: int) -> int:
        """Of a cache for `rest` tokens behind a prefix, which are padded to a multiple of a call's, and `others`."""
        size = chunk_size(padded_batch_size(batch_size, self._generator.mesh), rest)
        needed = others + -(-rest // size) * size
        return next((slots for slots in SLOTS if slots >= needed), needed)
