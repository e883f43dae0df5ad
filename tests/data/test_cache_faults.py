"""Token caches of files that are damaged, changed, or read by two at once: said by name, never taken for complete."""

import json
import os
import shutil
import subprocess
import sys
import threading

import pyarrow
import pyarrow.parquet
import pytest
import seqio
import tensorflow as tf
import zstandard
from golden import make_chat
from registered import gone_afterwards
from test_cache_command import TASK, add_task, arguments, command, directory_of, sentence, texts_of

from dots_jax.config import CacheConfig, DataConfig, Source, UserError
from dots_jax.data import mixtures
from dots_jax.data.cache import build as cache_build
from dots_jax.data.cache import tables, token_cache
from dots_jax.data.cache.token_cache import open_stream
from dots_jax.data.sources import documents

DOCUMENTS = [f"record {i:04d}: the key is hunter2" for i in range(100)]


@pytest.fixture(autouse=True)
def tasks():
    with gone_afterwards():
        yield


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for f in range(3):
        write(folder / f"part-{f}.jsonl", DOCUMENTS)
    add_task(folder / "*")
    return folder


def lines(documents):
    return "".join(json.dumps({"text": text}) + "\n" for text in documents).encode()


def write(path, documents):
    path.write_bytes(lines(documents))


def keep_time(path, data):
    """Other bytes, the old time of change."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def long_ago(*paths):
    for path in paths:
        os.utime(path, (1_000_000_000, 1_000_000_000))


def settle(cache):
    """Forgets that the files were so new that their times say nothing."""
    for path in cache.rglob(".train.checked.json"):
        path.unlink()


# --- data that cannot be read -----------------------------------------------------------------------------------------


def broken_shards(folder):
    complete = zstandard.compress(lines(DOCUMENTS * 20))
    (folder / "part-3.jsonl.zst").write_bytes(complete[: len(complete) // 2])
    pyarrow.parquet.write_table(pyarrow.table({"text": DOCUMENTS}), folder / "part-4.parquet")
    (folder / "part-4.parquet").write_bytes((folder / "part-4.parquet").read_bytes()[:-50])
    (folder / "part-5.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 130516\n")
    (folder / "part-6.jsonl.gz").write_bytes(b"")


def test_damaged_files_are_refused_by_name_and_can_be_allowed(corpus, tmp_path, capsys, monkeypatch):
    broken_shards(corpus)
    said = sentence(capsys, tmp_path / "c")  # at once, of what the ends of the files tell
    assert "3 of 7 files of split 'train' cannot be read to their end" in said and "part-3" not in said
    assert "part-5.parquet (it is a Git LFS pointer and not the file itself: run `git lfs pull`)" in said
    assert "part-4.parquet" in said and "part-6.jsonl.gz (it is empty" in said
    said = sentence(capsys, tmp_path / "c", "CacheConfig.max_damaged_files = 3")
    assert "4 of 7 files" in said and "part-3.jsonl.zst (it ends inside a zstd frame)" in said
    assert said.endswith("CacheConfig.max_damaged_files = 4.") and not directory_of(tmp_path / "c").exists()

    monkeypatch.setattr(cache_build, "documents_of", None)  # what was read is not read again
    assert command(tmp_path / "c", "CacheConfig.max_damaged_files = 4") == 0
    manifest = open_stream(TASK, "train", tmp_path / "c").manifest
    lost = {row["name"]: row["lost_bytes"] for row in manifest.sources if "damaged" in row}
    assert sorted(lost) == ["part-3.jsonl.zst", "part-4.parquet", "part-5.parquet", "part-6.jsonl.gz"]
    assert lost["part-5.parquet"] == 130516 and lost["part-4.parquet"] == (corpus / "part-4.parquet").stat().st_size
    shown = capsys.readouterr().out
    assert "part-5.parquet" in shown and "bytes lost: it is a Git LFS pointer" in shown and "4 damaged" in shown


def test_a_file_that_was_brought_again_is_all_that_is_read_again(corpus, tmp_path, capsys, monkeypatch):
    data = zstandard.compress(lines(DOCUMENTS))
    (corpus / "part-3.jsonl.zst").write_bytes(data[:-9])
    assert "part-3.jsonl.zst (it ends inside" in sentence(capsys, tmp_path / "c")
    (corpus / "part-3.jsonl.zst").write_bytes(data)
    read, documents_of = [], cache_build.documents_of
    monkeypatch.setattr(cache_build, "documents_of", lambda *a: (read.append(a[2]), documents_of(*a))[1])
    assert command(tmp_path / "c") == 0
    assert read == [3] and len(texts_of(tmp_path / "c")) == 400


def test_training_refuses_them_too(corpus, tmp_path):
    broken_shards(corpus)
    with pytest.raises(UserError, match="files of split 'train' cannot be read to their end"):
        open_stream(TASK, "train", tmp_path / "c")


def test_damage_is_counted_behind_other_preprocessors_too(corpus, tmp_path, capsys):
    seqio.TaskRegistry.remove(TASK)
    (corpus / "part-1.jsonl").write_bytes(lines(DOCUMENTS)[:-5])
    add_task(corpus / "*", keep=lambda example: tf.constant(True))
    assert "part-1.jsonl (its last line, 100, breaks off)" in sentence(capsys, tmp_path / "c")
    assert command(tmp_path / "c", "CacheConfig.max_damaged_files = 1") == 0
    assert len(texts_of(tmp_path / "c")) == 299


@pytest.mark.subprocess
def test_how_many_documents_there_must_be(corpus, tmp_path, capsys):
    source = Source(name="counted", files=(("train", f"{corpus}/*.jsonl"),), documents=400)

    def run(documents):
        declared = ("CacheConfig.tasks = ('counted',)", "DataConfig.sources = (@Source(),)", "Source.name = 'counted'",
                    f"Source.files = {source.files}", f"Source.documents = {documents}")  # fmt: skip
        return lambda: sentence(capsys, tmp_path / "c", *declared), lambda: command(tmp_path / "c", *declared)

    refused, _ = run(400)
    assert "has 300 records in its split 'train', but Source.documents says 400" in refused()
    _, made = run(300)
    assert made() == 0
    refused, _ = run(301)  # of a cache that is there, too
    assert "Source.documents says 301" in refused()


def test_the_list_of_files_is_cut_on_the_screen_only():
    def row(i, **more):
        return {"name": f"f{i:03d}", "size": 10, "documents": 5, "tokens": 9, "malformed": {}, **more}

    class Made:
        sources, left_out, noted = [row(i) for i in range(100)], {}, {}

    Made.sources[70] |= {"damaged": "it breaks off", "lost_bytes": 4}
    Made.sources[71] |= {"malformed": {"not JSON": 2}}
    Made.sources[72] |= {"documents": 0}
    table = tables.sources("web", "train", Made).splitlines()
    assert [line.split()[0] for line in table[2:6]] == ["f070", "f072", "f071", "f000"]
    assert table[-2].split() == ["80", "more", "files", "400", "0", "800"]
    assert table[-1].split() == [
        "all",
        "100",
        "(manifest.json)",
        "497",
        "2",
        "1,000",
        "1",
        "damaged,",
        "4",
        "bytes",
        "lost",
    ]


# --- what changed -----------------------------------------------------------------------------------------------------


def test_text_changed_in_place_by_as_many_bytes(corpus, tmp_path, capsys):
    path = corpus / "part-1.jsonl"
    assert command(tmp_path / "c") == 0
    data = path.read_bytes().replace(b"hunter2", b"REDACTD")
    path.write_bytes(data)
    said = sentence(capsys, tmp_path / "c")
    assert (
        "was made of other files than" in said and "part-1.jsonl was changed" in said and "delete that folder" in said
    )
    with pytest.raises(UserError, match="part-1.jsonl was changed"):  # training looks at the time, then at the bytes
        open_stream(TASK, "train", tmp_path / "c")
    shutil.rmtree(directory_of(tmp_path / "c"))
    assert command(tmp_path / "c") == 0
    assert not any("hunter2" in text for text in texts_of(tmp_path / "c")[:100] if "REDACTD" in text)


def test_a_change_that_keeps_the_time_too(corpus, tmp_path, capsys):
    path = corpus / "part-1.jsonl"
    long_ago(*corpus.iterdir())
    assert command(tmp_path / "c") == 0
    keep_time(path, path.read_bytes().replace(b"hunter2", b"REDACTD"))
    open_stream(TASK, "train", tmp_path / "c")  # the cheap look
    capsys.readouterr()
    assert command(tmp_path / "c", "CacheConfig.source_check = 'time'") == 0
    assert "compared by their sizes and times of change only" in capsys.readouterr().out  # says that it is one
    assert "part-1.jsonl was changed" in sentence(capsys, tmp_path / "c")


def test_files_that_were_only_touched_are_read_once(corpus, tmp_path, monkeypatch):
    long_ago(*corpus.iterdir())
    assert command(tmp_path / "c") == 0
    os.utime(corpus / "part-2.jsonl", (1_100_000_000, 1_100_000_000))
    read, checksums = [], token_cache.source_check.checksums
    monkeypatch.setattr(
        token_cache.source_check, "checksums", lambda paths: checksums([p for p in paths if read.append(p) is None])
    )
    for _ in range(2):
        open_stream(TASK, "train", tmp_path / "c")
    assert read == [(str(corpus / "part-2.jsonl"), ())]


def test_files_that_came_and_went(corpus, tmp_path, capsys):
    assert command(tmp_path / "c") == 0
    (corpus / "part-1.jsonl").rename(corpus / "part-9.jsonl")
    said = sentence(capsys, tmp_path / "c")
    assert "part-9.jsonl is new" in said and "part-1.jsonl is gone" in said
    shutil.rmtree(corpus)  # a machine that trains has the cache alone
    assert len(texts_of(tmp_path / "c")) == 300


def test_a_change_while_the_work_lay_still(corpus, tmp_path, monkeypatch):
    long_ago(*corpus.iterdir())
    with monkeypatch.context() as m, pytest.raises(TypeError):
        m.setattr(cache_build, "finish", None)
        open_stream(TASK, "train", tmp_path / "c")
    path = corpus / "part-0.jsonl"
    keep_time(path, path.read_bytes().replace(b"hunter2", b"REDACTD"))
    assert command(tmp_path / "c") == 0
    assert sum("REDACTD" in text for text in texts_of(tmp_path / "c")) == 100


def test_a_file_that_changes_while_it_is_read(corpus, tmp_path, monkeypatch):
    numbered_texts = documents.numbered_texts

    def meanwhile(path, *arguments, **settings):
        for one in numbered_texts(path, *arguments, **settings):
            os.utime(corpus / "part-1.jsonl")
            yield one

    monkeypatch.setattr(documents, "numbered_texts", meanwhile)
    with pytest.raises(UserError, match="part-1.jsonl changed while it was read"):
        open_stream(TASK, "train", tmp_path / "c")


MODULE = """
import os
import tensorflow as tf
from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.sources.text_task import add_text_task

