"""Sources that cannot work: one sentence each from the command, with exit status 2, before a token is written.

test_predicates.py, test_record_text.py and test_left_out.py have the settings that are refused when they are read.
"""

import json

import pyarrow
import pyarrow.parquet
import pytest
import seqio

from dots_jax.cli.main import main
from dots_jax.data import mixtures

NAME = "bad_source"
ROWS = [{"text": f"text {i}", "title": "t", "score": float(i), "pages": ["a", "b"]} for i in range(30)]


@pytest.fixture
def corpus(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / name / "1.parquet")
        (tmp_path / name / "2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    yield tmp_path
    seqio.TaskRegistry.remove(NAME)
    mixtures._OURS.pop(NAME, None)


def sentence(corpus, capsys, made=0, **settings):
    """What the command says, which must be one sentence; "" if it works. made: caches that are there all the same."""
    settings = {"files": (("train", "a/*"),)} | settings
    lines = [
        f"CacheConfig.tasks = ('{NAME}',)", "CacheConfig.data = @DataConfig()", f"DataConfig.corpora = '{corpus}'",
        f"DataConfig.cache_dir = '{corpus}/cache'", "DataConfig.sources = (@Source(),)", f"Source.name = '{NAME}'",
        *(f"Source.{name} = {value!r}" for name, value in settings.items()),
    ]  # fmt: skip
    capsys.readouterr()
    status = main(["cache", "--gin_file=/dev/null", *(f"--gin_bindings={line}" for line in lines)])
    said = capsys.readouterr().err.strip().splitlines()
    if status == 0:
        return ""
    assert status == 2 and len(list((corpus / "cache").glob("tokens/*/*/*/manifest.json"))) == made
    return said[-1]


@pytest.mark.parametrize("settings, message", [
    ({"filters": ("scor >= 3",)}, "1.parquet has no column 'scor', which the filter `scor >= 3` compares: it has text, title,"),
    ({"filters": ("title >= 3",)}, "compares a number, but the column 'title' holds a string"),
    ({"filters": ("score >= 99",)}, "leave out all 60 usable records of split 'train' (60 times score >= 99): loosen them."),
    ({"template": "{title} {subtitle}"}, "can be used (no field 'subtitle' in 1.parquet"),
    ({"field": "pages"}, "can be used (field 'pages' is no text in 1.parquet"),
    ({"files": (("train", "a/*"), ("train", "c/*"))}, "c/*', where split 'train' should be"),
    ({"files": (("train", "a/*"), ("train", "*/1.parquet"))}, "/a/1.parquet matches both"),
    ({"files": (("train", "gs://no-such-bucket/a/*"),)}, "gs://no-such-bucket/a cannot be listed"),
    ({"exclude": (("url", "lists/*.txt"),)}, "where Source.exclude says that a list is"),
    ({"exclude": (("url", "a/2.jsonl"),)}, "can be used (no field 'url'"),
    ({"documents": 61}, "has 60 records in its split 'train', but Source.documents says 61"),
])  # fmt: skip
def test_one_sentence(corpus, capsys, settings, message, request):
    if "gs://" in str(settings):
        request.getfixturevalue("buckets")
        settings = {"files": (("train", "gs://missing/a/*"),)}
        message = message.replace("no-such-bucket", "missing")
    assert message in sentence(corpus, capsys, **settings)


def test_a_bucket_without_access(corpus, capsys, buckets):
    buckets.put("corpus/1.jsonl", b'{"text": "a"}\n')
    files = (("train", "gs://bucket/corpus/*"),)
    with buckets.denying("", "corpus/1.jsonl"):
        said = sentence(corpus, capsys, files=files)
    assert "gs://bucket/corpus/1.jsonl cannot be read" in said, said
    assert sentence(corpus, capsys, files=files) == ""


def test_another_revision_than_that_of_the_cache(corpus, capsys):
    assert sentence(corpus, capsys, hub="a/b", revision="0123abcd") == ""
    assert sentence(corpus, capsys, hub="a/b", revision="0123abcd") == ""  # again
    assert sentence(corpus, capsys) == ""  # whoever states none does not mind
    (path,) = (corpus / "cache").glob("tokens/*/*/*/manifest.json")
    manifest = json.loads(path.read_text())
    assert (manifest["revision"], manifest["documents"]) == ("0123abcd", 60)
    said = sentence(corpus, capsys, made=1, hub="a/b", revision="ffff0000")
    assert "was made of revision 0123abcd, but Source.revision of 'bad_source' is ffff0000: delete that folder" in said
