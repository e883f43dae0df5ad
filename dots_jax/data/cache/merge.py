"""Between tokenising and writing: runs of many pieces become runs of ranges of hashes, so that no file is opened by everyone.

A step of level l takes one range of hashes, of FAN^(l - 1), out of FAN files of the level before and writes one file: FAN runs, the
parts of that range in order. With P pieces there are G(l) = ceil(P / FAN^l) groups of pieces at level l, and as many steps for each
range. Levels are added until a hash is in at most FAN files: L = 0 up to 64 pieces, 1 up to 4,096, 2 up to 262,144.

    opens of run files = P                                             written by `tokenise`
                       + sum over l = 1..L of (G(l - 1) + G(l)) FAN^(l - 1)     read and written by level l
                       + at most G(L) (FAN^(L - 1) + S)                read by the S shards, G(L) <= FAN

which is at most (2 + 3 L) P + FAN S: linear in pieces and in shards. `run_file_opens` is the exact number. A level costs one more
reading and writing of all tokens; its inputs are removed when it is complete. A step holds one part, about a piece's tokens.
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
    """Step `number` of a level: one range out of up to FAN files becomes one file, a run for each of its parts."""
    done = folder(building, level) / f"{number:05d}.json"
    if done.exists():
        return
    plan = Plan.read(building)
    group, part = divmod(number, FAN ** (level - 1))
    members = range(group * FAN, min((group + 1) * FAN, groups(len(plan.pieces), level - 1)))
    files = [RunFile(_path(building, level - 1, one, part), plan.token_dtype, plan.weighted) for one in members]
    with atomic_write(_path(building, level, group, part * FAN), "wb") as output:
        writer = RunWriter(output)
        for one in range(part * FAN, (part + 1) * FAN):
            low, high = (edge << (64 - BITS * level) for edge in (one, one + 1))
            keys, tokens, weights = documents_in_order(span for file in files for span in file.spans(low, high))
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
        for part in _files(low, high, level)
        for span in RunFile(_path(building, level, group, part), plan.token_dtype, plan.weighted).spans(low, high)
    ]


def shard_range(shard: int, shards: int) -> tuple[int, int]:
    """The hashes low <= h < high of a shard."""
    low, high = (-(-(s << 64) // shards) for s in (shard, shard + 1))
    return low, high


def run_file_opens(pieces: int, shards: int) -> int:
    """How often a complete build opens a run file, to write it or to read it."""
    depth = levels(pieces)
    merged = sum(
        (groups(pieces, level - 1) + groups(pieces, level)) * FAN ** (level - 1) for level in range(1, depth + 1)
    )
    read = sum(len(_files(*shard_range(shard, shards), depth)) for shard in range(shards)) * groups(pieces, depth)
    return pieces + merged + read


def _files(low: int, high: int, level: int) -> range:
    """The first parts, by their numbers at a level, of the files that hold low <= h < high."""
    if level == 0:
        return range(1)
    shift = 64 - BITS * (level - 1)
    return range((low >> shift) * FAN, ((high - 1) >> shift) * FAN + 1, FAN)


def _path(building: Path, level: int, group: int, part: int) -> Path:
    """The file that holds a part of the hashes, of FAN^level, for a group of pieces."""
    if level == 0:
        return run_path(building, group)
    return folder(building, level) / f"{group * FAN ** (level - 1) + part // FAN:05d}.run"
