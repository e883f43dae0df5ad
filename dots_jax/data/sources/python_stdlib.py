"""TFDS dataset `python_stdlib`: the source files of the Python library, real text that every machine already has.

Split by file, about 95 : 5, so no validation document is in the training text. The version is that of the Python whose
files they are (3.11.7, 3.12.1, ...), since another Python has other files.
"""

import contextlib
import hashlib
import io
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from dots_jax.config import UserError

PYTHON_VERSION = ".".join(str(part) for part in sys.version_info[:3])

# Not the library's own text: installed packages, test suites, and lib2to3 (deprecated, and gone from newer Pythons).
_LEFT_OUT_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"}
# Written by the build of this very Python: compiler flags and absolute paths.
_LEFT_OUT_PREFIX = "_sysconfigdata"
_VALIDATION_ONE_IN = 20


class PythonStdlib(tfds.core.GeneratorBasedBuilder):
    """Examples {"text": the file, "name": its path inside the library}."""

    VERSION = tfds.core.Version(PYTHON_VERSION)
    url_infos = None  # nothing is downloaded; looking for checksums needs a package that TFDS does not declare

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"text": tfds.features.Text(), "name": tfds.features.Text()}),
            description="Source files of the Python standard library, split by file.",
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        files = list(library_files())
        if not files:
            raise UserError(f"No Python library sources were found under {_library()}: use a Python that has them.")
        return {split: self._generate_examples(files, split) for split in ("train", "validation")}

    def _generate_examples(self, files: Sequence[tuple[str, str]], split: str):
        for name, text in files:
            if split_of(name) == split:
                yield name, {"text": text, "name": name}


def _library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def library_files() -> Iterator[tuple[str, str]]:
    """(path inside the library, text) of every file used, sorted by path."""
    root = _library()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _LEFT_OUT_FOLDERS.intersection(relative.parts) or relative.name.startswith(_LEFT_OUT_PREFIX):
            continue
        try:
            yield relative.as_posix(), path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):  # another encoding, or a dangling link: not text we can use
            continue


def split_of(name: str) -> str:
    digest = hashlib.sha256(name.encode()).digest()
    return "validation" if int.from_bytes(digest[:8], "big") % _VALIDATION_ONE_IN == 0 else "train"


class PythonStdlibSource(seqio.TfdsDataSource):
    """The data set as a seqio source that makes its files when they are first read, and never looks at a network."""

    def __init__(self, splits: Mapping[str, str] | None = None, variant: str = ""):
        """splits: name -> TFDS split, by default its own. variant: tells the caches of other splits apart."""
        self._variant = variant
        splits = splits or {"train": "train", "validation": "validation"}
        # read_only: otherwise seqio calls tfds.load with try_gcs=True, which goes to the network.
        super().__init__(f"python_stdlib:{PYTHON_VERSION}", splits=splits, read_only=True)

    @property
    def identity(self) -> str:
        return f"python_stdlib-{PYTHON_VERSION}{self._variant}"

    def prepare_under(self, cache_dir: str | Path) -> None:
        """Keeps the TFDS files in cache_dir/tfds from now on, and makes them if they are not there."""
        self.tfds_dataset.override_data_dir(str(Path(cache_dir) / "tfds"))
        self._prepare()

    def _prepare(self) -> None:
        builder = self.tfds_dataset.builder
        if (builder.data_path / "dataset_info.json").exists():  # is_prepared() warns when the answer is no
            return
        # TFDS announces a download of 0 bytes and draws bars of its own; the token cache's bar is enough.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False, verify_ssl=False)
            )

    def get_dataset(self, split="train", shuffle=True, seed=None, shard_info=None, **unused) -> tf.data.Dataset:
        self._prepare()
        return super().get_dataset(split, shuffle, seed, shard_info)
