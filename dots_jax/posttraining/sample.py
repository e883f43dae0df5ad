"""`dots rft sample`: k answers of a model to each question, drawn at a temperature."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dots_jax.checkpoint.open import Opened, open_checkpoint
from dots_jax.cli.options import RftSampleOptions
from dots_jax.config import UserError
from dots_jax.data.tokenizers import chat
from dots_jax.inference import weights as serving
from dots_jax.inference.generation import Generator
from dots_jax.inference.sampling import Sampling
from dots_jax.inference.session import chat_tokens, open_vocabulary, serving_dtype
from dots_jax.inference.text import RowText, Vocabulary, stop_ids
from dots_jax.posttraining.appended import AppendedFile, open_appended
from dots_jax.posttraining.files import check_flags, file_sha256, progress
from dots_jax.posttraining.questions import Question, read_questions


class Row(NamedTuple):
    """One answer to draw. number: of all draws of the run, on which its random choices depend."""

    question: Question
    sample: int
    number: int
    tokens: list[int]


def sample(options: RftSampleOptions) -> None:
    """Writes options.output, or what an earlier call has not written yet. Every error of the user comes before the weights are
    read."""
    check_flags(options, "checkpoint", "questions", "output")
    sampling = Sampling(options.temperature, options.top_k, options.top_p, options.seed)
    questions = read_questions(options.questions)[: options.limit]
    opened = open_checkpoint(options.checkpoint, options.step)
    vocabulary = open_vocabulary(options.tokenizer, opened)
    if vocabulary is None:
        raise UserError("This checkpoint has no tokenizer: give one, as --tokenizer=FILE.")
    vocabulary.special_id(chat.GENERATION_PROMPT)
    dtype = serving_dtype(options.dtype, opened)
    rows = _rows(questions, options, vocabulary, opened)
    record = _record(options, opened, vocabulary, dtype)
    with open_appended(options.output, record, options.batch_size) as file:
        if file.complete:
            print(f"{options.output} is complete already: {len(rows):,} samples")
            return
        mesh = serving.serving_mesh(opened.model)
        weights = serving.load_weights(opened, serving.define(opened.model, dtype), mesh)
        _draw(Generator(opened.model, dtype, mesh, weights, sampling), rows, file, options, vocabulary)
        file.finish()
    print(f"{options.output}: {options.samples} samples of each of {len(questions):,} questions")


def _rows(
    questions: Sequence[Question], options: RftSampleOptions, vocabulary: Vocabulary, opened: Opened
) -> list[Row]:
    """In the order in which they are drawn: by the length of the prompt, so that a batch has little padding."""
    prompts = [chat_tokens(list(one.messages), vocabulary) for one in questions]
    for question, tokens in zip(questions, prompts):
        serving.check_tokens(f"{options.questions}: question {question.id!r}", tokens, opened.model, room=1)
    order = sorted(range(len(questions)), key=lambda index: (len(prompts[index]), index))
    k = options.samples
    return [Row(questions[i], sample, i * k + sample, prompts[i]) for i in order for sample in range(k)]


def _record(options: RftSampleOptions, opened: Opened, vocabulary: Vocabulary, dtype: str) -> dict:
    """What every sample depends on."""
    metadata = opened.metadata
    weights = hashlib.sha256(json.dumps(sorted(metadata.checksums.items())).encode()).hexdigest()
    settings = ("samples", "temperature", "top_k", "top_p", "seed", "max_new_tokens", "batch_size", "limit")
    return {
        "command": "rft sample", "questions_sha256": file_sha256(options.questions), "step": opened.step,
        "weights_sha256": weights, "dtype": dtype,
        "tokenizer_sha256": vocabulary.name if vocabulary.name == "bytes" else file_sha256(vocabulary.name),
        **{name: getattr(options, name) for name in settings},
    }  # fmt: skip


def _draw(generator: Generator, rows: list[Row], file: AppendedFile, options: RftSampleOptions, vocabulary) -> None:
    stops = sorted(stop_ids(vocabulary))
    with progress("sample", len(rows), file.rows) as bar:
        for begin in range(file.rows, len(rows), options.batch_size):
            batch = rows[begin : begin + options.batch_size]
            file.add(_answers(generator, batch, options, stops, vocabulary))
            bar.update(len(batch))


def _answers(generator: Generator, batch: list[Row], options, stops, vocabulary) -> Iterator[dict]:
    """The rows of one batch as they are written."""
    tokens: list[list[int]] = [[] for _ in batch]
    parts = generator.generate(
        [row.tokens for row in batch],
        [row.number for row in batch],
        options.max_new_tokens,
        stops,
        batch=options.batch_size,
    )
    with contextlib.suppress(StopIteration):
        while True:
            for new, part in zip(tokens, next(parts)):
                new += part
    for row, new in zip(batch, tokens):
        text = RowText(vocabulary.pieces)
        text.add(new)
        text.end()
        yield {
            "id": row.question.id, "sample": row.sample, "text": text.text, "tokens": len(new),
            "finish_reason": "stop" if new and new[-1] in stops else "length", "prompt_sha256": row.question.prompt_sha256,
        }  # fmt: skip
