"""What `dots generate` and `dots score` do: open a checkpoint, read prompts, run, write.

Every error of the user is found before the weights are read. Files of results are written atomically.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

from dots_jax.checkpoint.open import Opened, open_checkpoint
from dots_jax.cli.options import GenerateOptions, ScoreOptions
from dots_jax.config import ModelConfig, UserError
from dots_jax.data.sources import json_lines
from dots_jax.data.tokenizers import chat
from dots_jax.inference import weights as serving
from dots_jax.inference.generation import TOKENS_PER_CALL, TOKENS_PER_STREAMED_CALL, Generator
from dots_jax.inference.sampling import Sampling
from dots_jax.inference.scoring import Scorer
from dots_jax.inference.text import RowText, Vocabulary, stop_ids
from dots_jax.storage import atomic_write, folder


class InputRow(NamedTuple):
    """A line of an input file: its fields, and its tokens."""

    fields: dict
    tokens: list[int]


# --- the commands -----------------------------------------------------------------------------------------------------


def generate(options: GenerateOptions) -> None:
    """Text for one prompt, a conversation, or every row of a file."""
    _check_flags(options)
    sampling = Sampling(options.temperature, options.top_k, options.top_p, options.seed)
    opened = open_checkpoint(options.checkpoint, options.step)
    config = opened.model
    vocabulary = open_vocabulary(options.tokenizer, opened)
    stops = _stop_ids(options.stop_ids, vocabulary, config)
    if options.stop and vocabulary is None:
        raise UserError("--stop needs a tokenizer, to know what text the tokens are: give --tokenizer.")

    def start() -> Generator:
        mesh, dtype = serving.serving_mesh(config), serving_dtype(options.dtype, opened)
        weights = serving.load_weights(opened, serving.define(config, dtype), mesh)
        return Generator(config, dtype, mesh, weights, sampling)

    if options.input:
        results = ("new_tokens",) if vocabulary is None else ("new_tokens", "text")
        rows = read_rows(
            options.input, "prompt", _prompt_encoder(vocabulary, options.chat), config, room=1, results=results
        )
        with output_file(options.output) as file:
            _generate_rows(start(), rows, file, options, stops, vocabulary)
        return
    encode = _prompt_encoder(vocabulary, options.chat)
    if options.prompt is not None:
        tokens = serving.check_tokens("The prompt", encode(options.prompt), config, room=1)
        _stream(start(), tokens, options, stops, vocabulary)
    else:
        _converse(start(), config, options, stops, vocabulary)


def score(options: ScoreOptions) -> None:
    """The log-probabilities of every row of a file."""
    _require_flags(options, "checkpoint", "input", "output")
    opened = open_checkpoint(options.checkpoint, options.step)
    config = opened.model
    vocabulary = open_vocabulary(options.tokenizer, opened)
    encode = _prompt_encoder(vocabulary, as_chat=False)
    rows = read_rows(options.input, "text", encode, config, room=0, results=("logprobs",))
    with output_file(options.output) as file:
        mesh, dtype = serving.serving_mesh(config), serving_dtype(options.dtype, opened)
        weights = serving.load_weights(opened, serving.define(config, dtype), mesh)
        scorer = Scorer(config, dtype, mesh, weights)
        for batch in _batches(rows, options.batch_size):
            for row, logprobs in zip(batch, scorer.logprobs([row.tokens for row in batch])):
                file.write(json.dumps(row.fields | {"logprobs": logprobs}, ensure_ascii=False) + "\n")


# --- generating -------------------------------------------------------------------------------------------------------


def _generate_rows(generator, rows, file, options, stops, vocabulary) -> None:
    done = 0
    for batch in _batches(rows, options.batch_size):
        numbers = range(done, done + len(batch))
        results = _run(generator, [row.tokens for row in batch], numbers, options, stops, vocabulary, TOKENS_PER_CALL)
        for row, (tokens, text) in zip(batch, results):
            new = {"new_tokens": tokens} | ({} if vocabulary is None else {"text": text})
            file.write(json.dumps(row.fields | new, ensure_ascii=False) + "\n")
        done += len(batch)
        print(f"{done:,} of {len(rows):,} rows", file=sys.stderr, flush=True)


def _run(generator, prompts, numbers, options, stops, vocabulary, per_call, show: Callable[[str], None] | None = None):
    """[(new tokens, text)] of each prompt; `show` gets the text of the first as it comes."""
    texts = [RowText(vocabulary.pieces if vocabulary else (), options.stop) for _ in prompts]
    new = [[] for _ in prompts]
    parts = generator.generate(prompts, numbers, options.max_new_tokens, stops, per_call)
    ended = None
    with contextlib.suppress(StopIteration):
        while True:
            for tokens, text, part in zip(new, texts, parts.send(ended)):
                tokens += part
                text.add(part)
            if show:
                show(texts[0].show())
            ended = [text.stopped for text in texts]
    for text in texts:
        text.end()
    if show:
        show(texts[0].show(ended=True))
    return [(tokens[: text.kept], text.text) for tokens, text in zip(new, texts)]


def _stream(generator, tokens, options, stops, vocabulary) -> str:
    """Writes the text that follows to the terminal as it comes."""

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    ((_, text),) = _run(generator, [tokens], [0], options, stops, vocabulary, TOKENS_PER_STREAMED_CALL, show)
    print(flush=True)
    return text


def _converse(generator, config, options, stops, vocabulary) -> None:
    """A conversation in the terminal, until an empty line or the end of the input."""
    messages = []
    while True:
        try:
            said = input("> ")
        except EOFError:
            return
        if not said:
            return
        messages.append({"role": "user", "content": said})
        tokens = serving.check_tokens("The conversation", chat_tokens(messages, vocabulary), config, room=1)
        messages.append({"role": "assistant", "content": _stream(generator, tokens, options, stops, vocabulary)})


def chat_tokens(messages: list[dict], vocabulary: Vocabulary) -> list[int]:
    """A conversation in dots.llm1's template, up to where the model answers."""
    return chat.encode(messages, vocabulary)[0] + [vocabulary.special_id(chat.GENERATION_PROMPT)]


