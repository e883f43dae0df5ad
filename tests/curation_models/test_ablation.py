"""`dots curate --ablate=STEP`: two corpora, two curves on equal tokens, and the same numbers again."""

import json
import random

import numpy as np
import pytest
from tiny_models import BAD, GOOD

from dots_jax.cli.main import main
from dots_jax.curation_models import ablation

FEW = "--gin_bindings=CurateConfig.steps = ('identity', 'lines', 'pii')"


def write(path, texts) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture
def words(tmp_path):
    """Texts with a frame of shared lines, which the step `lines` removes; the clean ones have none."""
    rng = random.Random(0)
    body = lambda: "\n".join(" ".join(rng.choices(GOOD, k=14)) for _ in range(12))
    frame = "\n".join(" ".join(BAD[n:] + BAD[:n]) for n in range(4))
    texts = [f"{frame}\n{body()}\n{frame}" for _ in range(60)]
    clean = [body() for _ in range(12)]
    pages, held = write(tmp_path / "pages.jsonl", texts), write(tmp_path / "clean.jsonl", [*clean, texts[0]])
    return ["curate", "--gin_file=gin/curate.gin", FEW, "--gin_bindings=LineConfig.keep = 2", f"--input={pages}",
            "--ablate=lines", f"--held_out={held}"]  # fmt: skip


@pytest.mark.slow
def test_a_step_that_removes_frames_lowers_the_loss(words, tmp_path, monkeypatch, capfd):
    for name, value in (("LENGTH", 32), ("ROWS", 8), ("HIDDEN_SIZE", 32), ("VOCAB_SIZE", 320)):
        monkeypatch.setattr(ablation, name, value)
    flags = ["--seeds=2", "--steps=40"]
    assert main([*words, *flags, f"--output={tmp_path / 'out'}"]) == 0
    out = capfd.readouterr().out
    report = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert report["step"] == "lines" and report["tokens"] == [8 * 32 * 4 * n for n in range(1, 11)]
    assert {side: np.shape(curves) for side, curves in report["losses"].items()} == {
        "with": (2, 10),
        "without": (2, 10),
    }
    assert report["difference"] < -0.05 and report["difference_spread"] < -report["difference"]
    assert report["held_out_texts_left_out"] == 1 and "minus without: -0." in out and "a corpus has them: 1" in out
    assert all(curve[-1] < curve[0] for curves in report["losses"].values() for curve in curves)
    assert (tmp_path / "out" / "ablation.png").read_bytes()[:4] == b"\x89PNG"
    removed = [
        json.loads((tmp_path / "out" / side / "report.json").read_text())["funnel"] for side in ("with", "without")
    ]
    assert [[row["step"] for row in funnel] for funnel in removed] == [
        ["read", "text", "identity", "lines", "pii"], ["read", "text", "identity", "pii"],
    ]  # fmt: skip
    assert main([*words, *flags, f"--output={tmp_path / 'again'}"]) == 0
    for name in ("ablation.json", "ablation.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize(
    "more, sentence",
    [
        (["--ablate=rules"], "the steps of this run are identity, lines, pii"), (["--held_out=/nowhere.jsonl"], "cannot be read"),
        (["--only=pii"], "leave out --only"), (["--held_out="], "needs --held_out"),
    ],
)  # fmt: skip
def test_wrong_use(words, tmp_path, capfd, more, sentence):
    assert main([*words, f"--output={tmp_path / 'out'}", *more]) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ") and sentence in err and not (tmp_path / "out").exists()


def test_too_few_clean_texts(words, tmp_path, capfd):
    held = write(tmp_path / "few.jsonl", ["short"])
    assert main([*words, f"--output={tmp_path / 'out'}", f"--held_out={held}"]) == 2
    assert "in 1 texts that are in neither corpus, but 129 are needed" in capfd.readouterr().err
