"""Token caches on Apache Beam: the steps of build.py on any runner's workers.

Beam distributes, retries and waits. What is shared goes through the cache's folder, which must be one folder for all
workers (a disk, NFS, or a mounted bucket), so an interrupted job goes on from the files it left, on any runner. A cache
for gs:// is made in a folder of this machine, and so by its own workers.
"""

import functools
import io
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import seqio

from dots_jax import beam
from dots_jax.cli.options import CacheOptions
from dots_jax.config import CacheConfig, DataConfig, UserError
from dots_jax.data import mixtures
from dots_jax.data.cache import build as cache_build
from dots_jax.data.cache import estimate as cache_estimate
from dots_jax.data.cache import merge as cache_merge
from dots_jax.data.cache import plan as cache_plan
from dots_jax.data.cache import tables as cache_tables
from dots_jax.data.cache import token_cache
from dots_jax.data.cache.token_format import Manifest
from dots_jax.data.registry import check_split, get_task, task_vocabulary
from dots_jax.storage import in_bucket, open_file

_FILES_OF_A_DRY_RUN = 1000  # of which it looks at the beginning; a job looks at all


class Row(NamedTuple):
    """One cache in the final table. seconds: None if it was there before."""

    task: str
    split: str
    manifest: Manifest
    seconds: float | None


def cache(config: CacheConfig, options: CacheOptions) -> int:
    """The command: makes every cache that is missing and prints what is in each. Returns the exit status."""
    mixtures.register(config.data)
    todo = splits_of(config)
    cache_dir, thorough = config.data.cache_dir, config.source_check == "checksum" and not options.dry_run
    there = {}
    for task, split in todo:  # all of it, before the first one takes its hours
        directory = token_cache.cache_directory(task, split, cache_dir)
        if token_cache.is_made(directory):
            there[directory] = token_cache.check_cache(task, split, directory, thorough)
        else:
            token_cache.prepare(task, cache_dir)
            few = _FILES_OF_A_DRY_RUN if options.dry_run else 0
            token_cache.look_first(task, split, config.max_malformed, config.max_damaged_files, files_at_most=few)
    if options.dry_run:
        print(_plan_table(config, todo, there))
        return 0
    for_each = on_beam(config.beam, config.data)
    rows = []
    for task, split in todo:
        directory = token_cache.cache_directory(task, split, cache_dir)
        start, manifest = time.monotonic(), there.get(directory)
        if manifest:
            how = "checksums" if thorough else "sizes and times of change only"
            compared = (
                f" (its source files compared by their {how})" if any(s["sha256"] for s in manifest.sources) else ""
            )
            print(f"{task.name} {split}: {directory} already complete, skipped{compared}", flush=True)
        else:
            token_cache.make_cache(
                task, split, cache_dir, for_each, shards=config.shards, max_malformed=config.max_malformed,
                samples=config.malformed_samples, max_damaged_files=config.max_damaged_files, thorough=thorough,
            )  # fmt: skip
            manifest = token_cache.check_cache(task, split, directory)
        rows.append(Row(task.name, split, manifest, None if directory in there else time.monotonic() - start))
    for row in rows:
        print(cache_tables.sources(row.task, row.split, row.manifest))
    print(_table(rows))
    return 0


def splits_of(config: CacheConfig) -> list[tuple[seqio.Task, str]]:
    """Every (task, split) the config names, each once. Raises UserError for names that do not exist."""
    tasks = {}
    for name in config.tasks:
        if name in seqio.MixtureRegistry.names():
            tasks |= {task.name: task for task in seqio.MixtureRegistry.get(name).tasks}
        else:
            tasks[name] = get_task(name)
    todo = []
    for task in tasks.values():
        task_vocabulary(task)
        for split in config.splits or sorted(task.splits):
            check_split(task, split)
            todo.append((task, split))
    return todo


# --- Beam -----------------------------------------------------------------------------------------------------------


