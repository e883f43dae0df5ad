"""Files that are odd and right: what other programs write, and what each record of theirs becomes."""

import gzip
import json
import random

import pyarrow
import pyarrow.parquet
import pytest
import tensorflow as tf
import zstandard
from array_record.python import array_record_module

from dots_jax.data.sources.json_lines import DamagedFile, Malformed, read_rows
from dots_jax.data.sources.record_files import read_texts

A, B = b'{"text": "a"}', b'{"text": "b"}'
BOM = b"\xef\xbb\xbf"
NOT_JSON, NOT_UTF8, NO_TEXT = "not JSON", "not UTF-8", "field 'text' is no text"
LONG_NUMBER = b'{"text": "a", "n": ' + b"9" * 5000 + b"}"

JSON_LINES = {
    "a byte order mark": (BOM + A + b"\n" + B + b"\n", ["a", "b"]),
    "a byte order mark in the middle": (A + b"\n" + BOM + B + b"\n", ["a", "b"]),
    "CR LF": (A + b"\r\n" + B + b"\r\n", ["a", "b"]),
    "no end of the last line": (A + b"\n" + B, ["a", "b"]),
    "blank lines": (b"\n \n" + A + b"\n\t\n\r\n" + B + b"\n\n\n", ["a", "b"]),
    "nothing": (b"", []),
    "blanks alone": (b"\n \r\n", []),
    "blanks around": (b"  " + A + b" \t\n", ["a"]),
    "NaN": (b'{"text": "a", "score": NaN}\n', ["a"]),
    "infinity": (b'{"text": "a", "score": -Infinity}\n', ["a"]),
    "the same key twice": (b'{"text": "x", "text": "a"}\n', ["a"]),
    "a number too long": (LONG_NUMBER + b"\n" + B + b"\n", ["JSON with a number or a nesting too long", "b"]),
    "a number too long at the end": (LONG_NUMBER, ["JSON with a number or a nesting too long"]),
    "a nesting too deep": (
        b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n" + B,
        ["JSON with a number or a nesting too long", "b"],
    ),
    "NUL in a text": (b'{"text": "a\\u0000b"}\n', ["a\0b"]),
    "NUL in a line": (A[:-1] + b"\0}\n" + B + b"\n", [NOT_JSON, "b"]),
    "half a surrogate pair": (b'{"text": "\\ud83d"}\n' + B + b"\n", [NOT_UTF8, "b"]),
    "a surrogate pair": (b'{"text": "\\ud83e\\udd8a"}\n', ["\N{FOX FACE}"]),
    "Latin-1": ('{"text": "é"}\n'.encode("latin-1") + B + b"\n", [NOT_UTF8, "b"]),
    "U+2028": ('{"text": "a\u2028\u0085b"}\n'.encode(), ["a\u2028\u0085b"]),
    "an empty text": (b'{"text": ""}\n', [""]),
    "a number": (b'{"text": 7}\n', [NO_TEXT]),
    "null": (b'{"text": null}\n', ["no field 'text'"]),
    "no object": (b'["text"]\n"text"\n7\n', ["no JSON object"] * 3),
    "an object": (b'{"text": {"de": "a"}}\n', [NO_TEXT]),
    "two objects in a line": (A + B + b"\n" + B + b"\n", [NOT_JSON, "b"]),
    "a list of texts": (b'{"text": ["a", "b"]}\n', [NO_TEXT]),
}


def found_in(path, field="text"):
    return [
        one.reason if isinstance(one, Malformed) else one.decode()
        for one in read_texts(path, field, conversations=False)
    ]


@pytest.mark.parametrize("case", JSON_LINES)
def test_json_lines(tmp_path, case):
    data, expected = JSON_LINES[case]
    for ending, form in (("", bytes), (".gz", gzip.compress), (".zst", zstandard.compress)):
        path = tmp_path / f"a.jsonl{ending}"
        path.write_bytes(form(data))
        assert found_in(path) == expected


