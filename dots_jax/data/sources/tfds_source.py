"""A source of DataConfig that reads a TFDS data set which is prepared on this machine."""

import hashlib
import re
from pathlib import Path

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from dots_jax import storage
from dots_jax.config import Source, UserError
from dots_jax.data.sources.python_stdlib import PythonStdlibSource


class TfdsSource(seqio.TfdsDataSource):
    """Reads source.tfds from TFDS's data folder (TFDS_DATA_DIR, or ~/tensorflow_datasets); never downloads anything.

    Attributes: identity, which changes with whatever changes the documents.
    """

    def __init__(self, source: Source):
        if not re.fullmatch(r"[\w/.-]+:\d+\.\d+\.\d+", source.tfds):
            raise UserError(
                f"Source {source.name!r}: tfds must be a name with its version, as 'wikipedia/20230601.en:1.0.0', but is "
                f"{source.tfds!r}."
            )
        self._source = source
        # read_only: otherwise seqio calls tfds.load with try_gcs=True, which goes to the network.
        super().__init__(source.tfds, splits=dict(source.splits) or None, read_only=True)

    @property
    def identity(self) -> str:
        return self._source.tfds + _variant(self._source)

    @property
    def splits(self):
        if not self._splits:
            self._check_prepared()
        return super().splits

    def prepare_under(self, cache_dir: str | Path) -> None:
        """Refuses a data set that is not there before anything is written."""
        self._check_prepared()

    def get_dataset(self, split="train", shuffle=True, seed=None, shard_info=None, **unused) -> tf.data.Dataset:
        self._check_prepared()
        return super().get_dataset(split, shuffle, seed, shard_info)

    def _check_prepared(self) -> None:
        # By its path: a tfds builder of a data set that is not there asks the network about it.
        name, version = self._source.tfds.split(":")
        root = str(self.tfds_dataset.data_dir or tfds.core.constants.DATA_DIR)
        folder = (storage.folder(root) if storage.in_bucket(root) else Path(root).expanduser()) / name / version
        if not (folder / "dataset_info.json").exists():
            raise UserError(
                f"Source {self._source.name!r}: the TFDS data set {self._source.tfds} is not in {folder}: make it with "
                f"`tfds build {name}`, set TFDS_DATA_DIR to where it is, or give the source files of your own."
            )


def stdlib_source(source: Source) -> PythonStdlibSource:
    """The built-in python_stdlib, with the splits of `source`."""
    return PythonStdlibSource(dict(source.splits) or None, _variant(source))


def _variant(source: Source) -> str:
    """What tells two uses of one data set apart: empty for the plain one."""
    uses = (source.splits, source.field, source.where, source.kind)
    plain = ((), "text", (), "text")
    return "" if uses == plain else "-" + hashlib.sha256(repr(uses).encode()).hexdigest()[:8]
