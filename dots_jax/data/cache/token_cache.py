"""Opens the token cache of a seqio Task, and makes it first if it is not there.

A cache appears under its name only when it is whole: it is made beside it (cache_build.py) and renamed. One process
builds at a time (a lock that the system drops if the process dies) and the others wait and then use it. What a killed
build had done is used by the next one.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import itertools
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import seqio
import tensorflow as tf

from dots_jax.config import CacheConfig, UserError
from dots_jax.data.cache import build as cache_build
from dots_jax.data.cache import plan as cache_plan
from dots_jax.data.cache import token_format as fmt
from dots_jax.data.cache.token_stream import TokenStream
from dots_jax.data.registry import check_split, get_task, task_vocabulary
from dots_jax.data.sources.documents import is_weighted
from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.sources.record_files import Malformed
from dots_jax.data.tokenizers import vocabulary as vocabularies

# TensorFlow only moves text and integers here; it must not take an accelerator's memory from the model.
with contextlib.suppress(RuntimeError, ValueError):
    tf.config.set_visible_devices([], "GPU")

# Does step(building, number) for every number, in any order and on any workers.
ForEach = Callable[[Callable[[Path, int], None], Path, Sequence[int]], None]
_DEFAULTS = CacheConfig(tasks=("any",))


def open_stream(task_name: str, split: str, cache_dir: str | Path) -> TokenStream:
    """The token stream of a split of a registered Task; made first, with a progress bar, if it is not there.

    Raises UserError for an unknown task or split, an empty data set, a cache that is damaged or made with another
    vocabulary or of other files, and a folder or disk that cannot be written.
    """
    task = get_task(task_name)
    check_split(task, split)
    directory = cache_directory(task, split, cache_dir)
    if not directory.exists():
        make_cache(task, split, cache_dir, one_after_the_other, shards=None)
    return TokenStream(directory, check_cache(task, split, directory))


def cache_directory(task: seqio.Task, split: str, cache_dir: str | Path) -> Path:
    """Where the cache of a split is. Another version of the source has another folder, so neither is taken for both."""
    source = re.sub(r"[^\w.-]+", "_", source_identity(task, split))
    return Path(cache_dir) / "tokens" / task.name / source / split


def source_identity(task: seqio.Task, split: str) -> str:
    """The data a Task reads: a source's own identity, the TFDS name, or else the kind of source."""
    source = task.source
    if isinstance(source, FileSource):
        return source.split_identity(split)
    if hasattr(source, "identity"):
        return source.identity
    if isinstance(source, seqio.TfdsDataSource):
        name = str(source.tfds_dataset.resolved_tfds_name(split))
        part = str(source.tfds_dataset._map_split(split))  # seqio says nowhere else what a split stands for
        # Hashed: a folder's name cannot tell train[:5%] from train[5%:].
        return name if part == split else f"{name}-{hashlib.sha256(part.encode()).hexdigest()[:8]}"
    return type(source).__name__


def check_cache(task: seqio.Task, split: str, directory: Path) -> fmt.Manifest:
    """The manifest of a cache that fits the task as it is now. Source files that are not here are not missed."""
    manifest = fmt.Manifest.read(directory)
    expected = vocabularies.identity(task_vocabulary(task))
    if manifest.vocabulary != expected:
        raise UserError(
            f"The token cache {directory} was made with {manifest.vocabulary}, but task {task.name!r} now uses "
            f"{expected}: choose another DataConfig.cache_dir, or delete that folder."
        )
    if manifest.weighted != is_weighted(task):
        raise UserError(
            f"The token cache {directory} was made when task {task.name!r} "
            f"{'was' if manifest.weighted else 'was not'} one of conversations: delete that folder and it is made again."
        )
    found = task.source.fingerprint(split) if isinstance(task.source, FileSource) else None
    if found not in (None, manifest.fingerprint):
        raise UserError(
            f"The token cache {directory} was made of other files than {task.source.globs[split]!r} has now "
            f"({fmt.PROVENANCE} lists them): choose another DataConfig.cache_dir, or delete that folder."
        )
    return manifest


