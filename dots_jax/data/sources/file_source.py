"""The user's own files as a seqio.DataSource."""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import seqio
import tensorflow as tf

from dots_jax.config import UserError
from dots_jax.config.records import FileSet, RecordRule
from dots_jax.data.sources.conversations import formats
from dots_jax.data.sources.exclude_lists import content_of
from dots_jax.data.sources.json_lines import Malformed
from dots_jax.data.sources.record_files import check_format, read_texts
from dots_jax.data.sources.split_files import with_parts_joined
from dots_jax.storage import find_files, fixed_folder, relative_name


class SourceFile(NamedTuple):
    """name: stays the same when the folder moves. size: in bytes. modified: as in storage.FoundFile."""

    name: str
    path: str
    size: int
    modified: float


class NoFiles(UserError):
    """No file is where those of a split should be: on a machine that only trains, they need not be."""


class FileSource(seqio.DataSource):
    """Records of files as examples {"text": UTF-8}, in the order of the files' names. Formats: record_files.py.

    splits: split -> glob pattern (`**` is any depth), here or in a bucket (gs://), or several FileSets, each with its rule.
    field: of a record, where its text is, for patterns alone.
    Nothing is looked for before it is needed, so a token cache works where the files themselves are not.

    Attributes: file_sets: split -> FileSets. conversations: whether records are conversations. default_system: the system message
    of those without one. add_chat_task sets both.
    """

    def __init__(self, splits: Mapping[str, str | Sequence[FileSet]], field: str = "text"):
        self.field, self.conversations, self.default_system = field, False, ""
        plain = RecordRule(field=field)
        self.file_sets = {
            split: (FileSet(sets, plain),) if isinstance(sets, str) else tuple(sets) for split, sets in splits.items()
        }
        self._rules: dict[str, dict[str, FileSet]] = {}  # of each split, by the name of a file
        super().__init__(splits=tuple(splits), caching_permitted=False)

    @property
    def shown_field(self) -> str | None:
        """The field of a record that is read first, as the user calls it; None if the files decide, or it is one of several."""
        first = next(iter(self.file_sets.values()))[0].rule
        if first.format in ("auto", "field_map"):
            return None
        return formats.field_of(first) if first.format else self.field

    @property
    def globs(self) -> dict[str, str]:
        """What was looked for, as messages show it."""
        return {split: ", ".join(one.glob for one in sets) for split, sets in self.file_sets.items()}

    def split_identity(self, split: str) -> str:
        """Names what the split was declared to be; whether the files are still the same, their checksums say."""
        declared = self._declared(split)
        return _hashed((declared, self.default_system) if self.default_system else declared)

    @property
    def identity(self) -> str:
        plain = all(self._is_plain(sets) for sets in self.file_sets.values())
        globs = sorted((split, sets[0].glob) for split, sets in self.file_sets.items())
        return _hashed((globs, self.field) if plain else sorted((s, self._declared(s)) for s in self.file_sets))

    def _declared(self, split: str) -> tuple:
        sets = self.file_sets[split]
        if self._is_plain(sets):
            return sets[0].glob, sets[0].rule.field  # as before there was more than that: old caches stay
        lists = {glob for one in sets for _, glob in one.rule.exclude}
        held = [(glob, content_of(glob)) for glob in sorted(lists)]
        return tuple((one.glob, _stated(one.rule)) for one in sets) + ((held,) if held else ())

    def _is_plain(self, sets: Sequence[FileSet]) -> bool:
        return len(sets) == 1 and sets[0].rule == RecordRule(field=sets[0].rule.field)

    def files(self, split: str) -> tuple[SourceFile, ...]:
        """The split's files by name, as they are now. Raises NoFiles, or UserError if one cannot be read, is of no known
        format, or matches two globs."""
        found, sets, folder = {}, {}, self._folder(split)
        for one in self.file_sets[split]:
            matched = with_parts_joined(find_files(one.glob))
            if not matched:
                raise NoFiles(
                    f"No file matches {one.glob!r}, where split {split!r} should be: check the path and the folder it starts "
                    "from."
                )
            for file in matched:
                if file.path in found:
                    raise UserError(
                        f"{file.path} matches both {sets[file.path].glob!r} and {one.glob!r} of split {split!r}: give globs "
                        "that do not overlap, since it would be read twice."
                    )
                check_format(file.path)
                found[file.path], sets[file.path] = file, one
        files = sorted(SourceFile(relative_name(file.path, folder), *file) for file in found.values())
        self._rules[split] = {file.name: sets[file.path] for file in files}
        return tuple(files)

    def _folder(self, split: str) -> str:
        """The one that names of files are relative to."""
        first, *others = (fixed_folder(one.glob).split("/") for one in self.file_sets[split])
        for other in others:
            same = [a == b for a, b in zip(first, other)]
            first = first[: same.index(False) if False in same else len(same)]
        return "/".join(first) or (os.sep if self.file_sets[split][0].glob.startswith("/") else os.curdir)

    def path_of(self, split: str, name: str) -> str:
        """Where a file of the split is, by its name; it is not looked for."""
        return os.path.join(self._folder(split), name)

    def file_set(self, split: str, name: str) -> FileSet:
        """What a file of the split belongs to, by its name. Lists the files if there are several sets."""
        sets = self.file_sets[split]
        if len(sets) == 1:
            return sets[0]
        if name not in self._rules.get(split, {}):
            self.files(split)
        if name not in self._rules[split]:
            raise UserError(f"{self.path_of(split, name)} cannot be read: No such file or directory.")
        return self._rules[split][name]

    def texts(self, file: SourceFile, split: str = "train") -> Iterator[bytes | Malformed]:
        """Every record of one file that its rule takes."""
        rule = self.file_set(split, file.name).rule
        return read_texts(file.path, rule, conversations=self.conversations)

    def dataset(self, files: Iterable[Iterable[bytes | Malformed]]) -> tf.data.Dataset:
        """Examples {"text"} of the texts of these files. What is malformed is left out: stock seqio has no place for it."""

        def examples():
            for texts in files:
                for text in texts:
                    if not isinstance(text, Malformed):
                        yield {"text": text}

        return tf.data.Dataset.from_generator(examples, output_signature={"text": tf.TensorSpec([], tf.string)})

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return False

    def list_shards(self, split: str) -> Sequence[str]:
        return [file.name for file in self.files(split)]

    def num_input_examples(self, split: str) -> int | None:
        return None

    def get_dataset(self, split="train", shuffle=True, seed=None, shard_info=None, **unused) -> tf.data.Dataset:
        files = list(self.files(split))
        if shard_info:
            files = files[shard_info.index :: shard_info.num_shards]
        if shuffle:
            order = tf.data.Dataset.range(len(files)).shuffle(max(1, len(files)), seed=seed)
            files = [files[i] for i in order.as_numpy_iterator()]
        return self.dataset([_Texts(self, file, split) for file in files])


class _Texts:
    """The records of a file, from the beginning each time: a tf.data.Dataset may be read twice."""

    def __init__(self, source: FileSource, file: SourceFile, split: str):
        self._source, self._file, self._split = source, file, split

    def __iter__(self) -> Iterator[bytes | Malformed]:
        return self._source.texts(self._file, self._split)


def _hashed(declared) -> str:
    return "files-" + hashlib.sha256(repr(declared).encode()).hexdigest()[:16]


def _stated(rule: RecordRule) -> tuple:
    """What differs from the defaults, so that a rule that is added later changes no identity."""
    fields = ((field.name, getattr(rule, field.name), field.default) for field in dataclasses.fields(rule))
    return tuple((name, value) for name, value, default in fields if value != default)