TWO = A + b"\n" + B + b"\n"
COMPRESSED = {
    "members": ("gz", gzip.compress(A + b"\n") + gzip.compress(B + b"\n")),
    "a line in two members": ("gz", gzip.compress(A[:5]) + gzip.compress(A[5:] + b"\n" + B)),
    "an empty member": ("gz", gzip.compress(b"") + gzip.compress(TWO) + gzip.compress(b"")),
    "padding": ("gz", gzip.compress(TWO) + b"\0" * 700_000),
    "padding between members": ("gz", gzip.compress(A + b"\n") + b"\0" * 600_000 + gzip.compress(B + b"\n")),
    "a skippable frame": ("zst", b"\x50\x2a\x4d\x18\x04\0\0\0note" + zstandard.compress(TWO)),
    "a skippable frame at the end": ("zst", zstandard.compress(TWO) + b"\x51\x2a\x4d\x18\x04\0\0\0note"),
    "empty frames": ("zst", zstandard.compress(b"") + zstandard.compress(TWO) + zstandard.compress(b"")),
}


def long_window(data):
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return stream.compress(data) + stream.flush()


COMPRESSED["a long window"] = ("zst", long_window(TWO))


@pytest.mark.parametrize("case", COMPRESSED)
def test_compressed(tmp_path, case):
    ending, data = COMPRESSED[case]
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(data)
    assert found_in(path) == ["a", "b"]


@pytest.mark.parametrize("data", [gzip.compress(TWO) + b"junk", zstandard.compress(TWO) + b"junk"], ids=["gz", "zst"])
def test_junk_behind_is_said_after_all_that_stands_before_it(tmp_path, data):
    path = tmp_path / f"a.jsonl.{'gz' if data[:2] == gzip.compress(b'')[:2] else 'zst'}"
    path.write_bytes(data)
    found = []
    with pytest.raises(DamagedFile):
        found += read_texts(path, "text", conversations=False)
    assert found == [b"a", b"b"]


@pytest.mark.parametrize("last", [b'{"text": "b', b'{"text": "b\xe4\xbd', b'{"te', b"\0\0\0\0"])
def test_a_last_line_that_is_cut(tmp_path, last):
    path, found = tmp_path / "a.jsonl", []
    path.write_bytes(A + b"\n" + last)
    with pytest.raises(DamagedFile, match="its last line, 2, breaks off") as error:
        found += read_texts(path, "text", conversations=False)
    assert (found, error.value.lost_bytes) == ([b"a"], len(last))


def dictionary(values):
    return pyarrow.array(values).dictionary_encode()


COLUMNS = {
    "large": pyarrow.array(["a", "b"], pyarrow.large_string()),
    "dictionary": dictionary(["a", "b"]),
    "view": pyarrow.array(["a", "b"], pyarrow.string_view()),
    "binary": pyarrow.array([b"a", b"b"], pyarrow.binary()),
    "JSON": pyarrow.array(["a", "b"], pyarrow.json_()),
}
OTHER_COLUMNS = {
    "list": (pyarrow.array([["a"], ["b"]]), NO_TEXT),
    "double": (pyarrow.array([1.5, 2.5]), NO_TEXT),
    "null": (pyarrow.array([None, None], pyarrow.null()), "no field 'text'"),
}


@pytest.mark.parametrize("case", [*COLUMNS, *OTHER_COLUMNS])
def test_columns_of_parquet(tmp_path, case):
    column, reason = OTHER_COLUMNS.get(case, (COLUMNS.get(case), None))
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    assert found_in(tmp_path / "a.parquet") == ([reason] * 2 if reason else ["a", "b"])


def test_no_rows_of_parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "a.parquet")
    assert found_in(tmp_path / "a.parquet") == []


def test_no_records_at_all(tmp_path):
    array_record_module.ArrayRecordWriter(str(tmp_path / "a.array_record")).close()
    tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")).close()
    tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord.gz"), "GZIP").close()
    assert [found_in(tmp_path / f"a.{ending}") for ending in ("array_record", "tfrecord", "tfrecord.gz")] == [[]] * 3


@pytest.mark.parametrize("ending", ["array_record", "tfrecord", "tfrecord.gz", "parquet", "jsonl.gz", "jsonl.zst"])
@pytest.mark.parametrize("size", [1, 11, 40, 70_000])
def test_random_bytes(tmp_path, ending, size):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(random.Random(size).randbytes(size))
    with pytest.raises(DamagedFile, match=r"a\."):
        list(read_texts(path, "text", conversations=False))


def test_rows_for_others(tmp_path):
    """What prompts are read with: every JSON value with the number of its line."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(BOM + A + b"\r\n\n[1]\n{\n")
    rows = list(read_rows(path))
    assert rows[:2] == [(1, json.loads(A)), (3, [1])]
    assert (rows[2][0], rows[2][1].reason) == (4, NOT_JSON)
