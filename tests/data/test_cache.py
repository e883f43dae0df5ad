"""Token caches: complete or absent, never taken for another's, one clear sentence when something is wrong."""

import json
import stat
import threading

import numpy as np
import pytest
import seqio
import tensorflow as tf

from dots_jax.config import UserError
from dots_jax.data.cache import build as cache_build
from dots_jax.data.cache import plan as cache_plan
from dots_jax.data.cache import token_cache, token_format
from dots_jax.data.cache.token_cache import open_stream
from dots_jax.data.sequences.token_source import TokenSource
from dots_jax.data.sources import text_task
from dots_jax.data.sources.text_task import register_text_task

TEXTS = ["alpha", "", "beta gamma", "δέλτα 你好 🦊", "z" * 20_000]
TASK = "cache_test"


@pytest.fixture(autouse=True)
def task():
    register_text_task(TASK, {"train": TEXTS, "validation": ["held out"]})
    yield
    seqio.TaskRegistry.remove(TASK)


def documents_of(stream):
    tokens, ends = stream.window(0, stream.num_tokens)
    return [bytes((d[:-1] - 3).tolist()).decode() for d in np.split(tokens, ends + 1)[:-1]]


def test_holds_every_document_once_in_a_fixed_order(tmp_path):
    stream = open_stream(TASK, "train", tmp_path / "one")
    assert sorted(documents_of(stream)) == sorted(TEXTS)
    assert documents_of(stream) != TEXTS  # shuffled, so that neighbours in the source are strangers in the stream
    assert documents_of(open_stream(TASK, "train", tmp_path / "two")) == documents_of(stream)
    text_bytes = sum(len(text.encode()) for text in TEXTS)
    assert (stream.num_documents, stream.num_bytes, stream.num_tokens) == (5, text_bytes, text_bytes + 5)
    assert stream.manifest.tokens == stream.num_tokens and stream.manifest.task == TASK
    assert documents_of(open_stream(TASK, "validation", tmp_path / "one")) == ["held out"]


def test_made_once(tmp_path, monkeypatch):
    open_stream(TASK, "train", tmp_path)
    monkeypatch.setattr(cache_build, "write_shard", lambda *a, **k: pytest.fail("made again"))
    open_stream(TASK, "train", tmp_path)


