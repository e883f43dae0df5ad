"""`python -m dots_jax.cache`: the same bytes whoever works and whatever happens, and one sentence for what is wrong.

Claim: one worker, three workers, and a job that was killed and resumed write the same token files.
"""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import seqio
import tensorflow as tf
from registered import gone_afterwards

from dots_jax.cli.main import main
from dots_jax.data.cache import build as cache_build
from dots_jax.data.cache import plan as cache_plan
from dots_jax.data.cache import token_cache
from dots_jax.data.cache.token_cache import open_stream
from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.sources.text_task import BYTES, add_text_task

FILES = 6
TEXTS = [
    [f"document {i} of file {f} " + "word " * (7 * i % 50) + "你好,世界" * (i % 4) for i in range(40)]
    for f in range(FILES)
]
TEXTS[1][3] = ""
TEXTS[2][7] = "長い文書 " * 3000  # several chunks
BAD = ["{", '["no object"]', '{"title": "no text"}', '{"text": 7}', '{"text": "\\ud800"}', '{"text": null}']
TASK = "cache_command"


def write_jsonl(folder, texts, bad=()):
    folder.mkdir(parents=True, exist_ok=True)
    for f, documents in enumerate(texts):
        lines = [json.dumps({"text": text, "id": i}, ensure_ascii=False) for i, text in enumerate(documents)]
        lines[3:3] = bad if f == 1 else []
        (folder / f"part-{f}.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")


@pytest.fixture(autouse=True)
def tasks():
    with gone_afterwards():
        yield


def add_task(pattern, name=TASK, field="text", **settings):
    add_text_task(name, FileSource({"train": str(pattern)}, field), **settings)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_jsonl(folder, TEXTS)
    return folder


@pytest.fixture(scope="module")
def expected(corpus, tmp_path_factory):
    """What one worker makes in one go: name -> bytes, with four shards."""
    add_task(corpus / "*.jsonl")
    folder = tmp_path_factory.mktemp("expected")
    assert command(folder) == 0
    directory = directory_of(folder)
    seqio.TaskRegistry.remove(TASK)
    return files_of(directory)


def arguments(cache_dir, *bindings):
    lines = [
        f"CacheConfig.tasks = ('{TASK}',)", "CacheConfig.shards = 4", "CacheConfig.data = @DataConfig()",
        f"DataConfig.cache_dir = '{cache_dir}'", *bindings,
    ]  # fmt: skip
    return ["--gin_file=/dev/null", *(f"--gin_bindings={line}" for line in lines)]


def command(cache_dir, *bindings, flags=()):
    return main(["cache", *arguments(cache_dir, *bindings), *flags])


def directory_of(cache_dir):
    task = seqio.TaskRegistry.get(TASK)
    return token_cache.cache_directory(task, "train", cache_dir)


def files_of(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def texts_of(cache_dir):
    stream = open_stream(TASK, "train", cache_dir)
    tokens, ends = stream.window(0, stream.num_tokens)
    return [bytes((document[:-1] - 3).tolist()).decode() for document in np.split(tokens, ends + 1)[:-1]]


# --- the same bytes ---------------------------------------------------------------------------------------------------


@pytest.mark.subprocess
def test_holds_every_document_and_says_where_from(corpus, tmp_path, capsys):
    add_task(corpus / "*.jsonl")
    assert command(tmp_path) == 0
    table = capsys.readouterr().out.splitlines()
    everything = [text for documents in TEXTS for text in documents]
    assert sorted(texts_of(tmp_path)) == sorted(everything)
    tokens = sum(len(text.encode()) + 1 for text in everything)
    assert table[-1].split()[:5] == [TASK, "train", "240", f"{tokens:,}", "0"]
    rows = [line.split() for line in table if line.startswith("  part-")]
    assert rows == [
        [f"part-{f}.jsonl", "40", "0", f"{(corpus / f'part-{f}.jsonl').stat().st_size:,}"] for f in range(6)
    ]
    assert table[-3].split()[:4] == ["all", "6", "(manifest.json)", "240"]

    directory = directory_of(tmp_path)
    assert {p.name for p in directory.iterdir()} == {
        "manifest.json", *(f"tokens-{i:05d}.array_record" for i in range(4)), *(f"lengths-{i:05d}.u4" for i in range(4)),
        *(f"documents-{i:05d}.u8" for i in range(4)),
    }  # fmt: skip
    manifest = open_stream(TASK, "train", tmp_path).manifest
    assert (manifest.documents, manifest.tokens, manifest.bytes) == (240, tokens, tokens - 240)
    assert sum(file["tokens"] for file in manifest.files) == tokens
    assert "ByteVocabulary" in manifest.vocabulary and manifest.malformed == {}
    assert [file["name"] for file in manifest.sources] == [f"part-{f}.jsonl" for f in range(FILES)]
    path = corpus / "part-2.jsonl"
    assert (manifest.sources[2]["size"], manifest.sources[2]["documents"]) == (path.stat().st_size, 40)
    digest = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]
    assert manifest.sources[2]["sha256"] == digest
    assert str(tmp_path) not in "".join(p.read_text() for p in directory.glob("*.json"))

    assert command(tmp_path) == 0  # again: left alone
    out = capsys.readouterr().out
    assert (
        "already complete, skipped (its source files compared by their checksums)" in out
        and "was there" in out.splitlines()[-1]
    )


