"""`dots cache --dry_run`: what there is to do, from files, from sizes alone, and where the cache is complete already."""

import json
import shutil

import pytest
import seqio

from dots_jax.cli.main import main
from dots_jax.data.cache import estimate, job
from dots_jax.data.sources import parts
from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.sources.text_task import add_text_task

TASK = "cache_dry_run"


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(20)))
    add_text_task(TASK, FileSource({"train": str(folder / "*.jsonl")}, "text"))
    yield folder
    seqio.TaskRegistry.remove(TASK)


def test_a_complete_cache_is_named_even_if_its_source_is_gone(source, tmp_path, capsys):
    settings = f"CacheConfig.tasks = ('{TASK}',)\nCacheConfig.data = @DataConfig()\nDataConfig.cache_dir = '{tmp_path / 'c'}'\n"
    (tmp_path / "cache.gin").write_text(settings)
    command = ["cache", f"--gin_file={tmp_path / 'cache.gin'}"]
    files = lambda: {path: path.read_bytes() for path in (tmp_path / "c").rglob("*") if path.is_file()}
    assert main(command) == 0
    shutil.rmtree(source)
    before = files()
    capsys.readouterr()
    assert main([*command, "--dry_run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:3] == [TASK, "train", "complete"]
    assert files() == before


def test_the_plan_says_pieces_opens_and_disk(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 100)
    (tmp_path / "cache.gin").write_text(
        f"CacheConfig.tasks = ('{TASK}',)\nCacheConfig.data = @DataConfig()\nDataConfig.cache_dir = '{tmp_path / 'c'}'\n"
    )
    assert main(["cache", f"--gin_file={tmp_path / 'cache.gin'}", "--dry_run"]) == 0
    head, row = (line.split() for line in capsys.readouterr().out.splitlines()[-2:])
    size = (source / "a.jsonl").stat().st_size
    pieces = -(-size // 100)
    assert head[:4] == ["task", "split", "files", "pieces"]
    assert row[:4] == [TASK, "train", "1", str(pieces)] and row[6:8] == ["1", str(2 * pieces)]  # shards, opens
    assert not (tmp_path / "c" / "tokens").exists()


def test_two_terabytes_are_planned_from_sizes_alone(tmp_path, capsys):
    listing = tmp_path / "listing.txt"
    rows = [f"{20_000_000}  2026-11-01T00:00:00Z  gs://b/corpus/{i:06d}.parquet\n" for i in range(100_000)]
    listing.write_text("".join(rows) + "TOTAL: 100000 objects, 2000000000000 bytes (1.82TiB)\n")
    assert main(["cache", "--dry_run", f"--sizes={listing}"]) == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[1:4] == ["100,000", "100,000", "2,000.000"]
    tokens = 2e12 * estimate.TEXT_OF_A_BYTE[".parquet"] / estimate.BYTES_PER_TOKEN
    assert row[4] == f"{tokens / 1e6:,.1f}" and row[7] == f"{tokens / 3.6e9:,.2f}"
    assert int(row[6].replace(",", "")) <= 8 * 100_000 + 64 * int(row[5].replace(",", ""))


@pytest.mark.parametrize(
    "text, flags, message",
    [
        ("many files\n", (), "line 1: expected `BYTES NAME`"),
        ("\n", (), "lists no file"),
        ("7 a.jsonl\n", ("--gin_file=x.gin",), "--sizes plans one source by itself"),
    ],
)
def test_listings_that_are_wrong(tmp_path, capsys, text, flags, message):
    (tmp_path / "l.txt").write_text(text)
    assert main(["cache", "--dry_run", f"--sizes={tmp_path / 'l.txt'}", *flags]) == 2
    assert message in capsys.readouterr().err


def test_of_many_files_a_dry_run_looks_at_some(source, tmp_path, capsys, monkeypatch):
    for i in range(30):
        (source / f"b-{i}.jsonl").write_text('{"text": "x"}\n')
    monkeypatch.setattr(job, "_FILES_OF_A_DRY_RUN", 10)
    settings = f"CacheConfig.tasks = ('{TASK}',)\nCacheConfig.data = @DataConfig()\nDataConfig.cache_dir = '{tmp_path / 'c'}'\n"
    (tmp_path / "cache.gin").write_text(settings)
    assert main(["cache", f"--gin_file={tmp_path / 'cache.gin'}", "--dry_run"]) == 0
    said = capsys.readouterr()
    assert "the beginnings of 10 of 31 files were looked at" in said.err
    assert said.out.splitlines()[-1].split()[:4] == [TASK, "train", "31", "31"]
