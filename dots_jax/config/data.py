"""Where the tokens come from."""

import dataclasses
import math

from dots_jax.config.checks import check_types, expand_home, home_path, require, require_not_negative, require_one_of
from dots_jax.config.records import FileSet, RecordRule, parse_predicate

_OF_A_GLOB = (
    "field",
    "template",
    "each",
    "join",
    "language",
)  # what an entry of Source.files may set for its glob alone


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One source of training data. It becomes the seqio Task `name`, which mixtures and stages name.

    Exactly one of `tfds` and `files` is set. In paths `~` is the home folder.
    """

    name: str  # a plain word: folders and metrics carry it
    tfds: str = ""  # a TFDS name with its version: 'wikipedia/20230601.en:1.0.0'
    files: tuple[
        tuple[str | tuple[str, str], ...], ...
    ] = ()  # ((split, glob), ...), a split may come again: (('train', 'web-*.jsonl.zst'), ('train', 'b/*', ('field', 'body')))
    splits: tuple[
        tuple[str, str], ...
    ] = ()  # ((split, TFDS split), ...): (('train', 'train[1%:]'),); empty: TFDS's own
    where: tuple[str, ...] = ()  # (field, pattern): only TFDS records whose field matches all of the pattern (RE2)
    field: str = "text"  # field of a record that holds its text or its messages; `a.b` is the field b of the field a
    template: str = ""  # of files: a text of several fields, as '{title}\n\n{text}'; it takes the place of `field`
    each: str = ""  # of files: a field with a list of objects; the template makes a text of each of them
    join: str | None = (
        None  # of files: what stands between the strings of a list, or the texts of `each`; None: lists are no text
    )
    filters: tuple[
        str, ...
    ] = ()  # of files: only records for which all of these hold, as 'score >= 3' or "license_type in ('permissive',)"
    min_characters: int = 0  # of files: shorter texts are left out
    max_characters: int = 0  # of files: longer texts are left out; 0: none
    documents: int = 0  # records that its split `train` must have, those that are not used among them; 0: unknown
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
            f"{at}: where must be (field, pattern), and is for tfds; but is {self.where}; files have filters.",
        )
        require_one_of(self, "kind", ("text", "conversation"))
        require(self.kind == "text" or self.where == (), f"{at}: where is for kind 'text'.")
        require_not_negative(self, "tokens", "documents", "min_characters", "max_characters")
        object.__setattr__(self, "files", tuple(self._checked_entry(at, entry) for entry in self.files))
        self._check_rules(at)

    def _checked_entry(self, at: str, entry: tuple) -> tuple:
        names = [one for one in entry[:2] if isinstance(one, str)]
        require(
            len(names) == 2 and all(isinstance(one, tuple) for one in entry[2:]),
            f"{at}: an entry of files must be (split, glob), or (split, glob, (setting, value), ...), but is {entry}.",
        )
        for setting, _ in entry[2:]:
            require(
                setting in _OF_A_GLOB,
                f"{at}: an entry of files cannot set {setting!r} for its glob: it can set {', '.join(_OF_A_GLOB)}.",
            )
        return (entry[0], home_path("Source.files", entry[1]), *entry[2:])

    def _check_rules(self, at: str) -> None:
        rules = [one.rule for sets in self.file_sets().values() for one in sets]
        if self.tfds:
            rules = [self._rule(at, {})]
            require(
                rules[0] == RecordRule(field=self.field),
                f"{at}: template, each, join, filters, min_characters and max_characters are for files.",
            )
        for rule in rules:
            require(
                self.kind == "text" or (rule.template == "" and rule.join is None),
                f"{at}: template, each and join are for kind 'text'; a conversation is one field with its messages.",
            )
            rule.check(at)

    def _rule(self, at: str, other: dict[str, str]) -> RecordRule:
        field = "text" if "template" in other else self.field
        template = "" if "field" in other else self.template
        each = "" if "field" in other else self.each
        given = {"field": field, "template": template, "each": each, "join": self.join} | other
        given.pop("language", None)
        filters = tuple(parse_predicate(f"{at}: filters", text) for text in self.filters)
        limits = {"min_characters": self.min_characters, "max_characters": self.max_characters}
        return RecordRule(**given, filters=filters, **limits)

    def file_sets(self) -> dict[str, tuple[FileSet, ...]]:
        """Of each split, its globs with what each says about its records."""
        sets: dict[str, tuple[FileSet, ...]] = {}
        for split, glob, *other in self.files:
            settings = dict(other)
            rule = self._rule(f"Source {self.name!r}", settings)
            one = FileSet(glob, rule, settings.get("language", self.language))
            sets[split] = (*sets.get(split, ()), one)
        return sets


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