def test_three_workers(corpus, expected, tmp_path):
    add_task(corpus / "*.jsonl")
    flags = "('--direct_num_workers=3', '--direct_running_mode=multi_threading')"
    assert command(tmp_path, f"CacheConfig.beam = {flags}") == 0
    assert files_of(directory_of(tmp_path)) == expected


def test_small_runs_and_a_loop_without_beam(corpus, expected, tmp_path, monkeypatch):
    add_task(corpus / "*.jsonl")
    monkeypatch.setattr(cache_build, "RUN_TOKENS", 1000)
    task = seqio.TaskRegistry.get(TASK)
    token_cache.make_cache(task, "train", tmp_path, token_cache.one_after_the_other, shards=4)
    assert files_of(directory_of(tmp_path)) == expected


def test_the_stream_does_not_depend_on_the_number_of_files(corpus, tmp_path):
    add_task(corpus / "*.jsonl")
    for shards in (1, 4, 500):
        task = seqio.TaskRegistry.get(TASK)
        token_cache.make_cache(task, "train", tmp_path / str(shards), token_cache.one_after_the_other, shards=shards)
    assert texts_of(tmp_path / "1") == texts_of(tmp_path / "4") == texts_of(tmp_path / "500")
    assert len(open_stream(TASK, "train", tmp_path / "500").manifest.files) < 240


@pytest.mark.parametrize("shards, files", [(None, 4), (2, 2)])
def test_work_begun_with_another_number_of_files(corpus, expected, tmp_path, monkeypatch, shards, files):
    add_task(corpus / "*.jsonl")
    task = seqio.TaskRegistry.get(TASK)
    with monkeypatch.context() as m, pytest.raises(TypeError):
        m.setattr(cache_build, "finish", None)
        token_cache.make_cache(task, "train", tmp_path, token_cache.one_after_the_other, shards=4)
    monkeypatch.setattr(cache_build, "documents_of", None)  # nothing is tokenised again
    token_cache.make_cache(task, "train", tmp_path, token_cache.one_after_the_other, shards=shards)
    assert len(open_stream(TASK, "train", tmp_path).manifest.files) == files
    assert (files_of(directory_of(tmp_path)) == expected) == (files == 4)


def test_seqio_preprocessors_give_the_same_as_the_fast_path(corpus, expected, tmp_path):
    add_task(corpus / "*.jsonl", keep=lambda example: tf.constant(True))
    task = seqio.TaskRegistry.get(TASK)
    token_cache.make_cache(task, "train", tmp_path, token_cache.one_after_the_other, shards=4)
    found, other = files_of(directory_of(tmp_path)), dict(expected)
    manifests = [json.loads(files.pop("manifest.json")) for files in (found, other)]
    assert found == other and manifests[0].pop("code") != manifests[1].pop("code") and manifests[0] == manifests[1]


MODULE = """
import os
from dots_jax.data import cache_build
from dots_jax.data.file_source import FileSource
from dots_jax.data.text_task import add_text_task

def killed_at(function, when):
    def dying(*args):
        if os.environ.get("DIE") and os.environ["DIE"] in str(args):
            os.kill(os.getpid(), 9)
        return function(*args)
    return dying

cache_build._write_run = killed_at(cache_build._write_run, "DIE")
cache_build.write_file = killed_at(cache_build.write_file, "DIE")
add_text_task("cache_command", FileSource({"train": os.environ["CORPUS"]}))
"""


