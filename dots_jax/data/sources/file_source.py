"""The user's own files as a seqio.DataSource."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import seqio
import tensorflow as tf

from dots_jax.config import UserError
from dots_jax.data.sources.record_files import Malformed, check_format, read_texts
from dots_jax.storage import find_files, fixed_folder, relative_name


class SourceFile(NamedTuple):
    """name: stays the same when the folder moves. size: in bytes."""

    name: str
    path: str
    size: int


class FileSource(seqio.DataSource):
    """Records of files as examples {"text": UTF-8}, in the order of the files' names. Formats: record_files.py.

    splits: split -> glob pattern (`**` is any depth), here or in a bucket (gs://). field: of a record, where its text is.
    Nothing is looked for before it is needed, so a token cache works where the files themselves are not.
    """

    def __init__(self, splits: Mapping[str, str], field: str = "text"):
        self.globs, self.field = dict(splits), field
        super().__init__(splits=tuple(splits), caching_permitted=False)

    def split_identity(self, split: str) -> str:
        """Names what the split was declared to be; whether the files are still the same, `fingerprint` says."""
        return "files-" + hashlib.sha256(repr((self.globs[split], self.field)).encode()).hexdigest()[:16]

    @property
    def identity(self) -> str:
        return "files-" + hashlib.sha256(repr((sorted(self.globs.items()), self.field)).encode()).hexdigest()[:16]

    @functools.cache  # noqa: B019  one listing serves the whole run; sources live as long as the process
    def files(self, split: str) -> tuple[SourceFile, ...]:
        """The split's files by name. Raises UserError if there are none, or one is of no known format."""
        pattern = self.globs[split]
        found = find_files(pattern)
        if not found:
            raise UserError(
                f"No file matches {pattern!r}, where split {split!r} should be: check the path and the folder it starts from."
            )
        for file in found:
            check_format(file.path)
        folder = fixed_folder(pattern)
        return tuple(sorted(SourceFile(relative_name(file.path, folder), file.path, file.size) for file in found))

    def fingerprint(self, split: str) -> str | None:
        """Of the names and sizes of the files; None where there are none to see."""
        try:
            listing = [(file.name, file.size) for file in self.files(split)]
        except UserError:
            return None
        return hashlib.sha256(repr(listing).encode()).hexdigest()[:16]

    def texts(self, file: SourceFile) -> Iterator[bytes | Malformed]:
        """Every record of one file."""
        return read_texts(file.path, self.field)

    def dataset(
        self, files: Iterable[SourceFile], on_malformed: Callable[[Malformed], None] = lambda _: None
    ) -> tf.data.Dataset:
        """Examples {"text"} of these files; what is malformed goes to on_malformed instead."""

        def examples():
            for file in files:
                for text in self.texts(file):
                    if isinstance(text, Malformed):
                        on_malformed(text)
                    else:
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
        if not shuffle:
            return self.dataset(files)
        order = tf.data.Dataset.range(len(files)).shuffle(max(1, len(files)), seed=seed)
        return self.dataset([files[i] for i in order.as_numpy_iterator()])
