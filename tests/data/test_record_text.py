"""From records to texts: several globs, every ending, paths, lists, templates; and what is refused instead of guessed."""

import gzip
import json
import lzma
import time

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from dots_jax.config import Source, UserError
from dots_jax.config.records import RecordRule
from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.sources.json_lines import DamagedFile, Malformed
from dots_jax.data.sources.record_files import check_beginning, read_texts

ROWS = [{"text": f"text {i} 你好", "n": i} for i in range(9)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
TEXTS = [row["text"] for row in ROWS]


def source(*files, **settings):
    one = Source(name="any", files=files, **settings)
    return FileSource(one.file_sets(), one.field)


def found_in(one):
    texts = (text for file in one.files("train") for text in one.texts(file))
    return [text.reason if isinstance(text, Malformed) else text.decode() for text in texts]


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_split_of_several_globs(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name / "1.jsonl", [{"text": name}])
    one = source(("train", f"{tmp_path}/a/*"), ("train", f"{tmp_path}/b/*"), ("validation", f"{tmp_path}/b/*"))
    assert found_in(one) == ["a", "b"]
    assert [file.name for file in one.files("train")] == ["a/1.jsonl", "b/1.jsonl"]
    assert [one.path_of("train", file.name) for file in one.files("train")] == [
        str(tmp_path / name) for name in ("a/1.jsonl", "b/1.jsonl")
    ]
    assert [file.name for file in one.files("validation")] == ["1.jsonl"]
    assert one.split_identity("train") != source(("train", f"{tmp_path}/a/*")).split_identity("train")


def test_another_column_and_language_for_a_glob(tmp_path):
    write(tmp_path / "a" / "1.jsonl", [{"text": "a"}])
    write(tmp_path / "b" / "1.parquet", [{"content": "b", "title": "t"}])
    write(tmp_path / "c" / "1.parquet", [{"content": "c", "title": "t"}])
    one = source(
        ("train", f"{tmp_path}/a/*"),
        ("train", f"{tmp_path}/b/*", ("field", "content"), ("language", "zh")),
        ("train", f"{tmp_path}/c/*", ("template", "{title}: {content}")),
        language="en",
    )
    assert found_in(one) == ["a", "b", "t: c"]
    assert [one.file_set("train", file.name).language for file in one.files("train")] == ["en", "zh", "en"]


def test_globs_that_overlap_or_match_nothing(tmp_path):
    write(tmp_path / "a" / "1.jsonl", ROWS)
    with pytest.raises(
        UserError, match=r"a/1.jsonl matches both .*/a/\*' and .*/\*/1.jsonl' of split 'train': .*twice"
    ):
        source(("train", f"{tmp_path}/a/*"), ("train", f"{tmp_path}/*/1.jsonl")).files("train")
    with pytest.raises(UserError, match=r"No file matches .*/b/\*', where split 'train' should be"):
        source(("train", f"{tmp_path}/a/*"), ("train", f"{tmp_path}/b/*")).files("train")


def test_many_files_are_listed_at_once(tmp_path):
    for i in range(2000):
        (tmp_path / f"{i:05}.jsonl").touch()
    begin = time.process_time()
    assert len(source(("train", f"{tmp_path}/*.jsonl")).files("train")) == 2000
    assert time.process_time() - begin < 2  # a tenth is usual; what grows with the square would take longer


COMPRESSIONS = {
    "": bytes, ".gz": gzip.compress, ".zst": zstandard.compress, ".zstd": zstandard.compress, ".xz": lzma.compress,
}  # fmt: skip
ARRAY = json.dumps(ROWS, indent=1).encode()


@pytest.mark.parametrize("ending", COMPRESSIONS)
@pytest.mark.parametrize(
    "stem, data", [("jsonl", LINES), ("json", LINES), ("json", ARRAY), ("json", b"\xef\xbb\xbf\n" + ARRAY)]
)
def test_endings(tmp_path, stem, data, ending):
    (tmp_path / f"a.{stem}{ending}").write_bytes(COMPRESSIONS[ending](data))
    assert found_in(source(("train", f"{tmp_path}/*"))) == TEXTS


def test_streams_of_xz_and_their_padding(tmp_path):
    half = len(LINES) // 2
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(LINES[:half]) + b"\0" * 400_000 + lzma.compress(LINES[half:]))
    assert found_in(source(("train", f"{tmp_path}/*"))) == TEXTS


def test_a_file_in_parts(tmp_path):
    data = gzip.compress(LINES * 50)
    for number, at in enumerate(range(0, len(data), 40)):
        (tmp_path / f"zh.jsonl.gz.part{number:02}").write_bytes(data[at : at + 40])
    one = source(("train", f"{tmp_path}/*.gz.part*"))
    (file,) = one.files("train")
    assert (file.name, file.size) == ("zh.jsonl.gz.part00", len(data)) and found_in(one) == TEXTS * 50
    check_beginning(file.path)
    (tmp_path / f"zh.jsonl.gz.part{number:02}").unlink()
    with pytest.raises(DamagedFile, match="ends inside a gzip member"):
        found_in(one)
    (tmp_path / "zh.jsonl.gz.part01").unlink()
    with pytest.raises(UserError, match="zh.jsonl.gz is cut into parts, of which .* are there, and part 1 is missing"):
        one.files("train")