@pytest.mark.subprocess
@pytest.mark.parametrize("die", ["00004.run", "tokens-00002"])
def test_killed_and_run_again(corpus, expected, tmp_path, process_env, die):
    (tmp_path / "killing_tasks.py").write_text(MODULE)
    env = {
        **process_env,
        "PYTHONPATH": f"{process_env['PYTHONPATH']}:{tmp_path}",
        "CORPUS": str(corpus / "*.jsonl"),
        "DIE": die,
    }
    bindings = arguments(tmp_path / "cache", "DataConfig.tasks_modules = ('killing_tasks',)")
    done = subprocess.run([sys.executable, "-m", "dots_jax.cache", *bindings], env=env, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    add_task(corpus / "*.jsonl")
    building = directory_of(tmp_path / "cache").with_name(".train.building")
    kept = {kind: len(list((building / kind).glob("*.json"))) for kind in ("pieces", "shards")}
    assert kept["pieces"] >= 4 and not directory_of(tmp_path / "cache").exists()
    steps = []

    def recorded(step, building, numbers):
        steps.append(len(numbers))
        token_cache.one_after_the_other(step, building, numbers)

    task = seqio.TaskRegistry.get(TASK)
    token_cache.make_cache(task, "train", tmp_path / "cache", recorded, shards=4)
    assert files_of(directory_of(tmp_path / "cache")) == expected
    assert steps == [FILES - kept["pieces"], 4 - kept["shards"]]  # only what was missing


@pytest.mark.subprocess
@pytest.mark.slow
def test_worker_processes(corpus, expected, tmp_path, process_env):
    (tmp_path / "killing_tasks.py").write_text(MODULE)
    env = {**process_env, "PYTHONPATH": f"{process_env['PYTHONPATH']}:{tmp_path}", "CORPUS": str(corpus / "*.jsonl")}
    flags = "('--direct_num_workers=2', '--direct_running_mode=multi_processing')"
    bindings = arguments(tmp_path / "c", "DataConfig.tasks_modules = ('killing_tasks',)", f"CacheConfig.beam = {flags}")
    subprocess.run([sys.executable, "-m", "dots_jax.cache", *bindings], env=env, check=True)
    add_task(corpus / "*.jsonl")
    assert files_of(directory_of(tmp_path / "c")) == expected


# --- what is malformed ------------------------------------------------------------------------------------------------


def test_malformed_records_are_counted_and_sampled(tmp_path):
    write_jsonl(tmp_path / "in", TEXTS, BAD * 5)
    add_task(tmp_path / "in" / "*.jsonl")
    limits = ("CacheConfig.max_malformed = 0.2", "CacheConfig.malformed_samples = 12")
    assert command(tmp_path / "c", *limits) == 0
    assert sorted(texts_of(tmp_path / "c")) == sorted(text for documents in TEXTS for text in documents)
    assert open_stream(TASK, "train", tmp_path / "c").manifest.malformed == {
        "field 'text' is no text": 5, "no JSON object": 5, "no field 'text'": 10, "not JSON": 5, "not UTF-8": 5
    }  # fmt: skip
    samples = [json.loads(line) for line in (directory_of(tmp_path / "c") / "malformed.jsonl").read_text().splitlines()]
    assert len(samples) == 12 and {sample["file"] for sample in samples} == {"part-1.jsonl"}
    assert len({sample["reason"] for sample in samples}) > 2
    written = (tmp_path / "in" / "part-1.jsonl").read_text(encoding="utf-8").splitlines()
    for sample in samples:
        assert sample["field"] == "text" and written[sample["line"] - 1] in BAD
    files = files_of(directory_of(tmp_path / "c"))
    flags = "CacheConfig.beam = ('--direct_num_workers=3', '--direct_running_mode=multi_threading')"
    assert command(tmp_path / "d", *limits, flags) == 0
    assert files_of(directory_of(tmp_path / "d")) == files


# --- what is wrong ----------------------------------------------------------------------------------------------------


def sentence(capsys, cache_dir, *bindings, flags=()):
    capsys.readouterr()
    assert command(cache_dir, *bindings, flags=flags) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and error[0].endswith((".", "?"))
    return error[0]


def test_too_many_malformed(tmp_path, capsys, monkeypatch):
    write_jsonl(tmp_path / "in", TEXTS, BAD * 5)
    add_task(tmp_path / "in" / "*.jsonl")
    said = sentence(capsys, tmp_path / "c")
    assert "30 of 270 records of split 'train' are malformed, more than CacheConfig.max_malformed = 0.01" in said
    assert "10 times no field 'text', 5 times field 'text' is no text" in said
    assert "the first of these in part-1.jsonl is line 6" in said
    samples = said.split("; ")[1].split(" shows")[0]
    assert len(open(samples).readlines()) == 30
    assert not directory_of(tmp_path / "c").exists()
    monkeypatch.setattr(cache_build, "documents_of", None)  # what was done is not done again
    assert command(tmp_path / "c", "CacheConfig.max_malformed = 0.2") == 0


def test_a_wrong_field_is_found_at_once(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cache_build, "tokenise", None)
    add_task(corpus / "*.jsonl", field="body")
    said = sentence(capsys, tmp_path)
    assert "none of the first records" in said and "no field 'body'" in said and "document 0" in said


def test_no_files(tmp_path, capsys):
    add_task(tmp_path / "nothing-*.jsonl")
    assert "No file matches" in sentence(capsys, tmp_path / "c")
    assert "No file matches" in sentence(capsys, tmp_path / "c", flags=["--dry_run"])
    (tmp_path / "nothing-1.txt").write_text("x")
    add_task(tmp_path / "nothing-*", name="other")
    assert "is of no known format" in sentence(capsys, tmp_path / "c", "CacheConfig.tasks = ('other',)")


@pytest.mark.parametrize("content, message", [("", "has no documents"), ('{"text": ""}\n', "has only empty documents")])
def test_nothing_to_learn_from(tmp_path, capsys, content, message):
    (tmp_path / "a.jsonl").write_text(content)
    add_task(tmp_path / "a.jsonl")
    assert message in sentence(capsys, tmp_path / "c")
    assert not list((tmp_path / "c").rglob("manifest.json"))


def test_names_and_flags_that_do_not_exist(corpus, tmp_path, capsys):
    add_task(corpus / "*.jsonl")
    assert "No seqio task is named 'web'" in sentence(capsys, tmp_path, "CacheConfig.tasks = ('web',)")
    assert "no split 'test': it has train" in sentence(capsys, tmp_path, "CacheConfig.splits = ('test',)")
    assert "CacheConfig.max_malformed must be in [0, 1]" in sentence(capsys, tmp_path, "CacheConfig.max_malformed = 2")
    assert "flags begin with --" in sentence(capsys, tmp_path, "CacheConfig.beam = ('runner',)")
    wrong = "CacheConfig.beam = ('--direct_num_workers=many',)"
    assert "CacheConfig.beam holds a flag that Beam does not take" in sentence(capsys, tmp_path, wrong)
    assert "--direct_num_worker" in sentence(capsys, tmp_path, "CacheConfig.beam = ('--direct_num_worker=2',)")
    assert "NoSuchRunner" in sentence(capsys, tmp_path, "CacheConfig.beam = ('--runner=NoSuchRunner',)")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(corpus, tmp_path, capsys, monkeypatch):
    add_task(corpus / "*.jsonl")
    (tmp_path / "a_file").write_text("")
    assert "cannot be written" in sentence(capsys, tmp_path / "a_file" / "cache")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_build, "_write_run", full)
    assert "No space left on device" in sentence(capsys, tmp_path / "c")  # from a worker


