"""The data of a run as one object: `resolve` looks every name of the config up once, `open` makes it readable.

corpus = resolve(config)    # names -> tasks, rates, vocabularies; reads no text
corpus = corpus.open()      # token caches, made where they are missing
corpus.sequences[0].rows(range(8))
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from fractions import Fraction

import seqio

from dots_jax.config import ModelConfig, Stage, TrainConfig, UserError, check_ids
from dots_jax.curriculum.mixture_use import Rates, Size, known_sizes
from dots_jax.data.cache.token_cache import open_stream
from dots_jax.data.mixtures import register
from dots_jax.data.registry import TaskMixture, find_mixture, get_task, task_vocabulary
from dots_jax.data.sequences.conversation_layout import LayoutRule
from dots_jax.data.sequences.mixture_sequences import MixtureSequences

VALIDATION_SPLIT = "validation"


@dataclasses.dataclass(frozen=True)
class StageData:
    """What the names of one stage stand for."""

    stage: Stage
    mixture: TaskMixture

    @property
    def rates(self) -> Mapping[str, Fraction]:
        """Task -> share of the stage's sequences."""
        return self.mixture.rates

    @property
    def needs_sizes(self) -> bool:
        """Whether its length or its shares come from the sizes of its tasks."""
        return self.stage.epochs > 0 or (len(self.rates) > 1 and self.mixture.repeats != {})

    @property
    def vocab_size(self) -> int:
        return self.mixture.vocabulary.vocab_size


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Everything that a run reads. `sequences` is empty until `open`."""

    stages: tuple[StageData, ...]
    validation: tuple[str, ...]  # tasks
    seed: int
    cache_dir: str
    sizes: Mapping[str, Size]  # task -> tokens in one pass, as far as they are known
    sequences: tuple[MixtureSequences, ...] = ()  # of each stage

    @property
    def rates(self) -> Rates:
        """Mixture -> task -> share."""
        return {data.mixture.name: data.rates for data in self.stages}

    def open(self) -> "Corpus":
        """The same corpus with the sequences of every stage and with exact sizes.

        Makes the token caches that are missing, those of the validation tasks included: an error in the last stage must
        not wait for a month. Stages that share a task share its stream.

        Raises UserError as `open_stream` does.
        """
        open_once = functools.cache(open_stream)
        sequences = tuple(self._opened(data, open_once) for data in self.stages)
        for data, opened in zip(self.stages, sequences):
            _say_left_out(data.stage, opened)
        for task in self.validation:
            open_validation(task, self.stages[0].stage.seq_len, self.cache_dir)
        sizes = {task: Size(tokens) for stage in sequences for task, tokens in stage.tokens.items()}
        return dataclasses.replace(self, sizes=sizes, sequences=sequences)

    def _opened(self, data: StageData, open_task: Callable = open_stream) -> MixtureSequences:
        return MixtureSequences(
            data.mixture, data.stage.seq_len, self.seed, self.cache_dir, salt=data.stage.name, untie=data.stage.untie,
            layout=LayoutRule(data.stage.too_long, data.stage.sessions), epochs=data.stage.epochs, open_task=open_task,
        )  # fmt: skip

    def with_lengths(self) -> "Corpus":
        """The same corpus, whose stages in epochs have the tokens of their sequences, and whose repeats are shares. Makes the
        token caches of those stages.

        Raises UserError as `open` does, and for tokens that a stage states next to its epochs and that are others."""
        stages = []
        for data in self.stages:
            stage = data.stage
            if data.needs_sizes:
                opened = self._opened(data)
                data = dataclasses.replace(data, mixture=dataclasses.replace(data.mixture, rates=opened.rates))
            if stage.epochs:
                tokens = opened.length * stage.seq_len
                if stage.tokens not in (0, tokens):
                    raise UserError(
                        f"Stage {stage.name!r}: {stage.epochs:g} epochs are {tokens:,} tokens with the last sequences, but tokens "
                        f"says {stage.tokens:,}: leave out one of the two."
                    )
                data = dataclasses.replace(data, stage=dataclasses.replace(stage, tokens=tokens))
            stages.append(data)
        return dataclasses.replace(self, stages=tuple(stages))


def _say_left_out(stage: Stage, sequences: MixtureSequences) -> None:
    for task, left_out in sequences.left_out.items():
        for what, count in left_out.items():
            of = sequences.documents[task]
            print(
                f"Stage {stage.name!r}: of the {of:,} conversations of {task!r}, {count:,} are too long for its sequences of "
                f"{sequences.window:,} tokens: {what} (Stage.too_long = {stage.too_long!r}).",
                file=sys.stderr,
            )


def open_validation(task: str, seq_len: int, cache_dir: str) -> None:
    """Makes the token cache of a validation split, and says which of its conversations no sequence of that length has.

    Raises UserError as `open_stream` does, and if none fits."""
    stream = open_stream(task, VALIDATION_SPLIT, cache_dir)
    for what, count in stream.layout(seq_len).left_out.items() if stream.weighted else ():
        print(
            f"Task {task!r}: of the {stream.num_documents:,} conversations of split {VALIDATION_SPLIT!r}, {count:,} are not "
            f"scored: {what} of {seq_len:,} tokens.",
            file=sys.stderr,
        )


def resolve(config: TrainConfig) -> Corpus:
    """Registers config.data and looks up every mixture and task that the run names. Reads manifests of caches, no text.

    Raises UserError for a name that is not registered, and for a vocabulary or reserved ids that the model has no room for.
    """
    register(config.data, config.stages)
    stages = tuple(StageData(stage, find_mixture(stage.mixture)) for stage in config.stages)
    for data in stages:
        where = f"Stage {data.stage.name!r}"
        check_vocabulary(where, data.mixture.name, data.mixture.vocabulary, config.model)
        if data.stage.untie:
            check_ids(where, data.stage.untie, data.vocab_size, config.model)
    for task in config.validation:
        check_vocabulary("TrainConfig.validation", task, task_vocabulary(get_task(task)), config.model)
    return Corpus(stages, config.validation, config.seed, config.data.cache_dir, known_sizes(config.data))


def check_vocabulary(where: str, name: str, vocabulary: seqio.Vocabulary, model: ModelConfig) -> None:
    """Refuses a vocabulary with more ids than the model embeds."""
    if vocabulary.vocab_size > model.vocab_size:
        raise UserError(
            f"{where}: the vocabulary of {name} has {vocabulary.vocab_size} ids, but ModelConfig.vocab_size is "
            f"{model.vocab_size}: raise it, or choose data with the tokenizer of the model."
        )
