"""What `dots takedown` does: read, look up, print, write."""

import json
import os
import sys

import tqdm

from dots_jax.checkpoint.commit import finished_steps
from dots_jax.cli.options import TakedownOptions
from dots_jax.config import TrainConfig, UserError
from dots_jax.config.records import TEXT_HASH
from dots_jax.curriculum.stages import Schedule
from dots_jax.data import takedown as documents
from dots_jax.data.corpus import resolve
from dots_jax.storage import folder, write_text

_SHOWN = 20  # documents that are printed; the file has all


def takedown(config: TrainConfig, options: TakedownOptions) -> None:
    """Raises UserError for a list that cannot be read, names no record, or a cache that is not there."""
    lists = tuple(_list(one) for one in options.list)
    steps = _checkpoints(options.workdir)
    corpus = resolve(config)
    if any(data.needs_sizes for data in corpus.stages):
        corpus = corpus.with_lengths()
    splits = documents.splits_of(corpus)
    documents.spots(splits, corpus.cache_dir, set())  # a cache that is missing is said before the sources are read
    with tqdm.tqdm(desc="reading sources", unit=" pieces", disable=None) as bar:
        found = documents.find(splits, lists, lambda name: bar.update())
    if not found.texts:
        raise UserError(
            f"No record is listed by {', '.join(options.list)}{_unread(found)}: check the field and the values."
        )
    spots = documents.spots(splits, corpus.cache_dir, found.hashes)
    corpus = corpus.open()
    schedule = Schedule(tuple(data.stage for data in corpus.stages))
    lessons = documents.lessons(corpus, schedule, spots)
    first = min((lesson.first_step for lesson in lessons), default=None)
    seen = [step for step in steps if first is not None and step >= first]
    exclude = os.path.splitext(options.output)[0] + ".sha256"
    write_text(exclude, "".join(f"{one}\n" for one in sorted(found.texts)))
    write_text(options.output, json.dumps(_record(found, spots, lessons, first, steps, seen, exclude), indent=1) + "\n")
    _print(found, spots, lessons, first, steps, seen)
    print(f"without them  NAME/Source.exclude = (({TEXT_HASH!r}, {exclude!r}),) for each source, and `dots cache`")
    print(f"wrote         {options.output}, {exclude}")


def _list(given: str) -> tuple[str, str]:
    field, equals, pattern = given.partition("=")
    if not (field and equals and pattern):
        raise UserError(f"--list={given} is not FIELD=FILE: as in --list=url=takedown.txt.")
    return field, os.path.expanduser(pattern)


def _checkpoints(workdir: str | None) -> list[int]:
    if not workdir:
        return []
    checkpoints = folder(workdir) / "checkpoints"
    if not checkpoints.is_dir():
        raise UserError(
            f"{workdir} holds no run, since it has no folder checkpoints: give --workdir of a run, or none."
        )
    return finished_steps(checkpoints)


def _unread(found: documents.Found) -> str:
    parts = [f"{count:,} records of {task} have no such field" for task, count in found.without_field.items()]
    parts += [f"{task} is read from no files" for task in sorted(set(found.not_files))]
    return f" ({'; '.join(parts)})" if parts else ""


def _record(found, spots, lessons, first, steps, seen, exclude) -> dict:
    return {
        "records": found.records, "without_field": found.without_field, "not_files": sorted(set(found.not_files)),
        "documents": [spot._asdict() for spot in spots],
        "lessons": [lesson._asdict() | {"spot": spots.index(lesson.spot)} for lesson in lessons],
        "first_step": first, "checkpoints": steps, "checkpoints_that_learned": seen, "exclude_list": exclude,
    }  # fmt: skip


def _print(found, spots, lessons, first, steps, seen) -> None:
    listed = ", ".join(f"{count:,} in {task}" for task, count in found.records.items() if count)
    print(f"listed        {sum(found.records.values()):,} records ({listed}){_unread(found)}")
    print(f"in caches     {len(spots):,} documents, {sum(spot.end - spot.start for spot in spots):,} tokens")
    for spot in spots[:_SHOWN]:
        times = ", ".join(
            f"{one.stage} {one.times} from step {one.first_step:,}" for one in lessons if one.spot == spot
        )
        place = f"{spot.task} {spot.split} {spot.file} chunk {spot.first_chunk}"
        print(f"              {place}, document {spot.document}: {times or 'in no stage'}")
    if len(spots) > _SHOWN:
        print(f"              {len(spots) - _SHOWN:,} more documents", file=sys.stdout)
    if first is None:
        print("learned       by no step of the run")
    else:
        print(f"learned       from step {first:,} on")
    if steps:
        clean = [step for step in steps if step not in seen]
        print(
            f"checkpoints   {', '.join(map(str, seen)) or 'none'} learned them; {', '.join(map(str, clean)) or 'none'} did not"
        )
