"""The user's own files as a seqio.DataSource."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import seqio
import tensorflow as tf

from dots_jax.config import UserError
from dots_jax.data.sources.json_lines import Malformed
from dots_jax.data.sources.record_files import check_format, read_texts
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

    splits: split -> glob pattern (`**` is any depth), here or in a bucket (gs://). field: of a record, where its text is.
    Nothing is looked for before it is needed, so a token cache works where the files themselves are not.
    """

    def __init__(self, splits: Mapping[str, str], field: str = "text"):
        self.globs, self.field = dict(splits), field
        super().__init__(splits=tuple(splits), caching_permitted=False)

    def split_identity(self, split: str) -> str:
        """Names what the split was declared to be; whether the files are still the same, their checksums say."""
        return "files-" + hashlib.sha256(repr((self.globs[split], self.field)).encode()).hexdigest()[:16]

    @property
    def identity(self) -> str:
        return "files-" + hashlib.sha256(repr((sorted(self.globs.items()), self.field)).encode()).hexdigest()[:16]

    def files(self, split: str) -> tuple[SourceFile, ...]:
        """The split's files by name, as they are now. Raises NoFiles, or UserError if one cannot be read or is of no known
        format."""
        pattern = self.globs[split]
        found = find_files(pattern)
        if not found:
            raise NoFiles(
                f"No file matches {pattern!r}, where split {split!r} should be: check the path and the folder it starts from."
            )
        for file in found:
            check_format(file.path)
        folder = fixed_folder(pattern)
        return tuple(sorted(SourceFile(relative_name(file.path, folder), *file) for file in found))

    def path_of(self, split: str, name: str) -> str:
        """Where a file of the split is, by its name; it is not looked for."""
        return os.path.join(fixed_folder(self.globs[split]), name)

    def texts(self, file: SourceFile) -> Iterator[bytes | Malformed]:
        """Every record of one file."""
        return read_texts(file.path, self.field)

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
        return self.dataset([_Texts(self, file) for file in files])


class _Texts:
    """The records of a file, from the beginning each time: a tf.data.Dataset may be read twice."""

    def __init__(self, source: FileSource, file: SourceFile):
        self._source, self._file = source, file

    def __iter__(self) -> Iterator[bytes | Malformed]:
        return self._source.texts(self._file)
