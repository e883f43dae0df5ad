"""Files of records: every format, what is malformed, what is damaged; and the same files through stock seqio."""

import gzip
import hashlib
import json
import os

import pyarrow
import pyarrow.parquet
import pytest
import seqio
import tensorflow as tf
import zstandard
from array_record.python import array_record_module

from dots_jax.config import UserError
from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.sources.json_lines import DamagedFile, Malformed
from dots_jax.data.sources.record_files import check_beginning, read_texts

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


def test_what_breaks_off_is_refused_by_name(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    FORMATS[ending](path, TEXTS * 50)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10 - 3])
    found, digest = [], hashlib.sha256()
    with pytest.raises(DamagedFile, match=f"a.{ending} cannot be read to its end") as error:
        found += (text.decode() for text in read_texts(path, "content", digest=digest, conversations=False))
    assert found == (TEXTS * 50)[: len(found)]
    assert len(found) >= 20 or ending in ("parquet", "array_record")  # these have their index at the end
    assert error.value.size == path.stat().st_size >= error.value.lost_bytes and "\n" not in str(error.value)
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()  # of all bytes all the same


@pytest.mark.parametrize("place", [0.3, 0.7])
def test_a_damaged_block_is_refused_by_name(tmp_path, ending, place):
    if ending == "jsonl":
        return  # a letter that became another one is text too
    path = tmp_path / f"a.{ending}"
    texts = [f"{i} {hashlib.sha256(bytes([i % 256])).hexdigest() * 9}" for i in range(4000)]
    if ending == "parquet":  # it has checksums if its writer wants them; so has zstd
        pyarrow.parquet.write_table(
            pyarrow.table({"content": texts}), path, row_group_size=999, write_page_checksum=True
        )
    elif ending == "jsonl.zst":
        path.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(lines(texts)))
    else:
        FORMATS[ending](path, texts)
    data = bytearray(path.read_bytes())
    at = int(len(data) * place)
    data[at : at + 64] = bytes(byte ^ 0x5A for byte in data[at : at + 64])
    path.write_bytes(data)
    found = []
    with pytest.raises(DamagedFile) as error:
        found += (text.decode() for text in read_texts(path, "content", conversations=False))
    assert found == texts[: len(found)] and 0 < error.value.lost_bytes <= len(data)


def test_the_checksum_is_taken_while_reading(tmp_path, ending):
    path, digest = tmp_path / f"a.{ending}", hashlib.sha256()
    FORMATS[ending](path, TEXTS)
    assert len(list(read_texts(path, "content", digest=digest, conversations=False))) == 40
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()


POINTERS = {
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 130516\n",
    "git annex get": b"/annex/objects/SHA256E-s130516--abc.jsonl\n",
}


@pytest.mark.parametrize("command", POINTERS)
def test_pointers_of_git(tmp_path, ending, command):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(POINTERS[command])
    for read in (lambda: list(read_texts(path, "content", conversations=False)), lambda: check_beginning(path)):
        with pytest.raises(DamagedFile, match=f"a.{ending} .* run `{command}`") as error:
            read()
        assert error.value.lost_bytes == 130516 or command != "git lfs pull"


def test_an_empty_file(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"")
    if ending in ("jsonl", "tfrecord"):  # no records are no bytes
        assert list(read_texts(path, "content", conversations=False)) == []
        check_beginning(path)
        return
    for read in (lambda: list(read_texts(path, "content", conversations=False)), lambda: check_beginning(path)):
        with pytest.raises(DamagedFile, match="empty"):
            read()


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
    assert source.path_of("train", "a/deep/3.jsonl") == f"{tmp_path}/a/deep/3.jsonl"


def test_the_number_of_a_malformed_record(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\n{"content": "a"}\n\n{"content": 7}\n{"content": "b"}\n[1]\n')
    found = texts_of(FileSource({"train": str(tmp_path / "*.jsonl")}, "content"))
    bad = [text for text in found if isinstance(text, Malformed)]
    assert [(text.number, text.reason) for text in bad] == [(4, "field 'content' is no text"), (6, "no JSON object")]
    pyarrow.parquet.write_table(pyarrow.table({"content": ["a", None, "b"]}), tmp_path / "a.parquet")
    assert texts_of(FileSource({"train": str(tmp_path / "*.parquet")}, "content"))[1].number == 2


def test_texts_and_conversations_have_rules_of_their_own(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"content": [{"path": "x.py"}]}\n')
    (text,) = read_texts(path, "content", conversations=False)
    assert text.reason == "field 'content' is a list of objects and no text"
    path.write_text('{"content": [{"path": "x.py"}]}\n{"content": "a", "id": 1, "id": 2}\n')
    assert [getattr(text, "reason", text) for text in read_texts(path, "content", conversations=False)][1:] == [b"a"]
    found = [getattr(text, "reason", text) for text in read_texts(path, "content", conversations=True)]
    assert found == [b'[{"path": "x.py"}]', "a key stands twice in an object"]


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


def link_to_nothing(folder):
    (folder / "part-1.jsonl").symlink_to(folder / "gone")


def pipe(folder):
    os.mkfifo(folder / "part-1.jsonl")


def subfolder(folder):
    (folder / "part-1").mkdir()


@pytest.mark.parametrize(
    "put, message",
    [(link_to_nothing, "part-1.jsonl is a link to"), (pipe, "no plain file"), (subfolder, "part-1 is a folder")],
)
def test_what_a_glob_names_and_nobody_can_read(tmp_path, put, message):
    (tmp_path / "part-0.jsonl").write_bytes(lines(["x"]))
    put(tmp_path)
    with pytest.raises(UserError, match=message):
        FileSource({"train": str(tmp_path / "part-*")}).files("train")


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jsonl").write_bytes(lines(["x"]))
    scandir, listdir = os.scandir, os.listdir

    def refused(call):
        def one(path="."):
            if str(path).endswith("/b"):
                raise PermissionError(13, "Permission denied", str(path))
            return call(path)

        return one

    monkeypatch.setattr(os, "scandir", refused(scandir))
    monkeypatch.setattr(os, "listdir", refused(listdir))
    for pattern in ("**/*.jsonl", "*/*.jsonl"):
        with pytest.raises(UserError, match="/b, which .* cannot be listed .Permission denied"):
            FileSource({"train": f"{tmp_path}/{pattern}"}).files("train")
