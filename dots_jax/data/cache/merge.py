"""Between tokenising and writing: runs of many pieces become runs of ranges of hashes, so that no file is opened by everyone.

A level takes FAN run files of the same range of hashes at a time and writes FAN files, one for each part of that range, so a
file is read once a level and the number of files stays. With P pieces, level l has G(l) = ceil(P / FAN^l) groups of pieces times
FAN^l ranges. Levels are added until a range has at most FAN files: L = 0 up to 64 pieces, 1 up to 4,096, 2 up to 262,144.

    opens of run files = P                                   written by `tokenise`
                       + sum over l = 1..L of G(l - 1) FAN^(l - 1) + G(l) FAN^l     read and written by level l
                       + at most G(L) (FAN^L + S)            read by the S shards, G(L) <= FAN

which is at most (3 + 4 L) P + FAN S: linear in pieces and in shards. `run_file_opens` is the exact number. A level costs one more
reading and writing of all tokens; its inputs are removed when it is complete.
The levels do not depend on the number of shards, and keep the order of documents of equal hashes: the bytes of the cache are
those that one merge of all runs would give.
"""

from pathlib import Path

from dots_jax.data.cache.plan import Plan, write_json
from dots_jax.data.cache.runs import RunFile, RunWriter, Span, documents_in_order, run_path
from dots_jax.storage import atomic_write

BITS = 6  # of the hash, which one level decides
FAN = 1 << BITS  # files that one step reads and writes; systems let a process hold some 1024 open


def levels(pieces: int) -> int:
    """How many levels of merging there are."""
    number = 0
    while groups(pieces, number) > FAN:
        number += 1
    return number


def groups(pieces: int, level: int) -> int:
    """Files of each range at a level; level 0 is what `tokenise` wrote."""
    return -(-pieces // FAN**level)


def steps(pieces: int, level: int) -> int:
    """How many steps level 1, 2, ... has, each a worker's."""
    return groups(pieces, level) * FAN ** (level - 1)


def folder(building: Path, level: int) -> Path:
    return building / (f"merged-{level}" if level else "pieces")


def merge(building: Path, number: int, level: int) -> None:
    """Step `number` of a level: up to FAN files of one range are read, FAN files of its parts are written."""
    done = folder(building, level) / f"{number:05d}.json"
    if done.exists():
        return
    plan = Plan.read(building)
    group, part = divmod(number, FAN ** (level - 1))
    members = range(group * FAN, min((group + 1) * FAN, groups(len(plan.pieces), level - 1)))
    files = [RunFile(_path(building, level - 1, one, part), plan.token_dtype, plan.weighted) for one in members]
    for one in range(part * FAN, (part + 1) * FAN):
        low, high = (edge << (64 - BITS * level) for edge in (one, one + 1))
        keys, tokens, weights = documents_in_order(span for file in files for span in file.spans(low, high))
        with atomic_write(_path(building, level, group, one), "wb") as output:
            writer = RunWriter(output)
            if tokens:
                writer.add(keys, tokens, weights, plan.token_dtype)
            writer.close()
    write_json(done, {})


def remove_inputs(building: Path, level: int) -> None:
    """When a level is complete, nothing reads the one before it."""
    for path in folder(building, level - 1).glob("*.run"):
        path.unlink()


def shard_spans(building: Path, plan: Plan, shard: int) -> list[Span]:
    """The documents of a shard, in the order of pieces where hashes are equal."""
    low, high = shard_range(shard, plan.shards)
    level = levels(len(plan.pieces))
    return [
        span
        for group in range(groups(len(plan.pieces), level))
        for part in _parts(low, high, level)
        for span in RunFile(_path(building, level, group, part), plan.token_dtype, plan.weighted).spans(low, high)
    ]


def shard_range(shard: int, shards: int) -> tuple[int, int]:
    """The hashes low <= h < high of a shard."""
    low, high = (-(-(s << 64) // shards) for s in (shard, shard + 1))
    return low, high


def run_file_opens(pieces: int, shards: int) -> int:
    """How often a complete build opens a run file, to write it or to read it."""
    depth = levels(pieces)
    files = [groups(pieces, level) * FAN**level for level in range(depth + 1)]
    merged = sum(before + after for before, after in zip(files, files[1:]))
    read = sum(len(_parts(*shard_range(shard, shards), depth)) for shard in range(shards)) * groups(pieces, depth)
    return pieces + merged + read


def _parts(low: int, high: int, level: int) -> range:
    """The ranges of a level that low <= h < high touches."""
    shift = 64 - BITS * level
    return range(low >> shift, ((high - 1) >> shift) + 1)


def _path(building: Path, level: int, group: int, part: int) -> Path:
    if level == 0:
        return run_path(building, group)
    return folder(building, level) / f"{group:05d}-{part:06d}.run"
