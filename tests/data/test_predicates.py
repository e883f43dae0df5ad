"""Predicates on the records of files: the same in every format, pushed down to Parquet, counted in the manifest."""

import json

import pyarrow
import pyarrow.parquet
import pytest
import seqio
import tensorflow as tf

from dots_jax.cli.main import main
from dots_jax.config import Source, UserError
from dots_jax.config.records import RecordRule, parse_predicate
from dots_jax.data.cache.token_cache import cache_directory
from dots_jax.data.sources.json_lines import Malformed
from dots_jax.data.sources.record_files import numbered_texts, read_texts
from dots_jax.data.sources.record_text import LeftOut

ROWS = [
    {
        "text": f"text {i}", "score": i / 10, "dump": f"CC-MAIN-20{i % 4}", "clean": i % 3 == 0,
        "quality": {"level": i % 5, "tags": ["a"]}, "licence": ("permissive", "none", None)[i % 3],
    }
    for i in range(60)
]  # fmt: skip


def write(path, rows):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=10)
    elif path.suffix == ".tfrecord":
        with tf.io.TFRecordWriter(str(path)) as writer:
            for row in rows:
                text, number = (
                    tf.train.BytesList(value=[row["text"].encode()]),
                    tf.train.FloatList(value=[row["score"]]),
                )
                features = {"text": tf.train.Feature(bytes_list=text), "score": tf.train.Feature(float_list=number)}
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rule(*filters, **more):
    return RecordRule(filters=tuple(parse_predicate("filters", one) for one in filters), **more)


CASES = {
    "score >= 3": lambda row: row["score"] >= 3,
    "score<3.05": lambda row: row["score"] < 3.05,
    "quality.level in (1, 4)": lambda row: row["quality"]["level"] in (1, 4),
    "licence in ('permissive', 'other')": lambda row: row["licence"] == "permissive",
    "licence not in ('none',)": lambda row: row["licence"] == "permissive",  # null compares with nothing
    "licence != 'none'": lambda row: row["licence"] == "permissive",
    "dump startswith 'CC-MAIN-203'": lambda row: row["dump"].endswith("3"),
    "dump not startswith 'CC-MAIN-203'": lambda row: not row["dump"].endswith("3"),
    "dump > 'CC-MAIN-201'": lambda row: row["dump"] > "CC-MAIN-201",
    "clean == True": lambda row: row["clean"],
    "score == 0.5": lambda row: row["score"] == 0.5,
    "score > 99": lambda row: False,
}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("predicate", CASES)
def test_what_a_predicate_takes(tmp_path, predicate, ending):
    write(tmp_path / f"a.{ending}", ROWS)
    found = list(numbered_texts(tmp_path / f"a.{ending}", rule(predicate), conversations=False))
    taken = [row["text"] for row in ROWS if CASES[predicate](row)]
    assert [text.decode() for _, text in found if isinstance(text, bytes)] == taken
    assert [number for number, text in found if isinstance(text, bytes)] == [
        i for i, row in enumerate(ROWS, start=1) if CASES[predicate](row)
    ]
    left_out = [one for _, one in found if isinstance(one, LeftOut)]
    assert {one.reason for one in left_out} <= {predicate} and sum(one.records for one in left_out) == 60 - len(taken)


def test_predicates_on_examples(tmp_path):
    write(tmp_path / "a.tfrecord", ROWS)
    assert len(list(read_texts(tmp_path / "a.tfrecord", rule("score >= 3"), conversations=False))) == 30
    (first, *_) = read_texts(tmp_path / "a.tfrecord", rule("other >= 3"), conversations=False)
    assert first.reason == "no field 'other'"


