"""What `dots generate` and `dots score` do: open a checkpoint, read prompts, run, write.

Every error of the user is found before the weights are read. Files of results are written atomically.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import IO

from dots_jax.checkpoint.open import Opened, open_checkpoint
from dots_jax.cli.options import GenerateOptions, ScoreOptions
from dots_jax.config import ModelConfig, UserError
from dots_jax.data.tokenizers.bytes_vocabulary import BytesVocabulary
from dots_jax.data.tokenizers.tokenizer_file import TokenizerFile
from dots_jax.inference import weights as serving
from dots_jax.inference.completion import complete, in_order
from dots_jax.inference.generation import TOKENS_PER_STREAMED_CALL, Generator, Request
from dots_jax.inference.input_rows import InputRow, read_rows
from dots_jax.inference.prompts import PromptEncoder
from dots_jax.inference.sampling import Sampling
from dots_jax.inference.scoring import Scorer
from dots_jax.inference.text import Vocabulary, stop_ids
from dots_jax.storage import atomic_write, folder

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

    system = opened.metadata.default_system if options.default_system is None else options.default_system
    encoder = PromptEncoder(vocabulary, options.chat, system)
    tokenizer = options.tokenizer or opened.tokenizer
    if options.input:
        results = [name for name, wanted in _result_fields(options, vocabulary).items() if wanted]
        rows = read_rows(options.input, "prompt", encoder, config, room=1, results=results, conversations=True)
        encoder.compare_template(tokenizer)
        with output_file(options.output) as file:
            _generate_rows(start(), rows, file, options, stops, vocabulary)
        return
    if options.prompt is not None:
        tokens = serving.check_tokens("The prompt", encoder.text(options.prompt), config, room=1)
        encoder.compare_template(tokenizer)
        _stream(start(), tokens, options, stops, vocabulary)
    else:
        encoder.conversation([{"role": "user", "content": ""}])  # refuses a vocabulary without the template's tokens
        encoder.compare_template(tokenizer)
        _converse(start(), config, encoder, options, stops, vocabulary)


def score(options: ScoreOptions) -> None:
    """The log-probabilities of every row of a file."""
    _require_flags(options, "checkpoint", "input", "output")
    opened = open_checkpoint(options.checkpoint, options.step)
    config = opened.model
    vocabulary = open_vocabulary(options.tokenizer, opened)
    rows = read_rows(options.input, "text", PromptEncoder(vocabulary), config, room=0, results=("logprobs",))
    with output_file(options.output) as file:
        mesh, dtype = serving.serving_mesh(config), serving_dtype(options.dtype, opened)
        weights = serving.load_weights(opened, serving.define(config, dtype), mesh)
        scorer = Scorer(config, dtype, mesh, weights)
        for batch in _batches(rows, options.batch_size):
            for row, logprobs in zip(batch, scorer.logprobs([row.tokens for row in batch])):
                file.write(json.dumps(row.fields | {"logprobs": logprobs}, ensure_ascii=False) + "\n")


# --- generating -------------------------------------------------------------------------------------------------------


def _result_fields(options: GenerateOptions, vocabulary: Vocabulary | None) -> dict[str, bool]:
    """The fields of a row of results in their order -> whether this run writes them."""
    return {
        "sample": options.samples is not None, "new_tokens": True, "logprobs": True, "text": vocabulary is not None,
        "finish_reason": True, "stop_reason": True,
    }  # fmt: skip


def _generate_rows(generator, rows: list[InputRow], file, options, stops, vocabulary) -> None:
    """One line a row and sample, in the order of the rows."""
    from tqdm import tqdm

    fields = [name for name, wanted in _result_fields(options, vocabulary).items() if wanted]
    samples, new = options.samples or 1, options.max_new_tokens
    requests = [Request(row.tokens, n, new, sample) for n, row in enumerate(rows) for sample in range(samples)]
    found = complete(generator, requests, stops, vocabulary, stop=options.stop, batch_size=options.batch_size)
    pause = 0.2 if sys.stderr.isatty() else 20.0
    with tqdm(desc="generating", unit=" rows", total=len(requests), mininterval=pause, maxinterval=pause) as bar:
        for number, completion in in_order(_counted(found, bar)):
            values = completion._asdict() | {"new_tokens": completion.tokens, "sample": number % samples}
            values["logprobs"] = [round(x, 5) for x in completion.logprobs]
            line = rows[number // samples].fields | {name: values[name] for name in fields}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _counted(found, bar):
    for each in found:
        bar.update()
        yield each


def _stream(generator, tokens, options, stops, vocabulary) -> str:
    """Writes the text that follows to the terminal as it comes."""

    def show(_: int, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    ((_, completion),) = complete(
        generator, [Request(tokens, 0, options.max_new_tokens)], stops, vocabulary, stop=options.stop, on_text=show,
        batch_size=1, tokens_per_call=TOKENS_PER_STREAMED_CALL,
    )  # fmt: skip
    print(flush=True)
    return completion.text


def _converse(generator, config, encoder: PromptEncoder, options, stops, vocabulary) -> None:
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
        tokens = serving.check_tokens("The conversation", encoder.conversation(messages), config, room=1)
        messages.append({"role": "assistant", "content": _stream(generator, tokens, options, stops, vocabulary)})


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
    if options.samples is not None and not options.input:
        raise UserError("--samples is for the rows of --input=FILE.jsonl.")
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
    vocabulary = TokenizerFile(path) if path else BytesVocabulary()
    if vocabulary.size > opened.model.vocab_size:
        raise UserError(
            f"The tokenizer {vocabulary.name} has {vocabulary.size} ids, but the model of {opened.path} only "
            f"{opened.model.vocab_size}: give the tokenizer with which it was trained, as --tokenizer=FILE."
        )
    return vocabulary


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
