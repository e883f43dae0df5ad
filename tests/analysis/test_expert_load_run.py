"""`dots expert_load`: exact counts over every token, kept when they are there, and its picture.

Claim: the counts of `dots expert_load` are the integers that the router gives on one device, token by token.
"""

import collections
import json

import numpy as np
import pytest
from two_steps import save_two_steps

from dots_jax.analysis import expert_load_run
from dots_jax.analysis.expert_load_run import batches, packed_rows, parse_domains, texts_of
from dots_jax.analysis.figures import expert_load_panels
from dots_jax.checkpoint.open import open_checkpoint
from dots_jax.cli.main import main
from dots_jax.config import UserError, tiny
from dots_jax.inference import decoder, weights

TEXTS = ("def f(x):\n    return x + 1\n", "一个短句。", "a" * 70)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return save_two_steps(str(tmp_path_factory.mktemp("run")))


def plain_counts(checkpoint: str, monkeypatch) -> np.ndarray:
    """Of the texts one by one, through the decoder, which shares no code with the command but the router."""
    opened = open_checkpoint(checkpoint)
    mesh = weights.serving_mesh(opened.model, 1)
    model = decoder.Decoder(opened.model, "float32", mesh)
    loaded = weights.load_weights(opened, model.definition, mesh)
    found, route = [], decoder.router.route

    def recorded(*args, **options):
        result = route(*args, **options)
        found.append(np.asarray(result[0]))
        return result

    monkeypatch.setattr(decoder.router, "route", recorded)
    counts = np.zeros((opened.model.num_moe_layers, opened.model.num_experts), np.int64)
    for text in TEXTS:
        ids = np.array([[3 + byte for byte in text.encode()]], np.int32)
        model.prefill(loaded, model.empty_cache(1, 128), ids, 0, np.array([ids.size]))
        for layer, ids_BTK in enumerate(found):
            counts[layer] += np.bincount(ids_BTK.ravel(), minlength=opened.model.num_experts)
        found.clear()
    return counts


def test_counts_are_the_routers(checkpoint, tmp_path, monkeypatch, capfd):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    (tmp_path / "b.txt").write_text("plain text\n" * 9)
    flags = (f"--checkpoint={checkpoint}", f"--output={tmp_path / 'out'}", "--seq_len=128", "--batch_size=2")
    domains = (f"--domain=a={tmp_path / 'a.jsonl'}", f"--domain=b={tmp_path / 'b.txt'}")
    assert main(["expert_load", *flags, *domains]) == 0
    content = (tmp_path / "out/expert_load.json").read_text()
    found = json.loads(content)
    tokens = sum(len(text.encode()) for text in TEXTS)
    assert found["domains"]["a"]["tokens"] == tokens and found["domains"]["b"]["tokens"] == 99
    counts = np.array(found["domains"]["a"]["counts"])
    assert np.array_equal(counts.sum(axis=1), [tokens * tiny().experts_per_token] * tiny().num_moe_layers)
    assert np.array_equal(counts, plain_counts(checkpoint, monkeypatch))
    assert f"loads of a layer sum to {tiny().experts_per_token}" in capfd.readouterr().out
    assert (tmp_path / "out/expert_load.png").read_bytes().startswith(b"\x89PNG")

    # What is counted is kept: no weights are read again.
    monkeypatch.setattr(expert_load_run, "Counter", None)
    assert main(["expert_load", *flags, *domains]) == 0
    assert (tmp_path / "out/expert_load.json").read_text() == content


def test_every_token_is_an_input_once():
    documents = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], []]
    rows = list(packed_rows(iter(documents), 4))
    assert rows == [[[1, 2, 3], [4]], [[5, 6, 7, 8]], [[9, 10, 11]]]
    first, second = batches(iter(rows), 2, 4)
    assert first["tokens"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]] and first["segments"].tolist() == [
        [1, 1, 1, 2],
        [1] * 4,
    ]
    assert first["targets"].tolist() == [[2, 3, 0, 0], [6, 7, 8, 0]] and first["positions"].tolist()[0] == [0, 1, 2, 0]
    assert second["segments"].tolist() == [[1, 1, 1, 0], [0] * 4] and second["weights"].sum() == 2


def test_plain_text_comes_in_pieces_without_a_broken_character(tmp_path, monkeypatch):
    monkeypatch.setattr(expert_load_run, "PIECE", 7)
    for text in ("一二三四五六七八九十" * 3, "ab\ncd\n" * 9, "é" * 20, "𝄞" * 9):
        (tmp_path / "t.txt").write_text(text)
        assert "".join(texts_of(str(tmp_path / "t.txt"))) == text


def test_the_panels_share_one_scale():
    loads = {name: (np.full((3, 8), 0.25), 10) for name in ("a", "b", "c")}
    figure = expert_load_panels(loads)
    images = [axis.images[0] for axis in figure.axes if axis.images]
    assert collections.Counter(image.get_clim() for image in images) == {(0, 1): 3}


def test_bad_domains_are_one_sentence(tmp_path):
    (tmp_path / "a").write_text("x")
    for words, message in (
        ((), "Missing --domain"),
        (("code",), "--domain is name=file"),
        ((f"a={tmp_path / 'a'}", f"a={tmp_path / 'a'}"), "comes twice"),
    ):
        with pytest.raises(UserError, match=message):
            parse_domains(words)
    (tmp_path / "b.jsonl").write_text('{"txt": 1}\n')
    with pytest.raises(UserError, match="line 1 has no text"):
        list(texts_of(str(tmp_path / "b.jsonl")))
