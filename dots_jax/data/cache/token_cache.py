"""Opens the token cache of a seqio Task, and makes it first if it is not there.

A cache appears under its name only when it is complete: it is made next to it (build.py) and renamed. One process builds
at a time (locks.py); training waits for it and then uses the cache, and another `dots_jax.cache` is refused. What a killed
build had done is used by the next one.

A cache in a bucket is made in TMPDIR and copied there, its manifest last. It is read where it is, a chunk at a time.
"""

import concurrent.futures
import contextlib
import errno
import functools
import hashlib
import itertools
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import seqio
import tensorflow as tf

from dots_jax.config import CacheConfig, UserError
from dots_jax.data.cache import build as cache_build
from dots_jax.data.cache import merge as cache_merge
from dots_jax.data.cache import plan as cache_plan
from dots_jax.data.cache import source_check
from dots_jax.data.cache import token_format as fmt
from dots_jax.data.cache.code_identity import code_identity
from dots_jax.data.cache.token_stream import TokenStream
from dots_jax.data.registry import check_split, get_task, task_vocabulary
from dots_jax.data.sources.documents import is_weighted
from dots_jax.data.sources.file_source import FileSource, SourceFile
from dots_jax.data.sources.json_lines import DamagedFile, Malformed
from dots_jax.data.sources.record_files import check_beginning, format_of, numbered_texts
from dots_jax.data.tokenizers import vocabulary as vocabularies
from dots_jax.human import first_line
from dots_jax.locks import owned
from dots_jax.storage import filesystem, folder, in_bucket

# TensorFlow only moves text and integers here; it must not take an accelerator's memory from the model.
with contextlib.suppress(RuntimeError, ValueError):
    tf.config.set_visible_devices([], "GPU")

# Does step(building, number) for every number, in any order and on any workers.
_THREADS = 8  # that look at the beginnings of files
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
    if not is_made(directory):
        make_cache(task, split, cache_dir, one_after_the_other, shards=None, wait=math.inf)
    return TokenStream(directory, check_cache(task, split, directory))


def cache_directory(task: seqio.Task, split: str, cache_dir: str | Path) -> Path:
    """Where the cache of a split is. Another version of the source has another folder, so neither is taken for both."""
    source = re.sub(r"[^\w.-]+", "_", source_identity(task, split))
    root = folder(cache_dir) if in_bucket(cache_dir) else Path(cache_dir)
    return root / "tokens" / task.name / source / split


def is_made(directory: Path) -> bool:
    """Whether there is a cache. In a bucket, where nothing appears at once, its manifest is written last."""
    return (directory / fmt.MANIFEST if in_bucket(directory) else directory).exists()


def local_place(path: str | Path) -> Path:
    """The path itself, or, for one in a bucket, a folder of this machine that stands for it while a cache is made."""
    if not in_bucket(path):
        return Path(path)
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"dots_jax_caches-{os.getuid()}" / name


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


def check_cache(task: seqio.Task, split: str, directory: Path, thorough: bool = False) -> fmt.Manifest:
    """The manifest of a cache that fits the task as it is now. thorough: source_check.py says what is read for that.
    Source files that are not on this machine are not asked for."""
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
    if manifest.code != code_identity(task):
        raise UserError(
            f"The token cache {directory} was made by other code than task {task.name!r} has now (its preprocessors, or the module "
            "that defines them): delete that folder and it is made again, or take that change back."
        )
    revision = getattr(task.source, "revision", "")
    if revision and manifest.revision and revision != manifest.revision:
        raise UserError(
            f"The token cache {directory} was made of revision {manifest.revision}, but Source.revision of {task.name!r} is "
            f"{revision}: delete that folder and it is made again, or take that change back."
        )
    records = manifest.documents + sum(manifest.malformed.values()) + sum(manifest.left_out.values())
    cache_build.check_expected(f"Task {task.name!r}", split, records, _expected_documents(task, split))
    source_check.check_sources(task, split, directory, manifest, thorough)
    return manifest


def _expected_documents(task: seqio.Task, split: str) -> int:
    """Source.documents; 0: any number."""
    return getattr(task.source, "expected_documents", 0) if split == "train" else 0


