"""How often a build opens its run files, and that merging in levels changes no byte.

Claim: opens of run files grow linearly with the pieces, as the formula of data/cache/merge.py says.
"""

import hashlib
import json
import sys

import pytest
import seqio

from dots_jax.data.cache import build as cache_build
from dots_jax.data.cache import merge, token_cache
from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.sources.text_task import add_text_task

TASK = "cache_opens"
# Of the format before merging had levels: three files of the corpus below with five pieces.
GOLDEN = ["cc93f6940fe673ba", "a254ecfedc8620e7", "c037638d284705fe"]
_opened: list[str] | None = None


def _hook(event, arguments):
    if _opened is not None and event == "open" and isinstance(arguments[0], str):
        _opened.append(arguments[0])


sys.addaudithook(_hook)  # for good: Python has no way to take one away


@pytest.fixture
def opened(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "_opened", [])
    return lambda building: [path for path in _opened if path.startswith(str(building))]


@pytest.fixture
def task(tmp_path):
    def make(pieces, documents=40):
        folder = tmp_path / "in"
        folder.mkdir()
        for f in range(pieces):
            rows = [f"document {i} of {f} " + "word " * (7 * i % 50) for i in range(documents)]
            (folder / f"part-{f}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
        add_text_task(TASK, FileSource({"train": str(folder / "*.jsonl")}))
        return seqio.TaskRegistry.get(TASK)

    yield make
    seqio.TaskRegistry.remove(TASK)


def build(task, folder, shards, for_each=token_cache.one_after_the_other):
    token_cache.make_cache(task, "train", folder, for_each, shards=shards)
    directory = token_cache.cache_directory(task, "train", folder)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in sorted(directory.iterdir())}


def few_together(monkeypatch):
    """Levels already for a handful of files."""
    monkeypatch.setattr(merge, "BITS", 1)
    monkeypatch.setattr(merge, "FAN", 2)


def test_levels_change_no_byte(task, tmp_path, monkeypatch):
    task = task(5)
    at_once = build(task, tmp_path / "once", 3)
    assert [at_once[f"tokens-{i:05d}.array_record"] for i in range(3)] == GOLDEN
    few_together(monkeypatch)
    assert merge.levels(5) == 2
    assert build(task, tmp_path / "levels", 3) == at_once


@pytest.mark.parametrize("level, number", [(1, 1), (2, 0), (2, 3)])
def test_interrupted_between_the_levels(task, tmp_path, monkeypatch, level, number):
    task = task(5)
    few_together(monkeypatch)
    complete = build(task, tmp_path / "complete", 3)
    original = merge.merge

    def stopped(building, step, level):
        if (level, step) == (at_level, number):
            raise KeyboardInterrupt
        original(building, step, level)

    at_level = level
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(merge, "merge", stopped)
        build(task, tmp_path / "c", 3)
    with monkeypatch.context() as m:
        m.setattr(cache_build, "documents_of", None)  # nothing is tokenised again
        assert build(task, tmp_path / "c", 3) == complete


def test_a_file_that_changes_between_the_levels(task, tmp_path, monkeypatch):
    task = task(5)
    few_together(monkeypatch)
    with monkeypatch.context() as m, pytest.raises(TypeError):
        m.setattr(cache_build, "finish", None)
        build(task, tmp_path / "c", 3)
    (tmp_path / "in" / "part-3.jsonl").write_text('{"text": "another"}\n')
    assert build(task, tmp_path / "c", 3) == build(task, tmp_path / "fresh", 3)


@pytest.mark.parametrize("pieces", [10, 100, 1000])
def test_opens_are_what_the_formula_says(tmp_path, opened, pieces, monkeypatch):
    """Steps on stand-ins for pieces: what tokenising writes, without its documents."""
    from dots_jax.data.cache import runs
    from dots_jax.data.cache.plan import Plan, write_json

    monkeypatch.setattr("os.fsync", lambda *_: None)  # thousands of tiny files
    shards = pieces // 5
    fixed = {"format": 3, "task": TASK, "split": "train", "source": "", "vocabulary": "", "eos_id": 1, "code": ""}
    fixed |= {"token_dtype": "<u2", "chunk_tokens": 8192, "document_order_seed": 0, "weighted": False}
    plan = Plan(**fixed, shards=shards, pieces=[[f"{i}", 1] for i in range(pieces)])
    for name in ("pieces", "shards", "cache"):
        (tmp_path / name).mkdir()
    write_json(tmp_path / "plan.json", vars(plan))
    for piece in range(pieces):
        with open(runs.run_path(tmp_path, piece), "wb") as file:
            runs.RunWriter(file).close()
    token_cache.merge_levels(tmp_path, pieces, token_cache.one_after_the_other)
    for shard in range(shards):
        cache_build.write_shard(tmp_path, shard)
    counted = [path for path in opened(tmp_path) if ".run" in path]
    assert len(counted) == merge.run_file_opens(pieces, shards)
    depth = merge.levels(pieces)
    assert len(counted) <= (2 + 3 * depth) * pieces + merge.FAN * shards
    steps = shards + sum(merge.steps(pieces, level) for level in range(1, depth + 1))
    # A step reads the plan and writes that it is done.
    assert len(opened(tmp_path)) - len(counted) <= 2 * steps + 1


def test_opens_for_two_trillion_tokens():
    """The corpus for which opening every run for every shard takes 3.5e9 opens."""
    assert [merge.levels(pieces) for pieces in (1, 64, 65, 4096, 4097, 262_144)] == [0, 0, 1, 1, 2, 2]
    assert merge.run_file_opens(80_000, 20_000) < 700_000
    for pieces in (10_000, 40_000, 160_000):  # by piece no more than a bound, whatever their number
        assert merge.run_file_opens(pieces, pieces // 4) <= 8 * pieces + merge.FAN * pieces // 4
