"""`dots rft sample`: k answers of a model to each question, drawn at a temperature."""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

from dots_jax.checkpoint.open import Opened, open_checkpoint
from dots_jax.cli.options import RftSampleOptions
from dots_jax.config import UserError
from dots_jax.inference import weights as serving
from dots_jax.inference.completion import Completion, complete, in_order
from dots_jax.inference.generation import Generator, Request
from dots_jax.inference.prompts import PromptEncoder
from dots_jax.inference.sampling import Sampling
from dots_jax.inference.session import open_vocabulary, serving_dtype
from dots_jax.inference.text import Vocabulary, stop_ids
from dots_jax.posttraining.appended import AppendedFile, open_appended
from dots_jax.posttraining.files import check_flags, file_sha256, progress
from dots_jax.posttraining.questions import Question, read_questions

CHUNK = 8  # batches that are on the disk together: within them a row that ends gives its place to the next


class Row(NamedTuple):
    """One answer to draw. number: of the question in its file; random choices depend on it and on `sample`."""

    question: Question
    number: int
    sample: int
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
    dtype = serving_dtype(options.dtype, opened)
    encoder = PromptEncoder(vocabulary, default_system=opened.metadata.default_system)
    rows = _rows(questions, options, encoder, opened)
    encoder.compare_template(options.tokenizer or opened.tokenizer)
    record = _record(options, opened, vocabulary, dtype)
    with open_appended(options.output, record, CHUNK * options.batch_size) as file:
        if file.complete:
            print(f"{options.output} is complete already: {len(rows):,} samples")
            return
        mesh = serving.serving_mesh(opened.model)
        weights = serving.load_weights(opened, serving.define(opened.model, dtype), mesh)
        _draw(Generator(opened.model, dtype, mesh, weights, sampling), rows, file, options, vocabulary)
        file.finish()
    print(f"{options.output}: {options.samples} samples of each of {len(questions):,} questions")


def _rows(
    questions: Sequence[Question], options: RftSampleOptions, encoder: PromptEncoder, opened: Opened
) -> list[Row]:
    """In the order in which they are drawn: by the length of the prompt, so that a batch has little padding."""
    prompts = [encoder.conversation(list(one.messages)) for one in questions]
    for question, tokens in zip(questions, prompts):
        serving.check_tokens(f"{options.questions}: question {question.id!r}", tokens, opened.model, room=1)
    order = sorted(range(len(questions)), key=lambda index: (len(prompts[index]), index))
    return [Row(questions[i], i, sample, prompts[i]) for i in order for sample in range(options.samples)]


def _record(options: RftSampleOptions, opened: Opened, vocabulary: Vocabulary, dtype: str) -> dict:
    """What every sample depends on."""
    metadata = opened.metadata
    weights = hashlib.sha256(json.dumps(sorted(metadata.checksums.items())).encode()).hexdigest()
    settings = ("samples", "temperature", "top_k", "top_p", "seed", "max_new_tokens", "batch_size", "limit")
    return {
        "command": "rft sample", "questions_sha256": file_sha256(options.questions), "step": opened.step,
        "weights_sha256": weights, "dtype": dtype,
        "default_system": metadata.default_system,
        "tokenizer_sha256": vocabulary.name if vocabulary.name == "bytes" else file_sha256(vocabulary.name),
        **{name: getattr(options, name) for name in settings},
    }  # fmt: skip


def _draw(generator: Generator, rows: list[Row], file: AppendedFile, options: RftSampleOptions, vocabulary) -> None:
    stops, size = stop_ids(vocabulary), CHUNK * options.batch_size
    with progress("sample", len(rows), file.rows) as bar:
        for begin in range(file.rows, len(rows), size):
            chunk = rows[begin : begin + size]
            requests = [Request(row.tokens, row.number, options.max_new_tokens, row.sample) for row in chunk]
            found = complete(generator, requests, stops, vocabulary, batch_size=options.batch_size)
            file.add(_row(row, completion) for row, (_, completion) in zip(chunk, in_order(found)))
            bar.update(len(chunk))


def _row(row: Row, completion: Completion) -> dict:
    return {
        "id": row.question.id, "sample": row.sample, "text": completion.text, "tokens": len(completion.tokens),
        "logprob": round(sum(completion.logprobs), 4), "finish_reason": completion.finish_reason,
        "prompt_sha256": row.question.prompt_sha256,
    }  # fmt: skip
