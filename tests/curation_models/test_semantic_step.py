"""The step `semantic` of a run: what brute force over the embedder's vectors finds goes, with Beam and without."""

import json
import random

import numpy as np
import pytest
from tiny_models import BAD, GOOD, write_embedder
from web_pages import output_bytes, rows

from dots_jax.cli.main import main
from dots_jax.config import CurateConfig, SemanticConfig, UserError
from dots_jax.curation import models
from dots_jax.curation.embedding_step import STEP
from dots_jax.curation.record import key_of
from dots_jax.curation_models.xlm_roberta import Embedder

LEAST = 0.997  # of these random weights, whose vectors are all alike


def some_texts() -> dict[str, str]:
    """90 texts, of which 20 are others with two words changed."""
    rng, texts = random.Random(0), {}
    for n in range(70):
        texts[f"t{n}"] = " ".join(rng.choices(GOOD if n % 2 else BAD, k=rng.randint(5, 40)))
    for n in range(20):
        words = texts[f"t{n}"].split() + texts[f"t{n}"].split()
        words[3], words[-1] = rng.choice(GOOD), rng.choice(BAD)
        texts[f"near{n}"] = " ".join(words)
    return texts


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(flags of a run, its output, the folder of the embedder)."""
    root = tmp_path_factory.mktemp("semantic")
    write_embedder(root / "embedder")
    texts = root / "texts.jsonl"
    texts.write_text("".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in some_texts().items()))
    lines = ("CurateConfig.steps = ('identity', 'semantic')", f"SemanticConfig.model = '{root / 'embedder'}'")
    lines += (f"SemanticConfig.min_cosine = {LEAST}", "SemanticConfig.length = 64", "CurateConfig.partitions = 3")
    words = ["curate", "--gin_file=gin/curate.gin", f"--input={texts}", *(f"--gin_bindings={line}" for line in lines)]
    assert main([*words, f"--output={root / 'out'}"]) == 0
    return words, root / "out", root / "embedder"


def test_the_ledger_is_that_of_brute_force(finished):
    _, output, folder = finished
    texts = some_texts()
    ids = sorted(texts, key=lambda id: key_of(0, id))
    vectors = Embedder(str(folder), 64)([texts[id] for id in ids]).astype(float)
    cosines = np.round(vectors @ vectors.T, 4)
    expected = {}
    for place, id in enumerate(ids):
        close = np.flatnonzero(cosines[place, :place] >= LEAST)
        if len(close):
            expected[id] = ids[close[0]]
    gone = {row["id"]: row for row in rows(output, "removed")}
    assert 15 <= len(expected) <= 60
    assert gone.keys() <= expected.keys() and len(gone) >= 0.99 * len(expected)
    for id, row in gone.items():
        assert (row["step"], row["reason"], row["other"]) == ("semantic", "semantic duplicate", expected[id])
        assert abs(row["score"] - cosines[ids.index(id), ids.index(row["other"])]) < 2e-4
    report = json.loads((output / "report.json").read_text())
    assert report["books"]["documents_written"] + len(gone) == 90 and report["within_this_crawl"] == []
    assert report["not_run"] == {}


@pytest.mark.subprocess
def test_same_bytes_with_beam(finished, tmp_path):
    words, output, _ = finished
    beam = "CurateConfig.beam = ('--runner=FnApiRunner', '--direct_num_workers=2', '--direct_running_mode=multi_threading')"
    assert main([*words, f"--output={tmp_path / 'out'}", f"--gin_bindings={beam}"]) == 0
    assert output_bytes(tmp_path / "out") == output_bytes(output)


def test_no_documents_and_a_crawl_after_another(finished, tmp_path, capfd):
    words, output, _ = finished
    (tmp_path / "empty.jsonl").write_text("")
    words = [word for word in words if not word.startswith("--input")]
    assert main([*words, f"--input={tmp_path / 'empty.jsonl'}", f"--output={tmp_path / 'a'}"]) == 0
    (tmp_path / "one.jsonl").write_text('{"id": "new", "text": "the theory explains nature"}\n')
    capfd.readouterr()
    assert (
        main([*words, f"--input={tmp_path / 'one.jsonl'}", f"--output={tmp_path / 'b'}", f"--previous={output}"]) == 0
    )
    assert "compared within this crawl alone: semantic" in capfd.readouterr().out


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_incomplete_folder_is_refused_before_the_run(tmp_path, name):
    write_embedder(tmp_path / "embedder")
    (tmp_path / "embedder" / name).unlink()
    config = CurateConfig(semantic=SemanticConfig(model=str(tmp_path / "embedder")))
    with pytest.raises(UserError, match=f"SemanticConfig.model = .*embedder' has no {name}"):
        models.check(STEP, config)


def test_settings():
    with pytest.raises(UserError, match="SemanticConfig.min_cosine must be in"):
        SemanticConfig(min_cosine=1.5)
    with pytest.raises(UserError, match="SemanticConfig.probes must be above 0"):
        SemanticConfig(probes=0)