def make_cache(
    task: seqio.Task, split: str, cache_dir: str | Path, for_each: ForEach, *, shards: int | None = _DEFAULTS.shards,
    max_malformed: float = _DEFAULTS.max_malformed, samples: int = _DEFAULTS.malformed_samples,
) -> None:  # fmt: skip
    """Makes the cache of a split unless it is there. Its bytes depend on `shards`, not on for_each or interruptions.

    The other arguments are those of CacheConfig; shards None: as 0, but work begun with any number is taken up.
    Raises UserError as open_stream does, and for too many malformed.
    """
    directory = cache_directory(task, split, cache_dir)
    building = directory.with_name(f".{split}.building")
    with write_errors(cache_dir), _one_builder(directory.with_name(f".{split}.lock")):
        if directory.exists():  # another process made it while this one waited
            return
        prepare(task, cache_dir)
        look_first(task, split, max_malformed)
        plan = cache_plan.plan(task, split, source_identity(task, split), shards or 0)
        plan = cache_plan.begin(building, plan, any_shards=shards is None)
        tokenise = functools.partial(cache_build.tokenise, samples=samples)
        for_each(tokenise, building, cache_plan.unfinished(building, "pieces", len(plan.pieces)))
        cache_build.check_pieces(building, max_malformed)
        for_each(cache_build.write_shard, building, cache_plan.unfinished(building, "shards", plan.shards))
        cache_build.finish(building, samples)
        (building / "cache").rename(directory)
        shutil.rmtree(building)


def one_after_the_other(step: Callable, building: Path, numbers: Sequence[int]) -> None:
    """The steps in this process, for caches that are made in passing; tokenising draws a progress bar."""
    for number in numbers:
        if getattr(step, "func", None) is cache_build.tokenise:
            step(building, number, bar=True)
        else:
            step(building, number)


def prepare(task: seqio.Task, cache_dir: str | Path) -> None:
    """Lets a source that makes its own files do so, one process at a time."""
    if hasattr(task.source, "prepare_under"):
        with write_errors(cache_dir), _one_builder(Path(cache_dir) / ".prepare.lock"):
            task.source.prepare_under(cache_dir)


def look_first(task: seqio.Task, split: str, max_malformed: float, records: int = 100) -> None:
    """Raises UserError if the first records of three files are all malformed: a wrong field name costs no hours."""
    if not isinstance(task.source, FileSource) or max_malformed == 1:
        return
    files = task.source.files(split)
    texts = [
        text
        for file in {files[0], files[len(files) // 2], files[-1]}
        for text in itertools.islice(task.source.texts(file), records)
    ]
    if texts and all(isinstance(text, Malformed) for text in texts):
        raise UserError(
            f"Task {task.name!r}: none of the first records of {task.source.globs[split]!r} can be used ({texts[0].reason}; "
            f"the record begins: {texts[0].shown}): check the field and the files."
        )


@contextlib.contextmanager
def _one_builder(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def write_errors(cache_dir: str | Path) -> Iterator[None]:
    """A folder or disk that cannot be written becomes one sentence; trouble with reading the source stays what it is."""
    try:
        yield
    except OSError as error:
        inside = str(error.filename or "").startswith(str(cache_dir))
        if not inside and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        reason = error.strerror
    except (RuntimeError, tf.errors.ResourceExhaustedError) as error:  # how array_record and tf.io say it
        if "No space left" not in str(error) and "quota exceeded" not in str(error):
            raise
        reason = "No space left on device"
    else:
        return
    raise UserError(
        f"The token cache cannot be written under {cache_dir} ({reason}): free space there, make it writable, or set "
        "DataConfig.cache_dir to another folder."
    )
