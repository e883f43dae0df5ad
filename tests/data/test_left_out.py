"""Exclude lists, the split that is held out by hash, and records that are read several times."""

import dataclasses
import gzip
import hashlib
import json

import pyarrow
import pyarrow.parquet
import pytest

from dots_jax.config import DataConfig, Source, UserError
from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.sources.json_lines import Malformed
from dots_jax.data.sources.record_files import numbered_texts
from dots_jax.data.sources.record_text import LeftOut

ROWS = [
    {"text": f"text {i}", "url": f"https://{i}.org/", "meta": {"id": i}, "copies": i % 4} for i in range(400)
]  # fmt: skip


@pytest.fixture(params=["jsonl", "parquet"])
def corpus(request, tmp_path):
    path = tmp_path / f"a.{request.param}"
    if request.param == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=77)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def source(corpus, **settings):
    one = Source(name="any", files=(("train", f"{corpus}/a.*"),), **settings)
    return FileSource(one.file_sets())


def found_in(one, split="train"):
    (file,) = one.files(split)
    rule = one.file_set(split, file.name).rule
    texts = [text for _, text in numbered_texts(file.path, rule, conversations=False)]
    left_out = [text.reason for text in texts if isinstance(text, (LeftOut, Malformed))]
    return [text.decode() for text in texts if isinstance(text, bytes)], left_out


def test_lists_of_urls_ids_and_hashes(corpus):
    (corpus / "urls.txt").write_text("https://3.org/\r\n\nhttps://5.org/\nhttps://nowhere.org/")
    (corpus / "ids.txt.gz").write_bytes(gzip.compress(b"7\n8\n"))
    (corpus / "hashes.txt").write_text(hashlib.sha256(b"text 11").hexdigest() + "\n")
    lists = (("url", f"{corpus}/urls.txt"), ("meta.id", f"{corpus}/ids.*"), ("sha256(text)", f"{corpus}/hashes.txt"))
    texts, left_out = found_in(source(corpus, exclude=lists))
    assert texts == [row["text"] for row in ROWS if row["meta"]["id"] not in (3, 5, 7, 8, 11)]
    assert left_out == [f"exclude by {one}" for one in ("url", "url", "meta.id", "meta.id", "sha256(text)")]


def test_another_list_makes_another_cache(corpus):
    path = corpus / "urls.txt"
    one = source(corpus, exclude=(("url", str(path)),))
    identities = set()
    for text in ("a\n", "b\n"):
        path.write_text(text)
        identities.add(one.split_identity("train"))
    assert len(identities) == 2
    path.unlink()
    with pytest.raises(UserError, match="No file matches .*urls.txt', where Source.exclude says that a list is"):
        one.split_identity("train")


def test_a_field_that_a_list_asks_for_and_no_record_has(corpus):
    (corpus / "urls.txt").write_text("a\n")
    texts, left_out = found_in(source(corpus, exclude=(("link", f"{corpus}/urls.txt"),)))
    assert not texts and set(left_out) == {"no field 'link'"}


def test_the_split_that_is_held_out(corpus):
    one = source(corpus, held_out=0.1)
    (train, counts), (held, _) = (found_in(one, split) for split in ("train", "validation"))
    assert sorted(train + held) == sorted(row["text"] for row in ROWS) and 20 < len(held) < 60
    assert counts == ["held_out: of validation"] * len(held)
    more, _ = found_in(source(corpus, held_out=0.2), "validation")
    assert set(held) < set(more)
    assert one.split_identity("train") != one.split_identity("validation")


def test_copies_of_a_text_fall_on_one_side(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    one = FileSource(Source(name="any", files=(("train", f"{tmp_path}/*"),), held_out=0.3).file_sets())
    train, held = (
        [text for file in one.files(split) for text in one.texts(file, split)] for split in ("train", "validation")
    )
    assert len(train) + len(held) == 800 and not set(train) & set(held)


def test_records_that_are_read_several_times(corpus):
    texts, left_out = found_in(source(corpus, repeat_field="copies"))
    assert [texts.count(f"text {i}") for i in range(8)] == [0, 1, 2, 3] * 2
    assert left_out == ["repeat_field copies"] * 100
    texts, _ = found_in(source(corpus, repeat_field="copies", repeat_steps=((0, 1), (2, 5))))
    assert [texts.count(f"text {i}") for i in range(4)] == [1, 1, 5, 5]
    _, left_out = found_in(source(corpus, repeat_field="url"))
    assert set(left_out) == {"field 'url' is no count"}
    _, left_out = found_in(source(corpus, repeat_field="count"))
    assert set(left_out) == {"no field 'count'"}


@pytest.mark.parametrize("settings, message", [
    ({"held_out": 1.5}, "held_out must be a share"),
    ({"held_out": 0.1, "files": (("train", "a"), ("validation", "b"))}, "held_out makes the split validation out of train"),
    ({"repeat_steps": ((1, 1),)}, "repeat_steps need repeat_field"),
    ({"repeat_field": "n", "repeat_steps": ((2, 1), (1, 1))}, "with rising `from`"),
])  # fmt: skip
def test_mistakes(settings, message):
    with pytest.raises(UserError, match=message):
        Source(**{"name": "any", "files": (("train", "a/*"),)} | settings)


def test_lists_lie_under_the_corpora_too():
    one = Source(name="a", files=(("train", "x"),), exclude=(("url", "lists/*"),))
    (placed,) = DataConfig(sources=(one,), corpora="gs://b").sources
    assert placed == dataclasses.replace(one, files=(("train", "gs://b/x"),), exclude=(("url", "gs://b/lists/*"),))
