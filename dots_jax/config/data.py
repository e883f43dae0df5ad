"""Where the tokens come from."""

import dataclasses
import math

from dots_jax.config.checks import check_types, expand_home, home_path, require, require_not_negative, require_one_of
from dots_jax.config.records import CONVERSATION_FORMATS, FileSet, RecordRule, parse_predicate

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
    min_tokens: int = 0  # of files: documents with fewer are left out, after they are tokenised
    max_tokens: int = 0  # of files: documents with more are left out; 0: none
    exclude: tuple[
        tuple[str, str], ...
    ] = ()  # of files: ((field, glob of lists), ...): records whose field is a line of a list, or 'sha256(text)' for a text's
    held_out: float = (
        0.0  # of files: this share of the documents, by a hash of their text, is `validation` and not `train`
    )
    repeat_field: str = (
        ""  # of files: a count in the record, how often to read it in one pass, as 'minhash_cluster_size'
    )
    repeat_steps: tuple[tuple[int, int], ...] = ()  # ((from, times), ...): by that count; empty: as often as it says
    documents: int = 0  # records that its split `train` must have, those that are not used among them; 0: unknown
    kind: str = "text"  # `text`, or `conversation`: messages as JSON
    format: str = ""  # of files: the shape of a conversation, as `sharegpt`, or `auto`; empty: `field` holds messages
    field_map: tuple[
        tuple[str, str], ...
    ] = ()  # of files: a conversation of several fields, ((role, field), ...) in its order, as (('user', 'q'), ('assistant', 'a'))
    language: str = ""  # for reports only; empty: none, as of code
    group: str = ""  # for reports and pictures only; empty: the name
    tokens: int = 0  # an estimate, for plans made before the token cache and for the weights of groups; 0: unknown
    bytes: int = 0  # of text, for the weights of groups; 0: unknown
    max_epochs: float = (
        0.0  # the run reads it no more often, by `tokens`; `overflow` gets the rest of its share; 0: no cap
    )
    overflow: str = ""  # the source or group that gets what is above max_epochs
    synthetic: bool = False  # whether a model wrote the text
    licence: str = ""  # as the publisher states it, for reports
    hub: str = ""  # where the files are from, as 'HuggingFaceFW/fineweb-2'; a note: no command reads it
    revision: str = ""  # of `hub`: a token cache that was made of another one is refused
    published_tokens: int = 0  # as the publisher counts them; a note: no command reads it; 0: unknown
    published_tokenizer: str = ""  # what published_tokens were counted with; a note as well

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
        self._check_format(at)
        require_one_of(self, "kind", ("text", "conversation"))
        require(self.kind == "text" or self.where == (), f"{at}: where is for kind 'text'.")
        require_not_negative(
            self,
            "tokens",
            "bytes",
            "documents",
            "min_characters",
            "max_characters",
            "min_tokens",
            "max_tokens",
            "max_epochs",
            "published_tokens",
        )
        require(
            (self.max_epochs == 0) == (self.overflow == "") and (self.max_epochs == 0 or self.tokens > 0),
            f"{at}: a cap needs max_epochs, tokens, and overflow, the source that gets the rest of its share.",
        )
        require(
            self.documents == 0 or self.repeat_field == "",
            f"{at}: documents counts records, which repeat_field reads several times: set one of the two.",
        )
        require(self.overflow != self.name, f"{at}: overflow must name another source.")
        object.__setattr__(self, "files", tuple(self._checked_entry(at, entry) for entry in self.files))
        exclude = tuple((field, home_path("Source.exclude", glob)) for field, glob in self.exclude)
        object.__setattr__(self, "exclude", exclude)
        splits = {split for split, _, _ in map(_parts, self.files)}
        require(
            self.held_out == 0 or splits == {"train"},
            f"{at}: held_out makes the split validation out of train, so files must name train alone, but name "
            f"{', '.join(sorted(splits)) or 'none'}.",
        )
        self._check_rules(at)

    def _check_format(self, at: str) -> None:
        if self.field_map and not self.format:
            object.__setattr__(self, "format", "field_map")
        if not self.format:
            return
        object.__setattr__(self, "kind", "conversation")
        require_one_of(self, "format", (*CONVERSATION_FORMATS, "auto", "field_map"))
        require(self.files != (), f"{at}: format and field_map are for files.")
        roles = [role for role, _ in self.field_map]
        good = set(roles) <= {"system", "user", "assistant"} and "assistant" in roles and "system" not in roles[1:]
        require(
            (self.format == "field_map") == (roles != []) and (roles == [] or good),
            f"{at}: format 'field_map' needs field_map = ((role, field), ...), whose roles are system (the first alone), user and "
            f"assistant, with one of assistant at least; but it is {self.field_map}.",
        )
        require(
            self.field == "text" or self.format in CONVERSATION_FORMATS,
            f"{at}: format {self.format!r} finds its fields itself: leave out field.",
        )

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
                f"{at}: template, each, join, filters, exclude, repeat_field and limits of lengths are for files.",
            )
        for rule in rules:
            require(
                self.kind == "text"
                or (rule.template == "" and rule.join is None and rule.min_tokens == rule.max_tokens == 0),
                f"{at}: template, each, join and limits of tokens are for kind 'text'; a conversation is one field with its "
                "messages.",
            )
            rule.check(at)

    def _rule(self, at: str, other: dict[str, str]) -> RecordRule:
        field = "text" if "template" in other else self.field
        template = "" if "field" in other else self.template
        each = "" if "field" in other else self.each
        given = {"field": field, "template": template, "each": each, "join": self.join} | other
        given.pop("language", None)
        filters = tuple(parse_predicate(f"{at}: filters", text) for text in self.filters)
        same = (
            "min_characters",
            "max_characters",
            "min_tokens",
            "max_tokens",
            "exclude",
            "held_out",
            "repeat_field",
            "repeat_steps",
            "format",
            "field_map",
        )
        return RecordRule(**given, filters=filters, **{name: getattr(self, name) for name in same})

    def file_sets(self) -> dict[str, tuple[FileSet, ...]]:
        """Of each split, its globs with what each says about its records."""
        sets: dict[str, tuple[FileSet, ...]] = {}
        for split, glob, settings in map(_parts, self.files):
            rule = self._rule(f"Source {self.name!r}", settings)
            one = FileSet(glob, rule, settings.get("language", self.language))
            sets[split] = (*sets.get(split, ()), one)
        if self.held_out:
            held = [
                dataclasses.replace(one, rule=dataclasses.replace(one.rule, is_held_out=True)) for one in sets["train"]
            ]
            sets["validation"] = tuple(held)
        return sets


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Several sources, or groups, under one name, which mixtures use as they use a source. Its rate is shared by weight."""

    name: str  # a plain word
    sources: tuple[str, ...]  # names of sources and of other groups
    weights: str | tuple[float, ...] = (
        "tokens"  # `tokens`, `bytes` or `documents`: that field of each source; or a number for each
    )
    maximum: int = 0  # a source weighs no more than this, as seqio.mixing_rate_num_examples has it; 0: any
    temperature: float = 1.0  # weights are taken to the power of 1/temperature: above 1 evens them out

    def __post_init__(self):
        check_types(self)
        at = f"Group {self.name!r}"
        require(self.name.isidentifier(), f"{at}: the name must be a plain word.")
        require(
            self.sources != () and len(set(self.sources)) == len(self.sources) and self.name not in self.sources,
            f"{at}: sources must name at least one source, each once, and not the group itself.",
        )
        require_not_negative(self, "maximum")
        require(self.temperature > 0, f"{at}: temperature must be above 0, but is {self.temperature}.")
        if isinstance(self.weights, str):
            require_one_of(self, "weights", ("tokens", "bytes", "documents"))
            return
        require(
            len(self.weights) == len(self.sources) and all(0 < weight < math.inf for weight in self.weights),
            f"{at}: weights must be tokens, bytes, documents, or a number above 0 for each of its sources.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
    """A seqio mixture, of tasks, sources and groups."""

    name: str  # a plain word
    rates: tuple[
        tuple[str, float], ...
    ] = ()  # ((task or group, rate), ...), whose proportions are shares of the tokens
    repeats: tuple[
        tuple[str, int], ...
    ] = ()  # instead of rates: ((task, times), ...): how often each is read while the mixture is read once

    def __post_init__(self):
        check_types(self)
        at = f"Mixture {self.name!r}"
        require(self.name.isidentifier(), f"{at}: the name must be a plain word.")
        require(
            (self.rates != ()) != (self.repeats != ()),
            f"{at}: rates must name at least one task, or repeats in its place.",
        )
        names = self.names
        require(len(set(names)) == len(names), f"{at}: {'rates' if self.rates else 'repeats'} name a task twice.")
        for name, times in self.repeats:
            require(times >= 1, f"{at}: {name!r} must be repeated at least 1 time, but is {times}.")
        for name, rate in self.rates:
            require(0 < rate < math.inf, f"{at}: the rate of {name!r} must be above 0, but is {rate}.")

    @property
    def names(self) -> tuple[str, ...]:
        """Of its tasks and groups."""
        return tuple(name for name, _ in self.rates or self.repeats)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the names of mixtures and tasks stand for. In paths `~` is the home folder."""

    cache_dir: str = ".cache/dots_jax"  # folder of the token caches
    tasks_modules: tuple[str, ...] = ("dots_jax.data.tasks",)  # Python modules that register seqio tasks and mixtures
    tokenizer: str = ""  # a Hugging Face tokenizer.json for the sources below; empty: bytes
    sources: tuple[Source, ...] = ()  # registered as seqio tasks when the command starts
    groups: tuple[Group, ...] = ()  # several sources under one name, for mixtures
    mixtures: tuple[Mixture, ...] = ()  # registered as seqio mixtures when the command starts
    corpora: str = (
        ""  # the folder or bucket that relative paths of Source.files and exclude start from; empty: the current folder
    )
    allow_synthetic: bool = True  # False: a source that is marked synthetic is refused
    default_system: str = ""  # the system message of conversations that have none; empty: they keep none
    max_epochs: float = 4.0  # a warning names each source that the plan reads more often; 0: none; our choice

    def __post_init__(self):
        check_types(self)
        require(self.cache_dir != "", "DataConfig.cache_dir must name a folder.")
        require_not_negative(self, "max_epochs")
        expand_home(self, "cache_dir", "tokenizer", "corpora")
        object.__setattr__(self, "sources", tuple(_under(self.corpora, source) for source in self.sources))
        synthetic = [source.name for source in self.sources if source.synthetic and not self.allow_synthetic]
        require(
            not synthetic,
            f"DataConfig.allow_synthetic is False, but {', '.join(synthetic)} is marked synthetic: take it out of sources.",
        )
        self._check_names()

    def _check_names(self) -> None:
        for kind in ("sources", "groups", "mixtures"):
            names = [one.name for one in getattr(self, kind)]
            twice = sorted({name for name in names if names.count(name) > 1})
            require(not twice, f"DataConfig.{kind} names {', '.join(twice)} twice: give each a name of its own.")
        sources, groups = {one.name for one in self.sources}, {one.name: one for one in self.groups}
        both = sorted(sources & groups.keys())
        require(not both, f"{', '.join(both)} is the name of a source and of a group: give one of them another.")
        for group in self.groups:
            unknown = [name for name in group.sources if name not in sources and name not in groups]
            require(
                not unknown, f"Group {group.name!r} names {', '.join(unknown)}, which no source or group is called."
            )
        for source in self.sources:
            require(
                source.overflow in ("", *sources, *groups),
                f"Source {source.name!r}: overflow names {source.overflow!r}, which no source or group is called.",
            )


def _parts(entry: tuple) -> tuple[str, str, dict[str, str]]:
    """(split, glob, what it sets for its glob) of an entry of Source.files."""
    split, glob, *settings = entry
    return split, glob, dict(settings)


def _under(corpora: str, source: Source) -> Source:
    """The source with its relative paths under a folder."""

    def placed(glob: str) -> str:
        return glob if not corpora or "://" in glob or glob.startswith("/") else f"{corpora.rstrip('/')}/{glob}"

    files = tuple((split, placed(glob), *settings.items()) for split, glob, settings in map(_parts, source.files))
    exclude = tuple((field, placed(glob)) for field, glob in source.exclude)
    return dataclasses.replace(source, files=files, exclude=exclude)
