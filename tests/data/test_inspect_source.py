"""`dots inspect_source`: figures that fit what the files hold, within the error that it states."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
import tensorflow as tf
from array_record.python import array_record_module

from dots_jax.cli.main import main
from dots_jax.data.sources import json_lines
from dots_jax.data.sources.inspect import language

TEXTS = [("word " * (i % 97 + 1) if i % 4 else "你好世界" * (i % 31 + 1)) for i in range(4000)]
TOKENS = sum(len(text.encode()) for text in TEXTS)  # of the vocabulary of bytes


def write(folder, kind):
    for f in range(8):
        rows = TEXTS[f::8]
        path = folder / f"part-{f}.{kind}"
        if kind == "parquet":
            pyarrow.parquet.write_table(pyarrow.table({"body": rows}), path)
        else:
            lines = "".join(json.dumps({"body": text}, ensure_ascii=False) + "\n" for text in rows).encode()
            path.write_bytes(gzip.compress(lines) if kind.endswith("gz") else lines)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "jsonl.gz"])
def test_figures_fit_the_files(tmp_path, kind, capsys):
    write(tmp_path, kind)
    glob, report = f"--files={tmp_path}/*.{kind}", tmp_path / "figures.json"
    assert main(["inspect_source", glob, "--field=body", "--documents=2000", f"--json={report}"]) == 0
    found = json.loads(report.read_text())
    assert abs(found["tokens"] - TOKENS) < max(found["tokens_error"], 0.02 * TOKENS)
    assert found["tokens_error"] < 0.15 * TOKENS
    assert (found["rows"] == 4000) if kind == "parquet" else abs(found["rows"] - 4000) < 200
    assert found["rows_exact"] == (kind == "parquet")
    assert found["bytes_per_token"] == 1 and found["files"] == 8
    assert found["languages"] == {"Latin": 0.75, "zh": 0.25}
    out = capsys.readouterr().out
    assert f"Source.tokens        {found['tokens']:.0f}" in out and "languages by script  Latin 75.0%, zh 25.0%" in out


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_predicates_are_tried_alone_and_together(tmp_path, kind, capsys):
    rows = [{"text": "word " * 10, "score": n % 4, "language": "zh" if n % 2 else "en"} for n in range(400)]
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=50)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["inspect_source", f"--files={path}", "--documents=400", "--filter=score >= 3"]
    report = tmp_path / "figures.json"
    assert main([*words, "--filter=language == 'zh'", f"--json={report}"]) == 0
    found = json.loads(report.read_text())
    assert found["filters"] == {"score >= 3": 0.25, "language == 'zh'": 0.5, "all": 0.25} and found["sampled"] == 400
    assert found["tokens"] == pytest.approx(100 * 50, rel=0.05)
    assert "passed               25.0% score >= 3" in capsys.readouterr().out
    assert main([*words, "--filter=score >="]) == 2 and "is no predicate" in capsys.readouterr().err
    assert main(["inspect_source", f"--files={path}", "--filter=score > 9"]) == 2
    assert "None of the first records can be used" in capsys.readouterr().err
    assert main(["inspect_source", f"--files={path}", "--filter=text > 9"]) == 2


def test_malformed_records_are_counted(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": 7}\n{\n' * 20)
    assert main(["inspect_source", f"--files={tmp_path}/a.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "60 records of 1 places, 40 malformed" in out and "20 times not JSON" in out


def write_records(path, texts):
    if path.suffix == ".array_record":
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for text in texts:
            writer.write(example(text))
        writer.close()
    elif path.suffix == ".tfrecord":
        with tf.io.TFRecordWriter(str(path)) as writer:
            for text in texts:
                writer.write(example(text))
    else:
        rows = [json.dumps({"text": text}) for text in texts]
        array = path.suffix == ".json"
        path.write_text("[" + ",\n".join(rows) + "]" if array else "".join(f"{row}\n" for row in rows))


def example(text):
    value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode()]))
    return tf.train.Example(features=tf.train.Features(feature={"text": value})).SerializeToString()


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.part", "json", "tfrecord", "array_record"])
def test_a_sample_stands_for_all_of_a_file(tmp_path, ending, monkeypatch):
    monkeypatch.setattr(json_lines, "_BLOCK", 4096)
    texts = ["word " * (20 + i % 7) for i in range(3000)]
    for f in range(2):
        path = tmp_path / f"{f}.{ending.removesuffix('.part')}"
        write_records(path, texts)
        if ending.endswith("part"):
            data = path.read_bytes()
            path.with_name(f"{path.name}.part0").write_bytes(data[:70_001])
            path.with_name(f"{path.name}.part1").write_bytes(data[70_001:])
            path.unlink()
    report = tmp_path / "figures"
    assert main(["inspect_source", f"--files={tmp_path}/*.{ending}*", "--documents=100", f"--json={report}"]) == 0
    found = json.loads(report.read_text())
    assert found["sampled"] == 100 and abs(found["rows"] - 6000) < 300
    assert abs(found["tokens"] - 2 * sum(map(len, texts))) < 0.05 * found["tokens"]


def test_no_error_is_known_of_one_place(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n')
    report = tmp_path / "figures.json"
    assert main(["inspect_source", f"--files={tmp_path}/a.jsonl", f"--json={report}"]) == 0
    assert json.loads(report.read_text(), parse_constant=pytest.fail)["tokens_error"] is None
    assert "no error known" in capsys.readouterr().out


@pytest.mark.parametrize("flags, message", [((), "Missing --files"), (("--field=body",), "None of the first records")])
def test_what_is_wrong(tmp_path, capsys, flags, message):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n')
    files = [f"--files={tmp_path}/a.jsonl"] if flags else []
    assert main(["inspect_source", *files, *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, guess",
    [("漢字とかな", "ja"), ("한국어", "ko"), ("русский", "Cyrillic"), ("汉语 and", "Latin"), ("12!", "none")],
)
def test_languages_by_script(text, guess):
    assert language(text.encode()) == guess