def make_cache(
    task: seqio.Task, split: str, cache_dir: str | Path, for_each: ForEach, *, shards: int | None = _DEFAULTS.shards,
    max_malformed: float = _DEFAULTS.max_malformed, samples: int = _DEFAULTS.malformed_samples,
    max_damaged_files: int = _DEFAULTS.max_damaged_files, thorough: bool = False, wait: float = 0,
) -> None:  # fmt: skip
    """Makes the cache of a split unless it is there. Its bytes depend on `shards`, not on for_each or interruptions.

    The other arguments are those of CacheConfig; shards None: as 0, but work begun with any number is taken up.
    thorough: how the files are checked of which a killed build had read some. wait: seconds, for another process that makes it.
    Raises UserError as open_stream does, for another process that makes it, and for too many malformed or damaged.
    """
    directory = cache_directory(task, split, cache_dir)
    place, what = local_place(directory.parent), f"the token cache of {task.name} {split}"
    building = place / f".{split}.building"
    lock = owned(directory.parent, what, wait=wait, name=f".{split}.owner.json", on_wait=_say)
    with write_errors(local_place(cache_dir)), lock as held:
        if is_made(directory):  # another process made it while this one waited
            return
        prepare(task, cache_dir)
        look_first(task, split, max_malformed, max_damaged_files)
        plan = cache_plan.plan(task, split, source_identity(task, split), shards or 0)
        is_same = functools.partial(source_check.same_pieces, task, split, thorough=thorough)
        plan = cache_plan.begin(building, plan, is_same, any_shards=shards is None)
        tokenise = functools.partial(cache_build.tokenise, samples=samples)
        for_each(tokenise, building, cache_plan.unfinished(building, "pieces", len(plan.pieces)))
        expected = _expected_documents(task, split)
        cache_build.check_pieces(building, max_malformed, max_damaged_files, expected)
        merge_levels(building, len(plan.pieces), for_each)
        for_each(cache_build.write_shard, building, cache_plan.unfinished(building, "shards", plan.shards))
        cache_build.finish(building, samples)
        held.check()
        contents = cache_build.contents(building)
        if in_bucket(directory):
            _upload(building / "cache", directory)
        else:
            (building / "cache").rename(directory)
        source_check.note(directory, contents)
        shutil.rmtree(building)


def merge_levels(building: Path, pieces: int, for_each: ForEach) -> None:
    """The levels of merge.py between the two steps; none for few pieces."""
    for level in range(1, cache_merge.levels(pieces) + 1):
        directory = cache_merge.folder(building, level)
        directory.mkdir(exist_ok=True)
        steps = cache_merge.steps(pieces, level)
        merge = functools.partial(cache_merge.merge, level=level)
        for_each(merge, building, cache_plan.unfinished(building, directory.name, steps))
        cache_merge.remove_inputs(building, level)


def _upload(cache: Path, directory: Path) -> None:
    """The manifest, which makes it a cache, last."""
    client = filesystem(str(directory))
    try:
        for path in sorted(cache.iterdir(), key=lambda path: (path.name == fmt.MANIFEST, path.name)):
            client.put_file(str(path), str(directory / path.name))
    except Exception as error:  # noqa: BLE001  credentials, network and the bucket each have errors of their own
        raise UserError(
            f"The token cache cannot be written to {directory} ({first_line(error)}): may this machine's account write "
            "there? What was made waits in TMPDIR; the same command goes on from it."
        ) from error


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


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
        place = local_place(cache_dir)
        lock = owned(place, "a data set", wait=math.inf, name=".prepare.owner.json", on_wait=_say)
        with write_errors(place), lock:
            task.source.prepare_under(place)


def look_first(
    task: seqio.Task,
    split: str,
    max_malformed: float,
    max_damaged_files: int = 0,
    records: int = 100,
    files_at_most: int = 0,
) -> None:
    """Raises UserError for what costs no hours to find: files whose beginning or end says that they are damaged, and a
    wrong field name, for which the first records of three files are all malformed. files_at_most: spread over all; 0: all."""
    if not isinstance(task.source, FileSource):
        return
    files, what = task.source.files(split), f"Task {task.name!r}"
    if 0 < files_at_most < len(files):
        _say(
            f"{what}, {split!r}: the beginnings of {files_at_most:,} of {len(files):,} files were looked at; the job looks at all."
        )
        files = [files[i * len(files) // files_at_most] for i in range(files_at_most)]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        damaged = [error for error in pool.map(_damage, files) if error]
    if len(damaged) > max_damaged_files:
        raise cache_build.damaged_files(what, split, len(files), damaged)
    if max_malformed == 1:
        return
    found = None
    for file in dict.fromkeys((files[0], files[len(files) // 2], files[-1])):
        rule = task.source.file_set(split, file.name).rule
        if rule.format == "auto":
            kind, field = format_of(file.path)
            _say(
                f"{what}: {file.name} has conversations of format {kind!r} in the field {field!r}, as its first records say."
            )
        texts = numbered_texts(file.path, rule, conversations=is_weighted(task))
        with contextlib.suppress(DamagedFile):
            for _, text in itertools.islice(texts, records):
                if not isinstance(text, Malformed):
                    return
                found = found or (file.name, text)
    if found:
        name, text = found
        raise UserError(
            f"{what}: none of the first records of {task.source.globs[split]!r} can be used ({text.reason} in "
            f"{name}, {cache_build.place_of(name)} {text.number}; the record begins: {text.shown}): check the field and the files."
        )


def _damage(file: SourceFile) -> tuple[str, str] | None:
    try:
        check_beginning(file.path)
    except DamagedFile as error:
        return file.name, error.reason
    return None


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
        "DataConfig.cache_dir to another folder (TMPDIR for a cache in a bucket, which is made there first)."
    )