def test_row_groups_that_the_statistics_exclude_are_not_read(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet", ROWS)
    groups, original = [], pyarrow.parquet.ParquetFile.iter_batches

    def noted(file, *arguments, row_groups, **more):
        groups.extend(row_groups)
        return original(file, *arguments, row_groups=row_groups, **more)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", noted)
    taken = list(numbered_texts(tmp_path / "a.parquet", rule("score >= 4.5"), conversations=False))
    assert groups == [4, 5] and len([text for _, text in taken if isinstance(text, bytes)]) == 15
    assert [(number, one.records) for number, one in taken if isinstance(one, LeftOut)][:5] == [
        (1, 10), (11, 10), (21, 10), (31, 10), (41, 1)
    ]  # fmt: skip


def test_a_record_counts_for_the_first_predicate_that_refuses_it(tmp_path):
    write(tmp_path / "a.jsonl", ROWS)
    found = list(numbered_texts(tmp_path / "a.jsonl", rule("score >= 3", "quality.level >= 2"), conversations=False))
    counts = [one.reason for _, one in found if isinstance(one, LeftOut)]
    assert (counts.count("score >= 3"), counts.count("quality.level >= 2")) == (30, 12)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_characters_are_counted_and_not_bytes(tmp_path, ending):
    write(tmp_path / f"a.{ending}", [{"text": text} for text in ("你好", "你好世界", "你好世界你好世界", "")])
    limits = rule(min_characters=2, max_characters=4)
    found = [
        getattr(text, "reason", text)
        for _, text in numbered_texts(tmp_path / f"a.{ending}", limits, conversations=False)
    ]
    assert found == ["你好".encode(), "你好世界".encode(), "characters <= 4", "characters >= 2"]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_predicates_on_the_objects_of_a_list_take_objects(tmp_path, ending):
    rows = [
        {"files": [{"path": name, "licence": name[0]} for name in names]}
        for names in (["a1", "b1"], ["b2"], ["a2", "a3"])
    ]
    write(tmp_path / f"a.{ending}", rows)
    one = rule("files.licence in ('a', 'c')", each="files", template="{path}", join=" ")
    found = [
        getattr(text, "reason", text) for _, text in numbered_texts(tmp_path / f"a.{ending}", one, conversations=False)
    ]
    assert found == [b"a1", "files.licence in ('a', 'c')", b"a2 a3"]


def test_what_a_record_cannot_be_compared_by_is_malformed(tmp_path):
    write(tmp_path / "a.jsonl", [{"text": "a", "score": "3"}, {"text": "b"}, {"text": "c", "score": None}])
    found = [text for _, text in numbered_texts(tmp_path / "a.jsonl", rule("score >= 3"), conversations=False)]
    assert [type(one) for one in found] == [Malformed, Malformed, LeftOut]
    assert [one.reason for one in found] == ["field 'score' is no number", "no field 'score'", "score >= 3"]


@pytest.mark.parametrize("predicate, message", [
    ("scor >= 3", "a.parquet has no column 'scor', which the filter `scor >= 3` compares: it has text, score,"),
    ("dump >= 3", "compares a number, but the column 'dump' holds a string: compare with a string"),
    ("quality.level == 'x'", "compares a string, but the column 'quality.level' holds a number"),
    ("clean >= 1", "compares a number, but the column 'clean' holds a bool"),
])  # fmt: skip
def test_a_parquet_file_says_at_once_what_cannot_be_compared(tmp_path, predicate, message):
    write(tmp_path / "a.parquet", ROWS)
    with pytest.raises(UserError, match=message):
        next(read_texts(tmp_path / "a.parquet", rule(predicate), conversations=False))


@pytest.mark.parametrize("predicate, message", [
    ("score", "'score' is no predicate"),
    ("score >= ", "is no predicate"),
    ("score >= x", "x is no value: write a number, or a string in quotes"),
    ("score >= __import__('os').getcwd()", "is no value"),
    ("score >= True", "`>=` cannot compare True: it takes numbers or strings"),
    ("score == None", "`==` cannot compare None"),
    ("score in 3", "`in` needs values in brackets"),
    ("score in (3, 'a')", "of one kind"),
    ("score in ()", "cannot compare"),
    ("score startswith 3", "`startswith` cannot compare 3: it takes strings"),
    ("score >= (1, 2)", "cannot compare"),
])  # fmt: skip
def test_a_predicate_that_cannot_be_one(predicate, message):
    with pytest.raises(UserError, match=f"Source 'any': filters: .*{message}"):
        Source(name="any", files=(("train", "a/*"),), filters=(predicate,))


def cache(tmp_path, *filters, expected=0, more=()):
    lines = (
        "CacheConfig.tasks = ('filtered',)", "CacheConfig.data = @DataConfig()", "DataConfig.sources = (@Source(),)",
        f"DataConfig.cache_dir = '{tmp_path}/cache'", "Source.name = 'filtered'",
        f"Source.files = (('train', '{tmp_path}/*.parquet'), ('train', '{tmp_path}/*.jsonl'))",
        f"Source.filters = {filters!r}", f"Source.documents = {expected}", *more,
    )  # fmt: skip
    return main(["cache", "--gin_file=/dev/null", *(f"--gin_bindings={line}" for line in lines)])


@pytest.fixture
def files(tmp_path):
    for ending in ("parquet", "jsonl"):
        write(tmp_path / f"a.{ending}", ROWS)
    yield tmp_path
    if "filtered" in seqio.TaskRegistry.names():
        from dots_jax.data import mixtures

        seqio.TaskRegistry.remove("filtered")
        mixtures._OURS.pop("filtered", None)


def test_counts_in_the_manifest(files, capsys):
    assert cache(files, "score >= 3", "quality.level >= 2", expected=120) == 0
    directory = cache_directory(seqio.TaskRegistry.get("filtered"), "train", files / "cache")
    manifest = json.loads((directory / "manifest.json").read_text())
    assert (manifest["documents"], manifest["left_out"]) == (36, {"quality.level >= 2": 24, "score >= 3": 60})
    assert [row["left_out"]["score >= 3"] for row in manifest["sources"]] == [30, 30]
    assert manifest["malformed"] == {}
    assert "  60 left out by score >= 3\n" in capsys.readouterr().out


def test_tokens_are_counted_without_the_end(files):
    assert cache(files, more=("Source.min_tokens = 7", "Source.max_tokens = 7")) == 0  # bytes: text 10 ... text 59
    directory = cache_directory(seqio.TaskRegistry.get("filtered"), "train", files / "cache")
    manifest = json.loads((directory / "manifest.json").read_text())
    assert (manifest["documents"], manifest["left_out"]) == (100, {"tokens >= 7": 20})


def test_nothing_is_left(files, capsys):
    assert cache(files, "score >= 99") == 2
    assert (
        "the settings of its source leave out all 120 usable records of split 'train' (120 times score >= 99): loosen them."
        in capsys.readouterr().err
    )


def test_a_field_that_no_record_has_is_said_before_anything_is_read(files, capsys):
    (files / "a.parquet").unlink()
    write(files / "b.parquet", [{"text": "a", "score": 1.0}])
    assert cache(files, "scor >= 3") == 2
    assert "no column 'scor', which the filter" in capsys.readouterr().err
