"""What the model says while it learns: answers to a few fixed prompts, in WORKDIR/samples.jsonl."""

import json

import jax
import numpy as np
from jax.experimental import multihost_utils

from dots_jax.config import TrainConfig
from dots_jax.data.corpus import Corpus
from dots_jax.data.registry import get_task
from dots_jax.data.sources import chat_task
from dots_jax.data.tokenizers.vocabulary import DataVocabulary
from dots_jax.inference import weights as serving
from dots_jax.inference.completion import complete, in_order
from dots_jax.inference.generation import Generator, Request
from dots_jax.inference.prompts import PromptEncoder
from dots_jax.inference.text import stop_ids
from dots_jax.storage import folder, write_text
from dots_jax.training.run import Run
from dots_jax.training.state import TrainState

FILE = "samples.jsonl"
BATCH_SIZE = 8  # prompts that are answered at the same time, at most


class Prompts:
    """The prompts of a run as tokens: messages of a user where its first stage learns conversations, else texts to continue.

    Raises UserError for one that the model has no room for.
    """

    def __init__(self, config: TrainConfig, corpus: Corpus):
        mixture = corpus.stages[0].mixture
        tasks = [get_task(name) for name in mixture.rates]
        self.vocabulary = DataVocabulary(mixture.vocabulary, mixture.name)
        as_chat = any(chat_task.messages_field(task) for task in tasks)
        encoder = PromptEncoder(self.vocabulary, as_chat, config.data.default_system)
        self.tokens = [
            serving.check_tokens(f"SamplesConfig.prompts: {prompt!r}", encoder.text(prompt), config.model, room=1)
            for prompt in config.samples.prompts
        ]


class Samples:
    """Greedy answers, so that they change with the weights alone. The weights exist once more while it answers, in the dtype of
    the computation and sharded for serving."""

    def __init__(self, run: Run, report):
        self._run, self._report, self._path = run, report, folder(run.options.workdir) / FILE
        self._prompts = Prompts(run.config, run.corpus) if run.config.samples.prompts else None
        self._generator: Generator | None = None

    def resume(self, step: int, state: TrainState) -> None:
        """Answers what a run that was stopped between its checkpoint of `step` and the answers after it left out."""
        if self._run.samples_after(step):
            there = any(row["step"] == step for row in self._rows()) if jax.process_index() == 0 else False
            if not int(multihost_utils.broadcast_one_to_all(np.array(there, np.int32))):
                self(step, state)

    def __call__(self, step: int, state: TrainState) -> None:
        self._report.flush()
        config, prompts = self._run.config, self._prompts
        if self._generator is None:
            mesh = serving.serving_mesh(config.model, config.mesh.size)
            self._generator = Generator(config.model, config.compute.dtype, mesh, None)
        generator = self._generator
        params = jax.tree.map(lambda array: array, state.params)  # dicts of its own, since they are emptied
        definition = serving.define(config.model, config.compute.dtype)
        generator.weights = serving.shard_weights(definition, params, state.router_bias, generator.mesh)
        requests = [Request(tokens, row, config.samples.max_new_tokens) for row, tokens in enumerate(prompts.tokens)]
        found = complete(
            generator, requests, stop_ids(prompts.vocabulary), prompts.vocabulary,
            batch_size=min(len(requests), BATCH_SIZE),
        )  # fmt: skip
        answers = [completion for _, completion in in_order(found)]
        generator.weights = None
        if jax.process_index() == 0:
            rows = [row for row in self._rows() if row["step"] < step]
            rows += [
                {"step": step, "prompt": prompt, "text": one.text, "new_tokens": one.tokens, "finish_reason": one.finish_reason}
                for prompt, one in zip(config.samples.prompts, answers)
            ]  # fmt: skip
            write_text(self._path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        self._report.note(
            f"samples     step {step:,}: {json.dumps(answers[0].text[:60], ensure_ascii=False)} ... in {FILE}"
        )
        self._report.restart_clock()

    def _rows(self) -> list[dict]:
        return [json.loads(line) for line in self._path.read_text().splitlines()] if self._path.exists() else []
