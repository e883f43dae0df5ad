"""A checkpoint as a model of lm-evaluation-harness (requirements-lm-eval.txt), for every task that it has.

    python -m dots_jax.evaluation.lm_eval --model dots --model_args checkpoint=runs/tiny,batch_size=16 --tasks hellaswag

Log-likelihoods and generations come from the engine of `dots evaluate`: prompts that begin alike are fed once. Tokens are split
between context and continuation as the harness splits them (`harness_pair`); where it fails, since nothing of a continuation is
left, the continuation begins at the first token that differs.
"""

import functools
import itertools
import sys
from collections.abc import Iterator, Sequence

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from dots_jax.checkpoint.open import open_checkpoint
from dots_jax.config import UserError
from dots_jax.evaluation.suite.answering import Answer, Answerer
from dots_jax.evaluation.suite.requests import GENERATION, RANKING, Request, encode_pair
from dots_jax.evaluation.tasks.task import Item
from dots_jax.inference.prefix import common_prefix
from dots_jax.inference.prompts import chat_tokens
from dots_jax.inference.sampling import GREEDY, Sampling
from dots_jax.inference.session import open_vocabulary

WINDOW = 256  # requests whose common beginning is fed once
NEW_TOKENS = 256  # where a task does not say
ITEM = Item("", "", "", None)


@register_model("dots")
class DotsLM(LM):
    """The `LM` of the harness. checkpoint: as for `dots evaluate`."""

    def __init__(
        self, checkpoint: str, step: int | None = None, tokenizer: str | None = None, dtype: str | None = None,
        batch_size: int | str = 16, max_batch_size=None, device=None, **unknown,
    ):  # fmt: skip
        """max_batch_size, device: given by the harness, without meaning here.

        Raises UserError for a checkpoint without a tokenizer, and for settings that do not exist.
        """
        super().__init__()
        if unknown:
            raise UserError(
                f"--model_args of dots has no {next(iter(unknown))}: it has checkpoint, step, tokenizer, dtype."
            )
        self._opened = open_checkpoint(checkpoint, None if step is None else int(step))
        self._vocabulary = open_vocabulary(tokenizer, self._opened)
        if self._vocabulary is None:
            raise UserError("This checkpoint has no tokenizer: give one, as tokenizer=FILE in --model_args.")
        size = 16 if str(batch_size).startswith("auto") else int(batch_size)
        self._make = functools.partial(Answerer, self._opened, dtype, size, self._vocabulary, greedy=True)
        self._answerer, self._sampled = self._make(), (GREEDY, None)
        self.max_length = self._opened.model.max_seq_len

    @property
    def tokenizer_name(self) -> str:
        return self._vocabulary.name

    def chat_template(self, chat_template: bool | str = False) -> str:
        return "dots.llm1" if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict], add_generation_prompt: bool = True):
        """A conversation in dots.llm1's template. It stays a list of messages: text would lose the special tokens."""
        if not add_generation_prompt:
            raise UserError(
                "dots' chat template ends where the model answers: tasks that continue an answer cannot use it."
            )
        return Conversation(chat_history)

    # --- log-likelihoods ----------------------------------------------------------------------------------------------

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        rows = []
        for context, continuation in (request.args for request in requests):
            tokens, begin = self._pair(context, continuation)
            cut = max(0, len(tokens) - self.max_length - 1)
            rows.append((tokens[cut:], max(1, begin - cut)))
        found = [(answer.logprobs[0], answer.greedy[0]) for answer in self._ranked(rows, disable_tqdm)]
        for request, result in zip(requests, found):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return found

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """Each token once; every window is as long as the context allows."""
        rows, owners = [], []
        for number, (text,) in enumerate(request.args for request in requests):
            for row in rolling_rows(self._vocabulary.encode(text), self._vocabulary.eos_id, self.max_length):
                rows.append(row)
                owners.append(number)
        sums = [0.0] * len(requests)
        for owner, answer in zip(owners, self._ranked(rows, disable_tqdm)):
            sums[owner] += answer.logprobs[0]
        for request, result in zip(requests, sums):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, result)
        return sums

    def _pair(self, context, continuation: str) -> tuple[list[int], int]:
        encode = self._vocabulary.encode
        if isinstance(context, Conversation):
            tokens = chat_tokens(context.messages, self._vocabulary)
            return tokens + encode(continuation), len(tokens)
        return harness_pair(context, continuation, encode, self._vocabulary.eos_id)

    def _ranked(self, rows: Sequence[tuple[list[int], int]], quiet: bool) -> list[Answer]:
        request = lambda row: Request(RANKING, None, "", ITEM, [], (row,), 0, (), 0, 0, 0, "")
        order = sorted(range(len(rows)), key=lambda place: rows[place][0])
        found: list[Answer | None] = [None] * len(rows)
        with _bar(len(rows), "log-likelihoods", quiet) as bar:
            for places in windows(order, lambda place: rows[place][0]):
                answers = self._answerer.answers([request(rows[place]) for place in places])
                for place, (_, answer) in zip(places, itertools.chain.from_iterable(answers)):
                    found[place] = answer
                    bar.update(1)
        return found

    # --- generations --------------------------------------------------------------------------------------------------

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """Text up to the first stop string. Raises UserError where a request wants more new tokens than the context has."""
        prompts = []
        for context, options in (request.args for request in requests):
            until, new, sampling = generation_settings(options)
            if new >= self.max_length:
                raise UserError(
                    f"The task wants {new} new tokens, but the model's context is {self.max_length}: lower max_gen_toks."
                )
            tokens = (
                chat_tokens(context.messages, self._vocabulary)
                if isinstance(context, Conversation)
                else self._vocabulary.encode(context)
            )
            tokens = tokens[-(self.max_length - new) :] or [self._vocabulary.eos_id]
            prompts.append((tokens, new, until, sampling))
        found = [""] * len(prompts)
        key = lambda place: (repr(prompts[place][3]), prompts[place][1])
        with _bar(len(prompts), "generations", disable_tqdm) as bar:
            for _, group in itertools.groupby(sorted(range(len(prompts)), key=key), key):
                for places in windows(
                    sorted(group, key=lambda place: prompts[place][0]), lambda place: prompts[place][0]
                ):
                    places.sort(key=lambda place: (len(prompts[place][0]), place))
                    window = [
                        Request(GENERATION, None, "", ITEM, tokens, (), new, until, 0, 0, 0, "")
                        for tokens, new, until, _ in (prompts[place] for place in places)
                    ]
                    answers = self._answerer_of(prompts[places[0]][3]).answers(window)
                    for place, (_, answer) in zip(places, itertools.chain.from_iterable(answers)):
                        found[place] = answer.text
                        bar.update(1)
        for request, text in zip(requests, found):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return found

    def _answerer_of(self, sampling: Sampling) -> Answerer:
        """One more model where a task draws its tokens; the last such is kept."""
        if sampling == GREEDY:
            return self._answerer
        if self._sampled[0] != sampling:
            self._sampled = (sampling, self._make(sampling=sampling))
        return self._sampled[1]