# --- what the user gave -----------------------------------------------------------------------------------------------


def _require_flags(options: GenerateOptions | ScoreOptions, *names: str) -> None:
    for name in names:
        if not getattr(options, name):
            raise UserError(f"Missing --{name} (--help lists the flags).")


def _check_flags(options: GenerateOptions) -> None:
    _require_flags(options, "checkpoint")
    if (options.prompt is not None) + bool(options.input) > 1 or not (
        options.prompt is not None or options.input or options.chat
    ):
        raise UserError("Give one of --prompt=TEXT, --input=FILE.jsonl, or --chat for a conversation.")
    if bool(options.input) != bool(options.output):
        raise UserError("--input and --output belong together: rows are read from the one and written to the other.")


def serving_dtype(asked: str | None, opened: Opened) -> str:
    """As asked for; else as the run computed; else bfloat16, which is what released weights are."""
    dtype = asked or opened.metadata.compute_dtype or "bfloat16"
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"--dtype must be float32 or bfloat16, but is {dtype}.")
    return dtype


def _stop_ids(asked: str | None, vocabulary: Vocabulary | None, config: ModelConfig) -> set[int]:
    if asked is None:
        return stop_ids(vocabulary)
    ids = [part.strip() for part in asked.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) < config.vocab_size for part in ids):
        raise UserError(f"--stop_ids must be ids below {config.vocab_size}, separated by commas, but is {asked}.")
    return set(map(int, ids))


def open_vocabulary(path: str | None, opened: Opened) -> Vocabulary | None:
    """The tokenizer that the user names, or else that of the run; None for a converted model without one.

    Raises:
      UserError: its file cannot be read, or has ids that the model does not have.
    """
    if path and folder(path).is_dir():
        path = os.path.join(path, "tokenizer.json")
    path = path or opened.tokenizer
    if path is None:
        return None
    from dots_jax.inference.vocabularies import bytes_vocabulary, tokenizer_vocabulary  # these load TensorFlow

    vocabulary = tokenizer_vocabulary(path) if path else bytes_vocabulary()
    if vocabulary.size > opened.model.vocab_size:
        raise UserError(
            f"The tokenizer {vocabulary.name} has {vocabulary.size} ids, but the model of {opened.path} only "
            f"{opened.model.vocab_size}: give the tokenizer with which it was trained, as --tokenizer=FILE."
        )
    return vocabulary


def _prompt_encoder(vocabulary: Vocabulary | None, as_chat: bool) -> Callable[[str], list[int]]:
    def encode(text: str) -> list[int]:
        if vocabulary is None:
            raise UserError("This checkpoint has no tokenizer: give one, as --tokenizer=FILE, or rows of tokens.")
        return chat_tokens([{"role": "user", "content": text}], vocabulary) if as_chat else vocabulary.encode(text)

    return encode


def read_rows(
    path: str, text_field: str, encode: Callable[[str], list[int]], config: ModelConfig, room: int,
    results: tuple[str, ...] = (),
) -> list[InputRow]:  # fmt: skip
    """The rows of a file of JSON lines (json_lines.py: byte order marks, .gz and .zst too), checked; blank lines are left out.

    results: fields that the rows get, and so must not have.

    Raises:
      UserError: naming the line, for the first one that cannot be used.
    """
    rows = []
    for number, fields in json_lines.read_rows(path):
        at = f"{path} line {number}"
        if isinstance(fields, json_lines.Malformed):
            raise UserError(f"{at} is {fields.reason}.")
        rows.append(_row(at, fields, text_field, encode, config, room))
        for name in results:
            if name in fields:
                raise UserError(f'{at} has a field "{name}" of its own, which the result would replace: rename it.')
    if not rows:
        raise UserError(f"{path} has no rows.")
    return rows


def _row(at: str, fields: object, text_field: str, encode, config: ModelConfig, room: int) -> InputRow:
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError(f"{at} has half of a surrogate pair, which is no character.") from None
    tokens, text = (fields.get("tokens"), fields.get(text_field)) if isinstance(fields, dict) else (None, None)
    is_tokens = isinstance(tokens, list) and all(isinstance(t, int) and not isinstance(t, bool) for t in tokens)
    if is_tokens == isinstance(text, str) or (tokens is not None and not is_tokens):
        raise UserError(f'{at} needs one of "tokens", a list of integers, and "{text_field}", a string.')
    return InputRow(fields, serving.check_tokens(at, tokens if is_tokens else encode(text), config, room))


def _batches(rows: list[InputRow], size: int) -> Iterator[list[InputRow]]:
    return (rows[i : i + size] for i in range(0, len(rows), size))


@contextlib.contextmanager
def output_file(path: str) -> Iterator[IO]:
    """`atomic_write` of a file that the user named. Raises UserError if it cannot be written."""
    try:
        with atomic_write(path) as file:
            yield file
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
