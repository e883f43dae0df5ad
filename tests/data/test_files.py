"""Files of records: every format, what is malformed, what is damaged; and the same files through stock seqio."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
import seqio
import tensorflow as tf
import zstandard
from array_record.python import array_record_module

from dots_jax.config import UserError
from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.sources.record_files import Malformed

TEXTS = [f"document {i} " + "word " * (7 * i % 50) + "你好,世界 🦊" * (i % 4) for i in range(40)]
TEXTS[3], TEXTS[5] = "", "line\nline\r\u2028line"


def example(text):
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
    return tf.train.Example(features=tf.train.Features(feature={"content": feature})).SerializeToString()


def lines(texts):
    return "".join(json.dumps({"content": text}) + "\n" for text in texts).encode()


def write_array_record(path, texts):
    writer = array_record_module.ArrayRecordWriter(str(path))
    for text in texts:
        writer.write(example(text))
    writer.close()


def write_tfrecord(path, texts, compression=None):
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for text in texts:
            writer.write(example(text))


def zstd_frames(texts):
    compressor = zstandard.ZstdCompressor()
    return compressor.compress(lines(texts[:20])) + compressor.compress(lines(texts[20:]))


FORMATS = {
    "jsonl": lambda path, texts: path.write_bytes(lines(texts)),
    "jsonl.gz": lambda path, texts: path.write_bytes(gzip.compress(lines(texts))),
    "jsonl.zst": lambda path, texts: path.write_bytes(zstd_frames(texts)),
    "parquet": lambda path, texts: pyarrow.parquet.write_table(
        pyarrow.table({"content": texts}), path, row_group_size=7
    ),
    "array_record": write_array_record,
    "tfrecord": write_tfrecord,
    "tfrecord.gz": lambda path, texts: write_tfrecord(path, texts, "GZIP"),
}


def texts_of(source):
    return [text for file in source.files("train") for text in source.texts(file)]


@pytest.fixture(params=FORMATS)
def ending(request):
    return request.param


def test_formats(tmp_path, ending):
    FORMATS[ending](tmp_path / f"a.{ending}", TEXTS)
    source = FileSource({"train": str(tmp_path / f"*.{ending}")}, "content")
    assert [text.decode() for text in texts_of(source)] == TEXTS
    examples = source.get_dataset("train", shuffle=False).as_numpy_iterator()
    assert [example["text"].decode() for example in examples] == TEXTS


def test_no_such_field(tmp_path, ending):
    FORMATS[ending](tmp_path / f"a.{ending}", TEXTS[:5])
    found = texts_of(FileSource({"train": str(tmp_path / f"*.{ending}")}, "body"))
    assert [text.reason for text in found] == ["no field 'body'"] * 5
    assert all("content" in text.shown for text in found)  # what there is instead


def test_what_breaks_off_is_said(tmp_path, ending):
    FORMATS[ending](tmp_path / f"a.{ending}", TEXTS * 50)
    whole = (tmp_path / f"a.{ending}").read_bytes()
    (tmp_path / f"a.{ending}").write_bytes(whole[: len(whole) * 6 // 10 - 3])
    *before, last = texts_of(FileSource({"train": str(tmp_path / "a.*")}, "content"))
    assert isinstance(last, Malformed) and last.reason == ("not JSON" if ending == "jsonl" else "damaged file")
    assert [text.decode() for text in before] == (TEXTS * 50)[: len(before)]
    assert len(before) >= 20 or ending in ("parquet", "array_record")  # these have their index at the end


def test_records_that_are_no_examples(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        writer.write(b"\xff\xff no example")
        writer.write(example("good"))
    first, second = texts_of(FileSource({"train": str(tmp_path / "*.tfrecord")}, "content"))
    assert (first.reason, second) == ("no tf.train.Example", b"good")


def test_a_null_in_parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"content": ["a", None]}), tmp_path / "a.parquet")
    first, second = texts_of(FileSource({"train": str(tmp_path / "*.parquet")}, "content"))
    assert (first, second.reason) == (b"a", "no field 'content'")


def test_a_very_long_line(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(lines(["x" * 5_000_000, "y"])))
    assert [len(text) for text in texts_of(FileSource({"train": str(path)}, "content"))] == [5_000_000, 1]


def test_names_do_not_depend_on_the_folder(tmp_path):
    for name in ("b/2", "a/1", "a/deep/3"):
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lines(["x"]))
    source = FileSource({"train": f"{tmp_path}/**/*.jsonl", "some": f"{tmp_path}/?/*.jsonl"})
    assert source.list_shards("train") == ["a/1.jsonl", "a/deep/3.jsonl", "b/2.jsonl"]
    assert source.list_shards("some") == ["a/1.jsonl", "b/2.jsonl"]
    moved = FileSource({"train": f"{tmp_path}/../{tmp_path.name}/**/*.jsonl"})
    assert moved.fingerprint("train") == source.fingerprint("train") != source.fingerprint("some")
    assert FileSource({"train": "nowhere/*.jsonl"}).fingerprint("train") is None


def test_seqio_shares_the_files(tmp_path):
    for f in range(6):
        (tmp_path / f"{f}.jsonl").write_bytes(lines(TEXTS))
    source = FileSource({"train": str(tmp_path / "*.jsonl")}, "content")
    shares = [source.get_dataset("train", shuffle=False, shard_info=seqio.ShardInfo(i, 4)) for i in range(4)]
    assert [len(list(share)) for share in shares] == [80, 80, 40, 40]
    assert len(list(source.get_dataset("train", shuffle=True, seed=1))) == 240


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="No file matches .*where split 'train' should be"):
        FileSource({"train": str(tmp_path / "*.jsonl")}).files("train")
    (tmp_path / "a.csv").write_text("text")
    with pytest.raises(UserError, match="a.csv is of no known format: its name must end in one of .jsonl"):
        FileSource({"train": str(tmp_path / "*")}).files("train")
