"""`dots cache --dry_run` where the cache is complete already."""

import json
import shutil

import pytest
import seqio

from dots_jax.cli.main import main
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
