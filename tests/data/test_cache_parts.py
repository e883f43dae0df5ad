"""Large files in parts: every record once, checksums of all bytes, one reading, and what has changed is named."""

import collections
import hashlib
import json
import random
import shutil

import pyarrow
import pyarrow.parquet
import pytest
import seqio
from registered import gone_afterwards

from dots_jax.config import UserError
from dots_jax.data.cache import build as cache_build
from dots_jax.data.cache import token_cache
from dots_jax.data.cache.token_cache import open_stream
from dots_jax.data.sources import content, json_lines, parts
from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.sources.json_lines import Malformed
from dots_jax.data.sources.record_files import numbered_texts
from dots_jax.data.sources.text_task import add_text_task

TASK = "cache_parts"
TEXTS = [f"document {i} " + "word " * (7 * i % 50) + "你好" * (i % 3) for i in range(400)]


@pytest.fixture(autouse=True)
def tasks(monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 5000)
    with gone_afterwards():
        yield


def write(folder, kind):
    folder.mkdir(exist_ok=True)
    path = folder / f"all.{kind}"
    if kind == "parquet":
        table = pyarrow.table({"id": list(range(400)), "text": TEXTS, "url": ["u" * 50] * 400})
        pyarrow.parquet.write_table(table, path, row_group_size=30)
    else:
        path.write_text("".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in TEXTS), encoding="utf-8")
    add_text_task(TASK, FileSource({"train": str(folder / "*")}))
    return path


def texts_of(cache_dir):
    stream = open_stream(TASK, "train", cache_dir)
    tokens, ends = stream.window(0, stream.num_tokens)
    starts = [0, *(ends[:-1] + 1)]
    return [bytes((tokens[a:b] - 3).tolist()).decode() for a, b in zip(starts, ends)], stream.manifest


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_every_record_once(tmp_path, kind, monkeypatch):
    path = write(tmp_path / "in", kind)
    texts, manifest = texts_of(tmp_path / "c")
    assert sorted(texts) == sorted(TEXTS)
    (row,) = manifest.sources
    assert manifest.format == 4 and len(row["spans"]) >= 3 and row["documents"] == 400
    assert [begin for begin, _ in row["spans"]] == [0, *(end for _, end in row["spans"][:-1])]
    assert row["spans"][-1][1] == row["size"] == path.stat().st_size
    data = path.read_bytes()
    digests = [hashlib.sha256(data[begin:end]).hexdigest() for begin, end in row["spans"]]
    assert row["sha256"] == hashlib.sha256("".join(digests).encode()).hexdigest()
    # The order depends on the content and the place of the cuts alone.
    monkeypatch.setattr(cache_build, "RUN_TOKENS", 300)
    assert texts_of(tmp_path / "d")[0] == texts
    monkeypatch.setattr(parts, "PART_BYTES", 1 << 30)
    texts, manifest = texts_of(tmp_path / "one")
    assert manifest.format == 3 and sorted(texts) == sorted(TEXTS)


def test_lines_belong_to_the_part_in_which_they_begin(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = ['{"text": "a"}', "", '{"text": "' + "long " * 40 + '"}', "{", '{"text": "你"}', '{"text": "last"}']
    path.write_text("\n".join(rows), encoding="utf-8")
    size = path.stat().st_size
    complete = [text for _, text in numbered_texts(path, "text", conversations=False)]
    for seed in range(200):
        cuts = sorted(random.Random(seed).sample(range(1, size), seed % 6))
        spans, digest = list(zip([0, *cuts], [*cuts, size])), hashlib.sha256()
        found = [
            text
            for span in spans
            for _, text in numbered_texts(path, "text", digest=digest, span=span, conversations=False)
        ]
        plain = lambda texts: [t._replace(number=0) if isinstance(t, Malformed) else t for t in texts]
        assert plain(found) == plain(complete), cuts
        assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_bytes_are_read_once(tmp_path, kind, monkeypatch):
    path = write(tmp_path / "in", kind)
    read = collections.Counter()

    def counted(name):
        file = open(name, "rb")

        class Counting:
            seek, close, __enter__ = file.seek, file.close, lambda self: self

            def __exit__(self, *_):
                file.close()

            def read(self, size=-1):
                begin = file.tell()
                data = file.read(size)
                read.update(range(begin, begin + len(data)))
                return data

        return Counting()

    monkeypatch.setattr(json_lines, "_BLOCK", 64)
    plan = [piece.span for piece in documents_pieces()]
    monkeypatch.setattr("dots_jax.data.sources.json_lines.open_joined", counted)
    for span in plan:
        list(numbered_texts(path, "text", digest=hashlib.sha256(), span=span, conversations=False))
    # The first bytes behind a cut complete a line that began before it.
    assert set(read) == set(range(path.stat().st_size))
    many = sum(1 for times in read.values() if times > 1)
    assert many == 0 if kind == "parquet" else many < 400 * len(plan)


def documents_pieces():
    from dots_jax.data.sources.documents import pieces_of

    return pieces_of(seqio.TaskRegistry.get(TASK), "train")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_byte_that_changes_is_found(tmp_path, kind):
    path = write(tmp_path / "in", kind)
    open_stream(TASK, "train", tmp_path / "c")
    directory = token_cache.cache_directory(seqio.TaskRegistry.get(TASK), "train", tmp_path / "c")
    directory.with_name(".train.checked.json").unlink()
    task = seqio.TaskRegistry.get(TASK)
    token_cache.check_cache(task, "train", directory, thorough=True)
    data = bytearray(path.read_bytes())
    place = data.rfind(b"document 390") if kind == "jsonl" else len(data) // 2
    data[place + 9] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"all.{kind} was changed"):
        token_cache.check_cache(task, "train", directory, thorough=True)
    shutil.rmtree(directory)


def test_only_parts_that_are_missing_are_read_again(tmp_path, monkeypatch):
    path = write(tmp_path / "in", "jsonl")
    with monkeypatch.context() as m, pytest.raises(TypeError):
        m.setattr(cache_build, "finish", None)
        open_stream(TASK, "train", tmp_path / "c")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"document 390", b"document 3X0"))
    made, tokenise = [], cache_build.tokenise
    monkeypatch.setattr(cache_build, "tokenise", lambda b, i, **k: (made.append(i), tokenise(b, i, **k)))
    # A part is compared by its own checksum: the others stay.
    assert any("3X0" in text for text in texts_of(tmp_path / "c")[0])
    assert len(made) == 1


def test_a_malformed_line_far_inside_is_named(tmp_path):
    path = write(tmp_path / "in", "jsonl")
    path.write_bytes(path.read_bytes() + b"{\n")
    with pytest.raises(UserError, match=r"the first of these in all.jsonl is line \d+ from byte [\d,]+ on"):
        task = seqio.TaskRegistry.get(TASK)
        token_cache.make_cache(task, "train", tmp_path / "c", token_cache.one_after_the_other, max_malformed=0)


def test_a_file_that_changes_between_two_of_its_parts(tmp_path, monkeypatch):
    path = write(tmp_path / "in", "jsonl")
    monkeypatch.setattr(content, "_RECENT_SECONDS", -1)
    tokenise = cache_build.tokenise

    def then_touched(building, index, **arguments):
        tokenise(building, index, **arguments)
        if index == 2:
            path.touch()

    monkeypatch.setattr(cache_build, "tokenise", then_touched)
    with pytest.raises(UserError, match="all.jsonl changed while it was read"):
        open_stream(TASK, "train", tmp_path / "c")
