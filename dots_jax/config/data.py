"""Where the tokens come from."""

import dataclasses
import math

from dots_jax.config.checks import check_types, expand_home, home_path, require, require_not_negative, require_one_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One source of training data. It becomes the seqio Task `name`, which mixtures and stages name.

    Exactly one of `tfds` and `files` is set. In paths `~` is the home folder.
    """

    name: str  # a plain word: folders and metrics carry it
    tfds: str = ""  # a TFDS name with its version: 'wikipedia/20230601.en:1.0.0'
    files: tuple[tuple[str, str], ...] = ()  # ((split, glob), ...): (('train', 'corpus/web-*.jsonl.zst'),)
    splits: tuple[
        tuple[str, str], ...
    ] = ()  # ((split, TFDS split), ...): (('train', 'train[1%:]'),); empty: TFDS's own
    where: tuple[str, ...] = ()  # (field, pattern): only TFDS records whose field matches all of the pattern (RE2)
    field: str = "text"  # field of a record that holds its text or its messages
    documents: int = 0  # records that its split `train` must have, those that cannot be used among them; 0: unknown
    kind: str = "text"  # `text`, or `conversation`: messages as JSON
    language: str = ""  # for reports only
    group: str = ""  # for reports and pictures only; empty: the name
    tokens: int = 0  # an estimate, for plans made before the token cache; 0: unknown

    def __post_init__(self):
        check_types(self)
        at = f"Source {self.name!r}"
        require(self.name.isidentifier(), f"{at}: the name must be a plain word, since folders and metrics carry it.")
        require(
            (self.tfds != "") != (self.files != ()), f"{at}: set one of tfds and files, to say where its records are."
        )
        require(self.field != "", f"{at}: field must name the field of a record that holds its text.")
        require(self.tfds != "" or self.splits == (), f"{at}: splits are for tfds; files name their splits themselves.")
        require(
            self.where == () or (self.tfds != "" and len(self.where) == 2),
            f"{at}: where must be (field, pattern), and is for tfds; but is {self.where}.",
        )
        require_one_of(self, "kind", ("text", "conversation"))
        require(self.kind == "text" or self.where == (), f"{at}: where is for kind 'text'.")
        require_not_negative(self, "tokens", "documents")
        splits = [split for split, _ in self.files]
        twice = sorted({split for split in splits if splits.count(split) > 1})
        require(
            not twice, f"{at}: files name the split {', '.join(twice)} twice: give one glob that names all its files."
        )
        files = tuple((split, home_path("Source.files", glob)) for split, glob in self.files)
        object.__setattr__(self, "files", files)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
    """A seqio mixture."""

    name: str  # a plain word
    rates: tuple[tuple[str, float], ...]  # ((task, rate), ...), whose proportions are shares of the tokens

    def __post_init__(self):
        check_types(self)
        at = f"Mixture {self.name!r}"
        require(self.name.isidentifier(), f"{at}: the name must be a plain word.")
        require(self.rates != (), f"{at}: rates must name at least one task.")
        names = [name for name, _ in self.rates]
        require(len(set(names)) == len(names), f"{at}: rates name a task twice.")
        for name, rate in self.rates:
            require(0 < rate < math.inf, f"{at}: the rate of {name!r} must be above 0, but is {rate}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the names of mixtures and tasks stand for. In paths `~` is the home folder."""

    cache_dir: str = ".cache/dots_jax"  # folder of the token caches
    tasks_modules: tuple[str, ...] = ("dots_jax.data.tasks",)  # Python modules that register seqio tasks and mixtures
    tokenizer: str = ""  # a Hugging Face tokenizer.json for the sources below; empty: bytes
    sources: tuple[Source, ...] = ()  # registered as seqio tasks when the command starts
    mixtures: tuple[Mixture, ...] = ()  # registered as seqio mixtures when the command starts
    max_epochs: float = 4.0  # a warning names each source that the plan reads more often; 0: none; our choice

    def __post_init__(self):
        check_types(self)
        require(self.cache_dir != "", "DataConfig.cache_dir must name a folder.")
        require_not_negative(self, "max_epochs")
        expand_home(self, "cache_dir", "tokenizer")
        for kind in ("sources", "mixtures"):
            names = [one.name for one in getattr(self, kind)]
            twice = sorted({name for name in names if names.count(name) > 1})
            require(not twice, f"DataConfig.{kind} names {', '.join(twice)} twice: give each a name of its own.")