def on_beam(flags: Sequence[str], data: DataConfig) -> token_cache.ForEach:
    """Runs steps as Beam pipelines with these flags. Raises UserError for flags that Beam does not know."""
    options = beam.pipeline_options(flags, "CacheConfig.beam")
    if in_bucket(data.cache_dir) and options.get_all_options()["runner"] not in beam.LOCAL_RUNNERS:
        raise UserError(
            f"DataConfig.cache_dir is {data.cache_dir}: a cache in a bucket is made on this machine first, and its workers "
            "must be here too. Leave the runner out of CacheConfig.beam, or name a folder that all workers have mounted."
        )
    register = functools.partial(mixtures.register, data)  # a worker is a new process

    def for_each(step: Callable[[Path, int], None], building: Path, numbers: Sequence[int]) -> None:
        if numbers:
            beam.run(options, numbers, functools.partial(_do, step, str(building)), _bar(step, building), register)

    return for_each


def _do(step: Callable[[Path, int], None], building: str, number: int) -> None:
    with token_cache.write_errors(building):
        step(Path(building), number)


def _bar(step: Callable, building: Path) -> beam.Bar:
    plan = cache_plan.Plan.read(building)
    level = getattr(step, "keywords", {}).get("level")
    if step is cache_build.write_shard:
        kind, doing, total = "shards", "writing", plan.shards
    elif level is None:
        kind, doing, total = "pieces", "tokenising", len(plan.pieces)
    else:
        kind, doing, total = f"merged-{level}", "merging", cache_merge.steps(len(plan.pieces), level)
    done = lambda: total - len(cache_plan.unfinished(building, kind, total))
    return beam.Bar(f"{doing} {plan.task} {plan.split}", kind, total, done)


# --- what the user sees ---------------------------------------------------------------------------------------------


def _plan_table(config: CacheConfig, todo: list[tuple[seqio.Task, str]], there: dict[Path, Manifest]) -> str:
    """there: complete caches. They are not planned: where they are, their sources need not be."""
    lines = [cache_estimate.assumptions(), cache_estimate.HEAD]
    for task, split in todo:
        manifest = there.get(token_cache.cache_directory(task, split, config.data.cache_dir))
        if manifest:
            lines.append(f"{task.name:<28}{split:<14}{'complete':>10}{'':>34}{len(manifest.files):>9,}")
            continue
        plan = cache_plan.plan(task, split, token_cache.source_identity(task, split), config.shards)
        sizes = Counter()
        for name, size, *_ in plan.pieces:
            sizes[name] += size
        one_byte = isinstance(task_vocabulary(task), seqio.ByteVocabulary)
        found = cache_estimate.estimate(
            list(sizes.items()),
            plan.shards,
            len(plan.pieces),
            np.dtype(plan.token_dtype).itemsize,
            1.0 if one_byte else 0.0,
        )
        lines.append(cache_estimate.row(task.name, split, found))
    return "\n".join(lines)


def plan_sizes(listing: str) -> int:
    """`--dry_run --sizes`: the plan of one source of which only a listing is there. Returns the exit status."""
    with open_file(listing) as file:
        files = cache_estimate.read_listing(io.TextIOWrapper(file, encoding="utf-8"), listing)
    found = cache_estimate.estimate(files, cache_plan.number_of_shards(files))
    print(cache_estimate.assumptions(), cache_estimate.HEAD, cache_estimate.row(listing[-27:], "", found), sep="\n")
    return 0


def _table(rows: list[Row]) -> str:
    lines = [
        f"{'task':<28}{'split':<14}{'documents':>14}{'tokens':>18}{'malformed':>11}{'files':>7}{'MB':>11}{'tokens/s':>12}"
    ]
    for task, split, manifest, seconds in rows:
        speed = "was there" if seconds is None else f"{manifest.tokens / max(seconds, 1e-9):,.0f}"
        megabytes = sum(file["size"] for file in manifest.files) / 1e6
        lines.append(
            f"{task:<28}{split:<14}{manifest.documents:>14,}{manifest.tokens:>18,}{sum(manifest.malformed.values()):>11,}"
            f"{len(manifest.files):>7,}{megabytes:>11,.1f}{speed:>12}"
        )
    return "\n".join(lines)