SHORTEST = {shortest}

def long_enough(text):
    return tf.strings.length(text) > SHORTEST

def keep(example):
    return long_enough(example["text"])

add_text_task("of_a_module", FileSource({{"train": os.environ["CORPUS"]}}), keep=keep)
"""


@pytest.mark.slow
@pytest.mark.subprocess
def test_a_module_of_tasks_that_was_edited(corpus, tmp_path, process_env):
    env = {**process_env, "CORPUS": f"{corpus}/*.jsonl", "PYTHONPATH": f"{process_env['PYTHONPATH']}:{tmp_path}"}
    bindings = arguments(
        tmp_path / "c", "DataConfig.tasks_modules = ('edited_tasks',)", "CacheConfig.tasks = ('of_a_module',)"
    )

    def run(shortest):
        (tmp_path / "edited_tasks.py").write_text(MODULE.format(shortest=shortest))
        argv = [sys.executable, "-B", "-m", "dots_jax.cache", *bindings]
        return subprocess.run(argv, env=env, capture_output=True, text=True)

    assert run(1).returncode == 0
    done = run(30)
    assert done.returncode == 2 and "was made by other code than task 'of_a_module' has now" in done.stderr


def test_what_tells_two_preprocessors_apart(corpus):
    from dots_jax.data.cache.code_identity import code_identity

    def identity(keep):
        seqio.TaskRegistry.remove(TASK)
        add_task(corpus / "*", keep=keep)
        return code_identity(seqio.TaskRegistry.get(TASK))

    def longer_than(number):
        return lambda example: tf.strings.length(example["text"]) > number

    assert identity(longer_than(3)) == identity(longer_than(3)) != identity(longer_than(4))
    assert identity(None) == identity(None) != identity(longer_than(3))


def test_lines_of_stock_seqio_are_files_too(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    seqio.TaskRegistry.add(
        "stock_lines",
        source=seqio.TextLineDataSource({"train": str(tmp_path / "*.txt")}),
        preprocessors=[
            lambda ds: ds.map(lambda text: {"targets": text}),
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos,
        ],
        output_features={"targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=True)},
    )
    open_stream("stock_lines", "train", tmp_path / "c")
    (tmp_path / "a.txt").write_text("one\nTWO\n")
    with pytest.raises(UserError, match="a.txt was changed"):
        open_stream("stock_lines", "train", tmp_path / "c")


def test_a_tokenizer_that_was_replaced(corpus, tmp_path):
    path = tmp_path / "tokenizer.json"
    data = DataConfig(
        sources=(Source(name="of_a_tokenizer", files=(("train", f"{corpus}/*.jsonl"),)),), tokenizer=str(path)
    )
    path.write_text(make_chat.tokenizer_json())
    mixtures.register(data)
    open_stream("of_a_tokenizer", "train", tmp_path / "c")
    path.write_text(path.read_text() + "\n")
    mixtures.register(data)  # as a notebook does, in the same process
    with pytest.raises(UserError, match="was made with TokenizerVocabulary.* now uses TokenizerVocabulary"):
        open_stream("of_a_tokenizer", "train", tmp_path / "c")


# --- two at once ------------------------------------------------------------------------------------------------------


def test_a_second_command_is_refused_and_training_waits(corpus, tmp_path, capsys, monkeypatch):
    begun, go_on, write_shard = threading.Event(), threading.Event(), cache_build.write_shard

    def slow(*arguments):
        begun.set()
        go_on.wait(60)
        write_shard(*arguments)

    monkeypatch.setattr(cache_build, "write_shard", slow)
    opened = []
    first = threading.Thread(target=lambda: opened.append(open_stream(TASK, "train", tmp_path / "c")))
    first.start()
    assert begun.wait(60)
    said = sentence(capsys, tmp_path / "c")
    assert f"the token cache of {TASK} train in " in said and f"worked on by process {os.getpid()} on " in said
    assert not directory_of(tmp_path / "c").exists()  # what a reader would see
    waiting = threading.Thread(target=lambda: opened.append(open_stream(TASK, "train", tmp_path / "c")))
    waiting.start()
    go_on.set()
    first.join()
    waiting.join()
    assert len(opened) == 2 and len(list((tmp_path / "c").rglob(".*.owner.json"))) == 0


def test_a_cache_that_is_made_again_under_its_reader(corpus, tmp_path):
    stream = open_stream(TASK, "train", tmp_path / "c")
    shutil.rmtree(directory_of(tmp_path / "c"))
    with pytest.raises(UserError, match="was removed or made again while it was being read"):
        stream.sequence(0, 32)
    write(corpus / "part-1.jsonl", [text.replace("hunter2", "REDACTD") for text in DOCUMENTS])
    open_stream(TASK, "train", tmp_path / "c")
    with pytest.raises(UserError, match="was removed or made again while it was being read"):
        stream.sequence(0, 32)


def test_settings():
    with pytest.raises(UserError, match="CacheConfig.source_check must be one of checksum, time"):
        CacheConfig(tasks=("a",), source_check="size")
    with pytest.raises(UserError, match="CacheConfig.max_damaged_files must not be negative"):
        CacheConfig(tasks=("a",), max_damaged_files=-1)
