"""DataConfig's sources and mixtures as seqio Tasks and Mixtures, registered when a run starts.

    register(config.data)

and every name that a stage, a validation or an evaluation uses is known. Nothing is read or downloaded by that.
"""

import dataclasses
import hashlib

import seqio
import tensorflow as tf

from dots_jax.config import DataConfig, Mixture, Source, Stage, UserError
from dots_jax.curriculum.groups import resolved
from dots_jax.data.registry import import_tasks
from dots_jax.data.sources import text_task
from dots_jax.data.sources.tfds_source import TfdsSource, stdlib_source

# Fields of a Source that change no document.
_FOR_REPORTS = {
    "language": "", "group": "", "tokens": 0, "bytes": 0, "max_epochs": 0.0, "overflow": "", "licence": "", "hub": "",
    "published_tokens": 0, "published_tokenizer": "", "synthetic": False,
}  # fmt: skip
# What this module registered, by name. Whatever else the registries hold comes from DataConfig.tasks_modules.
_OURS: dict[str, tuple] = {}


def register(data: DataConfig, stages: tuple[Stage, ...] = ()) -> None:
    """Imports data.tasks_modules, then registers data.sources and data.mixtures, and each of data.groups as a mixture.

    stages: of a run, whose length decides what is above a source's max_epochs; empty: rates as they are declared.

    The same definition again changes nothing, and another definition of a name that was registered here replaces it, as
    when a notebook opens a second run.

    Raises UserError for a name that a module registered already, for one that is both a source and a mixture, and for a
    mixture of tasks that do not exist.
    """
    import_tasks(data.tasks_modules)
    data = resolved(data, stages)
    sources = {source.name: source for source in data.sources}
    content = _checksum(data.tokenizer)  # a notebook may register again when the file is another one
    for mixture in data.mixtures:
        if mixture.name in sources:
            raise UserError(f"{mixture.name!r} is the name of a source and of a mixture: give one of them another.")
    for source in data.sources:
        system = data.default_system if source.kind == "conversation" else ""
        definition = (dataclasses.replace(source, **_FOR_REPORTS), data.tokenizer, content, system)
        if not _is_there(source.name, definition):
            _add_task(source, _vocabulary(data.tokenizer), system)
            _OURS[source.name] = definition
    for mixture in data.mixtures:
        # A seqio Mixture holds its Tasks, so it is as old as they are.
        parts = tuple(_OURS.get(name) for name in mixture.names)
        if not _is_there(mixture.name, (mixture, parts)):
            _add_mixture(mixture)
            _OURS[mixture.name] = (mixture, parts)


def _is_there(name: str, definition: tuple) -> bool:
    """Whether the very same is registered already; another one of ours is removed."""
    registries = [registry for registry in (seqio.TaskRegistry, seqio.MixtureRegistry) if name in registry.names()]
    if not registries:
        return False
    if name not in _OURS:
        raise UserError(
            f"The name {name!r} of a source or mixture is taken by a task or mixture that DataConfig.tasks_modules "
            "registers: choose another name."
        )
    if _OURS[name] == definition:
        return True
    for registry in registries:
        registry.remove(name)
    return False


def _checksum(tokenizer: str) -> str:
    """Of the file; empty if there is none, which reading it says better."""
    try:
        with open(tokenizer, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _vocabulary(tokenizer: str) -> seqio.Vocabulary:
    if not tokenizer:
        return text_task.BYTES
    from dots_jax.data.tokenizers.tokenizer import TokenizerVocabulary

    return TokenizerVocabulary(tokenizer)


def _add_task(source: Source, vocabulary: seqio.Vocabulary, default_system: str) -> None:
    origin = _origin(source)
    origin.expected_documents, origin.revision = source.documents, source.revision  # token_cache reads them
    field = source.field if source.tfds else "text"  # FileSource hands on its field under that name
    if source.kind == "conversation":
        from dots_jax.data.sources.chat_task import add_chat_task

        add_chat_task(source.name, origin, vocabulary, field=field, default_system=default_system)
        return
    text_task.add_text_task(source.name, origin, vocabulary, text_field=field, keep=_keep(source))


def _keep(source: Source):
    if not source.where:
        return None
    name, pattern = source.where

    def keep(example) -> tf.Tensor:
        return tf.strings.regex_full_match(example[name], pattern)

    return keep


def _origin(source: Source) -> seqio.DataSource:
    if source.files:
        from dots_jax.data.sources.file_source import FileSource

        return FileSource(source.file_sets(), source.field)
    if source.tfds.split(":")[0] == "python_stdlib":
        return stdlib_source(source)
    return TfdsSource(source)


def _add_mixture(mixture: Mixture) -> None:
    known = seqio.TaskRegistry.names()
    missing = [name for name in mixture.names if name not in known]
    if missing:
        raise UserError(
            f"Mixture {mixture.name!r} names {', '.join(missing)}, which no source and no task is called: known tasks are "
            f"{', '.join(sorted(known)) or 'none'}."
        )
    # seqio knows rates alone: of repeats, sequences/mixture_sequences.py makes the shares when the sizes are known.
    rates = mixture.rates or mixture.repeats
    added = seqio.MixtureRegistry.add(mixture.name, [(name, float(rate)) for name, rate in rates])
    added.repeats = dict(mixture.repeats)