def harness_pair(context: str, continuation: str, encode, start: int) -> tuple[list[int], int]:
    """As the harness: the context's own tokens, then those of both together from there on, even where a boundary inside a word
    makes the two differ. `dots evaluate` keeps the tokens of both together, as does this where the harness fails."""
    alone, both = encode(context.rstrip()), encode(context + continuation)
    if alone and len(alone) < len(both):
        return alone + both[len(alone) :], len(alone)
    return encode_pair(context, continuation, encode, start)


class Conversation:
    """A chat that is not turned into text. The harness only passes it on, and hashes its repr."""

    def __init__(self, messages: list[dict]):
        self.messages = [{"role": each["role"], "content": each["content"]} for each in messages]

    def __repr__(self) -> str:
        return repr(self.messages)

    def __len__(self) -> int:
        return len(repr(self))


def generation_settings(options: dict) -> tuple[tuple[str, ...], int, Sampling]:
    """Stop strings, new tokens and sampling of a task's generation_kwargs.

    Raises UserError for an option that changes answers and does not exist here.
    """
    options = dict(options)
    until = options.pop("until", None) or ()
    until = (until,) if isinstance(until, str) else tuple(each for each in until if each)
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    new = next((int(options[name]) for name in names if options.get(name) is not None), NEW_TOKENS)
    temperature = float(options.pop("temperature", None) or 0)
    drawn = options.pop("do_sample", temperature > 0)
    sampling = Sampling(
        (temperature or 1.0) if drawn else 0.0, int(options.pop("top_k", None) or 0), float(options.pop("top_p", None) or 1.0),
        int(options.pop("seed", None) or 0),
    )  # fmt: skip
    if other := sorted(options.keys() - {*names, "max_length", "num_beams", "use_cache", "num_return_sequences"}):
        raise UserError(f"The task's generation_kwargs have {other[0]}, which dots does not have.")
    if int(options.get("num_beams") or 1) > 1:
        raise UserError("The task's generation_kwargs ask for beams: dots decodes one.")
    return until, new, sampling if drawn else GREEDY


def rolling_rows(tokens: list[int], start: int, context: int) -> Iterator[tuple[list[int], int]]:
    """Rows that score each token once, with where the scored ones begin: the first `context` tokens behind `start`, then as many
    again, the last few with all the context that fits."""
    first = min(context, len(tokens))
    if tokens:
        yield [start, *tokens[:first]], 1
    done = first
    while done < len(tokens):
        count = min(len(tokens) - done, context)
        end = done + count
        row = tokens[max(0, end - context - 1) : end]
        yield row, len(row) - count
        done = end


def windows(places: Sequence[int], tokens_of) -> Iterator[list[int]]:
    """Sorted requests in runs that share at least half of their first one's tokens, or that share little either way."""
    window: list[int] = []
    for place in places:
        if window:
            first, row = tokens_of(window[0]), tokens_of(place)
            before = common_prefix([first, tokens_of(window[-1])]) if len(window) > 1 else 0
            shared = common_prefix([first, row])
            if len(window) == WINDOW or (shared < before / 2 and before >= 32):
                yield window
                window = []
        window.append(place)
    if window:
        yield window


def _bar(total: int, name: str, quiet: bool):
    from tqdm import tqdm

    return tqdm(total=total, desc=name, disable=quiet or not sys.stderr.isatty())


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    # The module's own class, not that of `__main__`.
    import dots_jax.evaluation.lm_eval  # noqa: F401

    cli_evaluate()
