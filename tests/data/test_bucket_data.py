"""Sources, token caches and tokenizers in a bucket, through the real clients of gs://."""

import json

import pytest
import seqio
import tokenizers
from test_files import FORMATS, TEXTS

from dots_jax.cli.main import main
from dots_jax.config import DataConfig, UserError
from dots_jax.curriculum.mixture_use import Size, known_sizes
from dots_jax.data.cache import token_cache
from dots_jax.data.cache.token_cache import open_stream
from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.sources.text_task import add_text_task
from dots_jax.data.tokenizers.tokenizer import TokenizerVocabulary
from dots_jax.storage import find_files

TASK = "bucket_data"


@pytest.fixture
def task():
    """Registers the task over a glob."""
    yield lambda pattern: add_text_task(TASK, FileSource({"train": pattern}))
    if TASK in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(TASK)


@pytest.fixture
def corpus(buckets, tmp_path):
    """Twenty files of a few documents in the bucket, more than a page of its listings, and the same on a disk."""
    for number in range(20):
        rows = "".join(json.dumps({"text": f"document {number} {line} 你好"}) + "\n" for line in range(3))
        path = f"corpus/{number % 4}/part-{number:02}.jsonl"
        buckets.put(path, rows.encode())
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(rows)
    return tmp_path / "corpus"


def command(cache_dir, *bindings):
    lines = (f"CacheConfig.tasks = ('{TASK}',)", "CacheConfig.shards = 3", "CacheConfig.data = @DataConfig()",
             f"DataConfig.cache_dir = '{cache_dir}'", *bindings)  # fmt: skip
    return main(["cache", "--gin_file=/dev/null", *(f"--gin_bindings={line}" for line in lines)])


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format(buckets, tmp_path, ending):
    FORMATS[ending](tmp_path / "file", TEXTS)
    buckets.put(f"corpus/part-0.{ending}", (tmp_path / "file").read_bytes())
    source = FileSource({"train": f"gs://bucket/corpus/*.{ending}"}, "content")
    (file,) = source.files("train")
    assert (file.name, file.size) == (f"part-0.{ending}", (tmp_path / "file").stat().st_size)
    assert list(source.texts(file)) == [text.encode() for text in TEXTS]


def test_globs_match_what_they_match_on_a_disk(corpus, buckets, monkeypatch):
    for pattern in (
        "*/*.jsonl",
        "**/*.jsonl",
        "1/part-*.jsonl",
        "[02]/*",
        "**/part-1?.jsonl",
        "0/part-00.jsonl",
        "5/*",
    ):
        there = find_files(f"gs://bucket/corpus/{pattern}")
        here = find_files(f"{corpus}/{pattern}")
        assert [(f.path.removeprefix("gs://bucket/corpus"), f.size) for f in there] == [
            (f.path.removeprefix(str(corpus)), f.size) for f in here
        ], pattern
    buckets.put("corpus/.hidden/part.jsonl", b"{}\n")
    buckets.put("corpus/empty/", b"")  # how consoles and TensorFlow make folders
    assert len(find_files("gs://bucket/corpus/**/*.jsonl")) == 20
    with pytest.raises(UserError, match="gs://bucket/corpus/0 is a folder, which"):
        find_files("gs://bucket/corpus/*")
    with pytest.raises(UserError, match="gs://missing/corpus cannot be listed .*is there such a bucket"):
        find_files("gs://missing/corpus/*.jsonl")


def test_a_cache_in_a_bucket_is_the_one_of_a_disk(corpus, buckets, task, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "scratch").mkdir()
    task("gs://bucket/corpus/**/*.jsonl")
    assert command("gs://bucket/cache") == 0 and command(tmp_path / "cache") == 0
    there, here = (token_cache.cache_directory(seqio.TaskRegistry.get(TASK), "train", where)
                   for where in ("gs://bucket/cache", tmp_path / "cache"))  # fmt: skip
    under = str(there).removeprefix("gs://bucket/") + "/"
    objects = {name.removeprefix(under): data for name, data in buckets.objects().items() if name.startswith(under)}
    assert {name: data for name, data in objects.items() if name} == {p.name: p.read_bytes() for p in here.iterdir()}
    assert not [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]
    stream, same = open_stream(TASK, "train", "gs://bucket/cache"), open_stream(TASK, "train", tmp_path / "cache")
    assert stream.num_documents == 60
    for start in range(0, stream.num_tokens - 50, 97):
        assert (stream.window(start, 50)[0] == same.window(start, 50)[0]).all()
    assert known_sizes(DataConfig(cache_dir="gs://bucket/cache")) == {TASK: Size(stream.num_tokens)}
    capsys.readouterr()
    buckets.log()
    assert command("gs://bucket/cache") == 0
    assert "was there" in capsys.readouterr().out
    assert not [entry for entry in buckets.log() if entry[0] == "WRITE" and "owner" not in entry[1]]


def test_an_upload_that_breaks_off_leaves_no_cache(corpus, buckets, task, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    task("gs://bucket/corpus/**/*.jsonl")
    with buckets.denying("cache/.*/tokens-00001", ""):
        assert command("gs://bucket/cache") == 2
    assert "cannot be written to gs://bucket/cache" in capsys.readouterr().err
    names = [name for name in buckets.objects() if name.endswith(("manifest.json", "tokens-00000.array_record"))]
    assert len(names) == 1
    assert command("gs://bucket/cache") == 0
    assert open_stream(TASK, "train", "gs://bucket/cache").num_documents == 60


def test_what_is_damaged_in_a_bucket_is_named(corpus, buckets, task, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    task("gs://bucket/corpus/**/*.jsonl")
    assert command("gs://bucket/cache") == 0
    (name,) = (name for name in buckets.objects() if name.endswith("tokens-00001.array_record"))
    buckets.put(name, buckets.objects()[name][:-1])
    with pytest.raises(UserError, match="is damaged, since tokens-00001.array_record has .* bytes instead of"):
        open_stream(TASK, "train", "gs://bucket/cache")


def test_workers_elsewhere_cannot_make_a_cache_for_a_bucket(corpus, task, buckets, capsys):
    task("gs://bucket/corpus/**/*.jsonl")
    assert command("gs://bucket/cache", "CacheConfig.beam = ('--runner=FlinkRunner',)") == 2
    assert "a cache in a bucket is made on this machine first" in capsys.readouterr().err


def test_a_tokenizer_is_trained_in_a_bucket_and_read_there(corpus, buckets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ("--files=gs://bucket/corpus/**/*.jsonl", "--vocab_size=300", "--output=gs://bucket/t/tokenizer.json")
    assert main(["tokenizer", *flags]) == 0
    assert not list(tmp_path.glob("gs:*"))  # no folder of that name on this machine
    text = buckets.objects()["t/tokenizer.json"].decode()
    vocabulary = TokenizerVocabulary("gs://bucket/t/tokenizer.json")
    assert vocabulary.encode("document 7") == tokenizers.Tokenizer.from_str(text).encode("document 7").ids
    with pytest.raises(UserError, match="gs://bucket/none.json cannot be read: No such file"):
        TokenizerVocabulary("gs://bucket/none.json")