def test_a_file_that_vanishes(tmp_path, capsys, monkeypatch):
    write_jsonl(tmp_path / "in", TEXTS)
    add_task(tmp_path / "in" / "*.jsonl")
    plan = cache_plan.plan

    def then_it_vanishes(*arguments):
        made = plan(*arguments)
        (tmp_path / "in" / "part-4.jsonl").unlink()
        return made

    monkeypatch.setattr(cache_plan, "plan", then_it_vanishes)
    assert "part-4.jsonl cannot be read: No such file" in sentence(capsys, tmp_path / "c")  # from a worker


def test_an_error_in_a_worker_is_one_sentence(corpus, tmp_path, capsys):
    class Wide(seqio.ByteVocabulary):
        def encode_batch(self, texts):
            return [[5, 400]] * len(texts)

    add_task(corpus / "*.jsonl", vocabulary=Wide(extra_ids=0))
    said = sentence(capsys, tmp_path)
    assert said.endswith("a document holds an id outside the vocabulary of 259: check its preprocessors.")


def test_other_files_under_the_same_names_are_noticed(tmp_path, capsys):
    write_jsonl(tmp_path / "in", TEXTS[:2])
    pattern = tmp_path / "in" / "*.jsonl"
    add_task(pattern)
    assert command(tmp_path / "c") == 0
    write_jsonl(tmp_path / "in", TEXTS[:3])
    seqio.TaskRegistry.remove(TASK)
    add_task(pattern)
    assert "was made of other files than" in sentence(capsys, tmp_path / "c")
    shutil.rmtree(tmp_path / "in")  # a machine that trains has the cache alone
    seqio.TaskRegistry.remove(TASK)
    add_task(pattern)
    assert len(texts_of(tmp_path / "c")) == 80


def test_a_dry_run_writes_no_cache(corpus, tmp_path, capsys):
    add_task(corpus / "*.jsonl")
    assert command(tmp_path, flags=["--dry_run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:3] == [TASK, "train", "6"]
    assert not list(tmp_path.rglob("*.json"))


def test_a_vocabulary_with_encode_batch_is_asked_in_batches(corpus, tmp_path):
    class Batched(seqio.ByteVocabulary):
        def encode_batch(self, texts):
            assert all(isinstance(text, str) for text in texts)
            return [BYTES.encode(text) for text in texts]

    add_task(corpus / "*.jsonl", vocabulary=Batched(extra_ids=0))
    assert len(texts_of(tmp_path)) == 240