def test_an_array_is_read_piece_by_piece(tmp_path):
    path = tmp_path / "a.json"
    rows = [{"text": "x" * (1 if i % 100 else 700_000)} for i in range(500)]
    path.write_text(json.dumps(rows))
    assert [len(text) for text in read_texts(path, "text", conversations=False)] == [len(row["text"]) for row in rows]
    path.write_text("[]")
    assert list(read_texts(path, "text", conversations=False)) == []
    path.write_text('["a", 7, {"text": "b"}]')
    found = [getattr(text, "reason", text) for text in read_texts(path, "text", conversations=False)]
    assert found == ["no JSON object"] * 2 + [b"b"]


@pytest.mark.parametrize("data, message", [
    (b'[{"text": "a"}', "ends behind record 1 without a bracket"),
    (b'[{"text": "a"}, {"text": "b', "record 2 of its array is no JSON or breaks off"),
    (b'[{"text": "a"} {"text": "b"}]', "behind record 1 of its array stands no comma"),
    (b'[{"text": "a"}, {"text": "\xff"}]', "it is not UTF-8"),
])  # fmt: skip
def test_an_array_that_breaks_off(tmp_path, data, message):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(DamagedFile, match=message):
        list(read_texts(tmp_path / "a.json", "text", conversations=False))


# --- records ----------------------------------------------------------------------------------------------------------

REPOSITORY = {
    "repo": "a/b", "meta": {"text": "inside", "year": 1907}, "pages": ["one", "two"], "title": "Title", "body": "Body",
    "files": [
        {"file_path": "x.py", "content": "x = 1", "license_type": "permissive"},
        {"file_path": "y.py", "content": "y = {}", "license_type": "none"},
    ],
}  # fmt: skip
RULES = {
    "a path": ({"field": "meta.text"}, "inside"),
    "a list of strings": ({"field": "pages", "join": "\n\n"}, "one\n\ntwo"),
    "several columns": ({"template": "# {title}\n\n{body}"}, "# Title\n\nBody"),
    "braces and a number": ({"template": "{{{meta.year}}} {pages}", "join": ", "}, "{1907} one, two"),
    "a list of objects": (
        {"each": "files", "template": "# File: {file_path}\n{content}", "join": "\n\n"},
        "# File: x.py\nx = 1\n\n# File: y.py\ny = {}",
    ),
}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("case", RULES)
def test_a_text_of_a_record(tmp_path, case, ending):
    settings, expected = RULES[case]
    write(tmp_path / f"a.{ending}", [REPOSITORY, REPOSITORY])
    assert found_in(source(("train", f"{tmp_path}/*"), **settings)) == [expected] * 2


MALFORMED = {
    "objects are no text": ({"field": "files"}, "field 'files' is a list of objects and no text"),
    "a list that nothing joins": ({"field": "pages"}, "field 'pages' is no text"),
    "a field that is not there": ({"template": "{title} {subtitle}"}, "no field '{}subtitle'"),
    "no list of objects": ({"each": "pages", "template": "{x}", "join": ""}, "field 'pages' is no list of objects"),
    "an object's field": ({"each": "files", "template": "{path}", "join": ""}, "no field 'files.path'"),
}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_no_text_is_never_guessed(tmp_path, case, ending):
    settings, reason = MALFORMED[case]
    write(tmp_path / f"a.{ending}", [REPOSITORY])
    (found,) = found_in(source(("train", f"{tmp_path}/*"), **settings))
    assert found == reason.replace("{}", "") or (ending == "parquet" and found.startswith("no field"))


def test_only_the_columns_that_are_needed_are_read(tmp_path, monkeypatch):
    from dots_jax.data.sources import parquet_rows

    write(tmp_path / "a.parquet", [REPOSITORY])
    asked, original = [], pyarrow.parquet.ParquetFile.iter_batches

    def noted(file, *arguments, columns, **more):
        asked.append(columns)
        return original(file, *arguments, columns=columns, **more)

    monkeypatch.setattr(parquet_rows.pyarrow.parquet.ParquetFile, "iter_batches", noted)
    rule = RecordRule(each="files", template="{content}", join="")
    assert list(read_texts(tmp_path / "a.parquet", rule, conversations=False)) == [b"x = 1y = {}"]
    assert len(asked) == 1 and [column.split(".")[-1] for column in asked[0]] == ["content"]


@pytest.mark.parametrize("settings, message", [
    ({"template": "no field"}, "template: 'no field' is no|names no field"),
    ({"template": "{a"}, "is no template .*expected '}'"),
    ({"template": "{a:>3}"}, "takes no format"),
    ({"template": "{} x"}, "names no field"),
    ({"template": "{a}", "field": "b"}, "set field or template"),
    ({"each": "files"}, "each = 'files' needs a template .* and join"),
    ({"template": "{a}", "each": "files"}, "each = 'files' needs a template .* and join"),
    ({"template": "{a}", "kind": "conversation"}, "are for kind 'text'"),
    ({"files": (("train",),)}, r"an entry of files must be \(split, glob\)"),
    ({"files": (("train", "a", ("kind", "x")),)}, "cannot set 'kind' for its glob"),
    ({"files": (), "tfds": "wiki/a:1.0.0", "template": "{a}"}, "are for files"),
])  # fmt: skip
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(UserError, match=f"Source 'any': .*{message}"):
        Source(**{"name": "any", "files": (("train", "a/*"),)} | settings)
