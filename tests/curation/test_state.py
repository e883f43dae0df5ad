"""Steps that compare documents, through `dots curate`: shards, Beam, and a crawl after another one without its text.

Claim: crawl B after crawl A, whose text is deleted, gives the corpus and the ledger of A and B in one run.
"""

import json
import random
import shutil

import pytest
from web_pages import output_bytes, rows

from dots_jax.cli.main import main
from dots_jax.curation import unit
from dots_jax.curation.record import key_of

WORDS = [f"{a}{b}" for a in "river mill stone house garden winter bread letter".split() for b in "abcdefghijklmnop"]
SETTINGS = (
    "CurateConfig.steps = ('identity', 'lines', 'minhash')", "CurateConfig.lines = @LineConfig()", "LineConfig.keep = 4",
    "CurateConfig.partitions = 3",
)  # fmt: skip


def curate(source, output, *words: str) -> int:
    settings = [f"--gin_bindings={binding}" for binding in SETTINGS]
    return main(
        ["curate", "--gin_file=gin/curate.gin", f"--input={source}", f"--output={output}", *settings, *map(str, words)]
    )


def documents(crawl: int) -> list[dict]:
    """40 texts of 6 families with copies, near-duplicates and frequent lines. Those of crawl 0 have the smaller keys, so that
    one run over both crawls prefers them as --previous does."""
    found, number = [], 0
    while len(found) < 40:
        id, number = f"{crawl}/{number}", number + 1
        if key_of(0, id) >> 63 != crawl:
            continue
        place = len(found)
        copy = place % 10 == 4  # of the text before, of crawl 0 every second time
        text = text_of(0 if place % 20 == 4 else crawl, place - 1) if copy else text_of(crawl, place)
        found.append({"id": id, "url": f"http://a.org/{id}", "text": text})
    return found


def text_of(crawl: int, place: int) -> str:
    words = random.Random(place % 6 if place % 3 else 100 * crawl + place).choices(WORDS, k=250)
    if place % 3 == 1:
        words[place : place + 3] = ["changed", str(place), str(crawl)]
    head = ["Share this page", f"Section {place % 2}", f"Own line {crawl} {place}"][place % 3]
    lines = [head, *(" ".join(words[start : start + 25]) for start in range(0, 250, 25)), "", "Contact us"]
    return "\n".join(lines)


def write(path, texts):
    path.write_text("".join(json.dumps(text) + "\n" for text in texts))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder with `a`, `both` (A and B in one run) and `b` (B after A, whose text is gone by then)."""
    folder = tmp_path_factory.mktemp("state")
    a, b = write(folder / "a.jsonl", documents(0)), write(folder / "b.jsonl", documents(1))
    both = write(folder / "both.jsonl", random.Random(0).sample(documents(0) + documents(1), 80))
    assert curate(a, folder / "a") == 0
    assert curate(both, folder / "both") == 0
    shutil.copytree(folder / "a", folder / "a-without-text")
    for name in ("documents", "removed", "places"):
        shutil.rmtree(folder / "a-without-text" / name)
    a.unlink()
    assert curate(b, folder / "b", f"--previous={folder / 'a-without-text'}") == 0
    return folder


def by_id(output, name: str, crawl: int) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows(output, name) if row["id"].startswith(f"{crawl}/"))


@pytest.mark.parametrize("name", ["documents", "removed"])
def test_a_crawl_after_another_equals_both_at_once(finished, name):
    assert by_id(finished / "b", name, 1) == by_id(finished / "both", name, 1)
    assert by_id(finished / "a", name, 0) == by_id(finished / "both", name, 0)


def test_the_steps_did_something_in_either_crawl(finished):
    for crawl in (0, 1):
        found = {
            (row["step"], row["kind"])
            for row in rows(finished / "both", "removed")
            if row["id"].startswith(f"{crawl}/")
        }
        assert found >= {("identity", "document"), ("lines", "line"), ("minhash", "document")}
    across = [row for row in rows(finished / "b", "removed") if row.get("other", "").startswith("0/")]
    assert {row["step"] for row in across} == {"identity", "minhash"}  # ids of documents whose text is gone


def test_the_state_after_two_crawls_has_the_same_rows(finished):
    import numpy as np

    for step in ("identity", "lines", "minhash"):
        for part in range(3):
            one, two = (np.load(finished / name / "state" / step / f"{part:05d}.npy") for name in ("both", "b"))
            for field in set(one.dtype.names) - {"crawl", "key", "digest"}:
                assert (one[field] == two[field]).all()


@pytest.mark.parametrize("shards", [3, 7])
def test_same_bytes_and_state_over_shards_and_small_files(finished, tmp_path, monkeypatch, shards):
    monkeypatch.setattr(unit, "ROW_BYTES", 5000)
    monkeypatch.setattr(unit, "BATCH_RECORDS", 3)
    texts = documents(0)[::-1]
    for shard in range(shards):
        write(tmp_path / f"{9 - shard}.jsonl", texts[shard::shards])
    assert curate(tmp_path, tmp_path / "out") == 0
    assert output_bytes(tmp_path / "out") == output_bytes(finished / "a")
    for path in (finished / "a" / "state").rglob("*.npy"):
        assert (tmp_path / "out" / path.relative_to(finished / "a")).read_bytes() == path.read_bytes()


@pytest.mark.subprocess
def test_same_bytes_with_beam(finished, tmp_path):
    for shard in range(3):
        write(tmp_path / f"{shard}.jsonl", documents(0)[shard::3])
    beam = "CurateConfig.beam = ('--runner=FnApiRunner', '--direct_num_workers=2', '--direct_running_mode=multi_threading')"
    assert curate(tmp_path, tmp_path / "out", f"--gin_bindings={beam}") == 0
    assert output_bytes(tmp_path / "out") == output_bytes(finished / "a")


@pytest.mark.parametrize(
    "words, says",
    [
        (["--previous={here}/none"], "name the output folder of a complete run"),
        (["--previous={here}/a", "--gin_bindings=LineConfig.head = 4"], "CurateConfig.lines"),
        (["--previous={here}/a", "--gin_bindings=CurateConfig.seed = 4"], "CurateConfig.seed"),
        (["--previous={here}/{out}"], "is --output as well"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_before_anything_is_written(finished, tmp_path, capfd, words, says):
    output = tmp_path / "out"
    words = [word.replace("{here}/{out}", str(output)).replace("{here}", str(finished)) for word in words]
    assert curate(finished / "b.jsonl", output, *words) == 2
    assert says in capfd.readouterr().err and not output.exists()


def test_a_damaged_state_is_refused(finished, tmp_path, capfd):
    shutil.copytree(finished / "a-without-text", tmp_path / "a")
    part = tmp_path / "a" / "state" / "minhash" / "00001.npy"
    data = bytearray(part.read_bytes())
    data[-5] ^= 1
    part.write_bytes(data)
    assert curate(finished / "b.jsonl", tmp_path / "out", f"--previous={tmp_path / 'a'}") == 2
    assert "00001.npy is damaged" in capfd.readouterr().err
