"""What one token cache will be, and the folder where it is made: the ground on which cache_build.py works."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import seqio

from dots_jax.data.cache import token_format as fmt
from dots_jax.data.cache.code_identity import code_identity
from dots_jax.data.registry import task_vocabulary
from dots_jax.data.sources.documents import is_weighted, pieces_of
from dots_jax.data.sources.json_lines import COMPRESSIONS
from dots_jax.data.sources.split_files import plain_name
from dots_jax.data.tokenizers import vocabulary as vocabularies
from dots_jax.storage import write_text

# Of the order of documents in the stream. Not the run's seed: the cache serves every run, whose own order is order.py.
DOCUMENT_ORDER_SEED = 0
SHARD_BYTES = 512 << 20  # of text for each file; a worker holds one file's tokens, up to four bytes for each
_COMPRESSED = (*COMPRESSIONS, ".parquet")
_COMPRESSION = 4  # what text shrinks by, roughly


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything the bytes of a cache depend on. pieces: documents.Piece of each, as a list. code: of the preprocessors, hashed."""

    format: int
    task: str
    split: str
    source: str
    vocabulary: str
    eos_id: int
    token_dtype: str
    chunk_tokens: int
    document_order_seed: int
    weighted: bool
    shards: int
    code: str
    pieces: list[list]

    @classmethod
    def read(cls, building: Path) -> "Plan":
        return cls(**json.loads((building / "plan.json").read_text()))


def plan(task: seqio.Task, split: str, source: str, shards: int = 0, chunk_tokens: int = fmt.CHUNK_TOKENS) -> Plan:
    """The plan of a cache. source: its identity. shards: files; 0: by the size of the source.

    Raises UserError for a source whose files are not there.
    """
    vocabulary = task_vocabulary(task)
    pieces = pieces_of(task, split)
    shards = shards or number_of_shards((piece.name, piece.size) for piece in pieces)
    return Plan(
        format=fmt.FORMAT, task=task.name, split=split, source=source,
        vocabulary=vocabularies.identity(vocabulary), eos_id=vocabulary.eos_id,
        token_dtype=fmt.token_dtype(vocabulary.vocab_size), chunk_tokens=chunk_tokens,
        document_order_seed=DOCUMENT_ORDER_SEED, weighted=is_weighted(task), shards=shards,
        code=code_identity(task), pieces=[list(piece if piece.end else piece[:2]) for piece in pieces],
    )  # fmt: skip


def number_of_shards(pieces: Iterable[tuple[str, int]]) -> int:
    """By the (name, bytes) of what is tokenised."""
    text = sum(size * (_COMPRESSION if plain_name(name).endswith(_COMPRESSED) else 1) for name, size in pieces)
    return max(1, -(-text // SHARD_BYTES))


def begin(building: Path, new: Plan, is_same: Callable[[dict[int, dict]], set[int]], any_shards: bool = False) -> Plan:
    """Makes the folder of a plan and returns the plan in force.

    Work that is there is gone on with if it is of the same plan, else thrown away. Of the pieces, those are kept whose files
    are as they were: is_same gets what tokenise wrote of each, by number, and returns the numbers of these. Pieces do not depend
    on the number of shards; any_shards: the number of the work there is fine.
    """
    try:
        old = Plan.read(building)
    except (OSError, ValueError, TypeError):
        old = None
    names = [(piece[0], *piece[2:]) for piece in new.pieces]
    if (
        old is None
        or dataclasses.replace(old, shards=new.shards, pieces=new.pieces) != new
        or names != [(p[0], *p[2:]) for p in old.pieces]
    ):
        shutil.rmtree(building, ignore_errors=True)
        kept = False
    else:
        new = dataclasses.replace(new, shards=old.shards) if any_shards else new
        kept = _keep_pieces(building, is_same)
        if not kept:
            _forget_merged(building)
        kept = kept and old.shards == new.shards
    if not kept:
        for name in ("shards", "cache"):
            shutil.rmtree(building / name, ignore_errors=True)
    for name in ("pieces", "shards", "cache"):
        (building / name).mkdir(parents=True, exist_ok=True)
    for path in building.glob("*/.*.new"):  # half-written files of a build that was killed
        path.unlink()
    write_json(building / "plan.json", dataclasses.asdict(new))
    return new


def _keep_pieces(building: Path, is_same: Callable[[dict[int, dict]], set[int]]) -> bool:
    """Throws away the pieces whose files have changed. Returns whether there were none."""
    done = {int(path.stem): read_json(path) for path in (building / "pieces").glob("[0-9]*.json")}
    changed = done.keys() - is_same(done)
    for number in changed:
        (building / "pieces" / f"{number:05d}.json").unlink()  # first, since it says that the rest is complete
        (building / "pieces" / f"{number:05d}.run").unlink(missing_ok=True)
    return not changed


def _forget_merged(building: Path) -> None:
    """What was merged holds documents of files that have changed. The runs of pieces that went into it are gone: then all
    pieces are made again."""
    merged = list(building.glob("merged-*"))
    for path in merged:
        shutil.rmtree(path)
    if merged and any(not path.with_suffix(".run").exists() for path in (building / "pieces").glob("[0-9]*.json")):
        shutil.rmtree(building / "pieces")


def unfinished(building: Path, kind: str, number: int) -> list[int]:
    """Which of that many `pieces`, `merged-1`, ... or `shards` are not done yet."""
    done = {path.stem for path in (building / kind).glob("*.json")}
    return [i for i in range(number) if f"{i:05d}" not in done]


def write_json(path: Path, value) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path):
    return json.loads(path.read_text())