def test_many_builders_at_once_make_it_once(tmp_path, monkeypatch):
    built, write = [], cache_build.write_shard
    monkeypatch.setattr(cache_build, "write_shard", lambda *a, **k: (built.append(1), write(*a, **k)))
    streams, start = [], threading.Barrier(4)

    def open_one():
        start.wait()
        streams.append(open_stream(TASK, "train", tmp_path))

    threads = [threading.Thread(target=open_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1 and len(streams) == 4


def test_other_documents_under_the_same_name_get_their_own_cache(tmp_path):
    open_stream(TASK, "train", tmp_path)
    register_text_task(TASK, {"train": ["changed"]})
    assert documents_of(open_stream(TASK, "train", tmp_path)) == ["changed"]


def files_of(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("step", ["tokenise", "write_shard", "finish"])
def test_an_interrupted_build_is_taken_up(tmp_path, monkeypatch, step):
    complete = open_stream(TASK, "train", tmp_path / "complete")

    def interrupted(building, *args, **kwargs):
        (building / "pieces" / "00000.run").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(cache_build, step, interrupted if step == "tokenise" else lambda *a, **k: 1 / 0)
        try:
            open_stream(TASK, "train", tmp_path)
        except ZeroDivisionError:
            raise KeyboardInterrupt from None
    directory = token_cache.cache_directory(seqio.TaskRegistry.get(TASK), "train", tmp_path)
    assert not directory.exists()
    if step != "tokenise":
        monkeypatch.setattr(cache_build, "tokenise", lambda *a, **k: pytest.fail("tokenised again"))
    assert files_of(open_stream(TASK, "train", tmp_path)._directory) == files_of(complete._directory)
    assert not directory.with_name(".train.building").exists()


def test_work_by_other_preprocessors_is_thrown_away(tmp_path, monkeypatch):
    source = seqio.TaskRegistry.get(TASK).source
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(cache_build, "finish", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        open_stream(TASK, "train", tmp_path)
    seqio.TaskRegistry.remove(TASK)
    text_task.add_text_task(TASK, source, keep=lambda example: tf.strings.length(example["text"]) > 6)
    assert sorted(documents_of(open_stream(TASK, "train", tmp_path))) == sorted(t for t in TEXTS if len(t) > 6)


def test_work_on_another_plan_is_thrown_away(tmp_path, monkeypatch):
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(cache_plan, "DOCUMENT_ORDER_SEED", 7)
        m.setattr(cache_build, "finish", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        open_stream(TASK, "train", tmp_path)
    assert sorted(documents_of(open_stream(TASK, "train", tmp_path))) == sorted(TEXTS)
    assert open_stream(TASK, "train", tmp_path).manifest.document_order_seed == 0


def manifest_of(stream):
    return stream._directory / token_format.MANIFEST


def edit_manifest(stream, **changes):
    path = manifest_of(stream)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(stream):
    path = stream._directory / "tokens-00000.array_record"
    path.write_bytes(path.read_bytes()[:1000])


DAMAGES = {
    "no manifest": (lambda s: manifest_of(s).unlink(), "has no manifest.json"),
    "half a manifest": (lambda s: manifest_of(s).write_text('{"format": 2,'), "damaged manifest.json"),
    "a field too few": (lambda s: manifest_of(s).write_text('{"format": 3}'), "damaged manifest.json"),
    "an older format": (lambda s: edit_manifest(s, format=2), "format 2, and this version reads 3"),
    "other code": (lambda s: edit_manifest(s, code="0" * 16), "made by other code than task .* has now"),
    "a newer format": (lambda s: edit_manifest(s, format=99), "format 99"),
    "a file too few": (lambda s: (s._directory / "tokens-00000.array_record").unlink(), "is missing"),
    "half a file": (truncate, "1000 bytes instead of"),
    "another vocabulary": (lambda s: edit_manifest(s, vocabulary="Other(7)"), "made with Other.* but task"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_named(tmp_path, damage):
    break_it, message = DAMAGES[damage]
    break_it(open_stream(TASK, "train", tmp_path))
    with pytest.raises(UserError, match=message) as error:
        open_stream(TASK, "train", tmp_path)
    assert "delete" in str(error.value) and "\n" not in str(error.value)


def test_a_flipped_bit_is_found_when_it_is_read(tmp_path):
    stream = open_stream(TASK, "train", tmp_path)
    path = stream._directory / "tokens-00000.array_record"
    data = bytearray(path.read_bytes())
    place = data.find(b"\x7d\x00" * 100)  # inside the run of "z", which is id 125
    assert place > 0
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        damaged = open_stream(TASK, "train", tmp_path)
        damaged.window(0, damaged.num_tokens)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "a_file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        open_stream(TASK, "train", tmp_path / "a_file" / "cache")
    with pytest.raises(UserError, match="cannot be written"):
        open_stream(TASK, "train", tmp_path / "a_file")


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError("INTERNAL: No space left on device; writing x at byte 65536")  # as array_record says it

    monkeypatch.setattr(cache_build, "write_file", full)
    with pytest.raises(UserError, match="No space left on device"):
        open_stream(TASK, "train", tmp_path)


def test_a_read_only_cache_can_be_read(tmp_path):
    open_stream(TASK, "train", tmp_path)
    directories = [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]
    for path in directories:
        path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert sorted(documents_of(open_stream(TASK, "train", tmp_path))) == sorted(TEXTS)
    finally:
        for path in directories:
            path.chmod(0o755)


@pytest.mark.parametrize("documents, message", [([], "no documents"), (["", ""], "only empty documents")])
def test_an_empty_dataset(tmp_path, documents, message):
    register_text_task(TASK, {"train": documents})
    with pytest.raises(UserError, match=message):
        open_stream(TASK, "train", tmp_path)
    assert not list(tmp_path.rglob("manifest.json"))


def test_unknown_names(tmp_path):
    with pytest.raises(UserError, match=f"No seqio task is named 'nonsense'.*{TASK}"):
        open_stream("nonsense", "train", tmp_path)
    with pytest.raises(UserError, match="no split 'test': it has train, validation"):
        open_stream(TASK, "test", tmp_path)


def test_documents_must_be_closed_by_the_end_token(tmp_path):
    source = seqio.TaskRegistry.get(TASK).source
    seqio.TaskRegistry.add(
        "never_ends",
        source=source,
        preprocessors=[
            lambda ds: ds.map(lambda ex: {"targets": ex["text"]}),
            seqio.preprocessors.tokenize,
        ],
        output_features={"targets": seqio.Feature(seqio.ByteVocabulary())},
    )
    try:
        with pytest.raises(UserError, match="append_eos"):
            open_stream("never_ends", "train", tmp_path)
    finally:
        seqio.TaskRegistry.remove("never_ends")


def test_stock_seqio_reads_the_packed_sequences(tmp_path):
    source = TokenSource(TASK, 32, tmp_path)
    seqio.TaskRegistry.add(
        "packed_test",
        source=source,
        output_features={"targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=False)},
    )
    try:

        def read(**kwargs):
            dataset = seqio.get_dataset(
                "packed_test",
                task_feature_lengths={"targets": 32},
                dataset_split="train",
                feature_converter=seqio.PassThroughFeatureConverter(),
                **kwargs,
            )
            return list(dataset.as_numpy_iterator())

        total = source.num_input_examples("train")
        rows = read(shuffle=False)
        assert len(rows) == total
        for i, row in enumerate(rows):
            for name, values in source.sequence("train", i).items():
                np.testing.assert_array_equal(row[name], values)
        for num_shards in (2, 3):  # disjoint shares that interleave to the complete
            shares = [read(shuffle=False, shard_info=seqio.ShardInfo(index, num_shards)) for index in range(num_shards)]
            assert sum(map(len, shares)) == total
            for index, share in enumerate(shares):
                for j, row in enumerate(share):
                    np.testing.assert_array_equal(row["targets"], rows[index + j * num_shards]["targets"])
        shuffled = read(shuffle=True, seed=1)
        assert sorted(row["targets"].tobytes() for row in shuffled) == sorted(row["targets"].tobytes() for row in rows)
    finally:
        seqio.TaskRegistry.remove("packed_test")
