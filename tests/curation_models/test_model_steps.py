"""The steps web_type, clutter and quality of a run: scores, the ledger and the books, with Beam's RunInference and without; and
runs without models, which say so and never load jax."""

import json
import subprocess
import sys

import numpy as np
import pytest
from tiny_models import BAD, GOOD, write_model
from web_pages import output_bytes, rows

from dots_jax.cli.main import main
from dots_jax.config import ClutterConfig, CurateConfig, QualityConfig, UserError, WebTypeConfig
from dots_jax.curation import model_steps, models, scoring
from dots_jax.curation.balance import caps
from dots_jax.curation.model_steps import MODEL_STEPS
from dots_jax.curation.record import Document, key_of

TEXTS = {
    "good": " ".join(GOOD), "bad": " ".join(BAD), "mixed": "\n".join([" ".join(GOOD), " ".join(BAD), "", " ".join(GOOD[::-1])]),
    "only clutter": "\n".join([" ".join(BAD), " ".join(BAD[::-1])]), "short": GOOD[0],
}  # fmt: skip
STEPS = "('identity', 'web_type', 'clutter', 'quality', 'pii')"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of models that tell words apart, without training."""
    root = tmp_path_factory.mktemp("models")
    for name, kind, classes in (
        ("quality", "document", ("high", "low")),
        ("type", "document", ("article", "shop")),
        ("clutter", "line", ("text", "clutter")),
    ):
        write_model(root / name, kind, classes)
    return root


def settings(folders, *more: str) -> list[str]:
    lines = (
        f"CurateConfig.steps = {STEPS}", f"WebTypeConfig.model = '{folders / 'type'}'", "WebTypeConfig.keep = ('article',)",
        f"ClutterConfig.model = '{folders / 'clutter'}'", f"QualityConfig.model = '{folders / 'quality'}'",
        "QualityConfig.label = 'high'", *more,
    )  # fmt: skip
    return [f"--gin_bindings={line}" for line in lines]


def write_texts(path, texts=TEXTS) -> str:
    path.write_text("".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in texts.items()))
    return str(path)


def curate(*words) -> int:
    return main(["curate", "--gin_file=gin/curate.gin", *map(str, words)])


@pytest.fixture(scope="module")
def finished(folders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    texts = dict(TEXTS) | {f"more {n}": f"{TEXTS['good']} {n}" for n in range(150)}  # several blocks
    path = write_texts(folder / "texts.jsonl", texts)
    loose = settings(folders, "WebTypeConfig.keep = ()")
    assert curate(f"--input={path}", f"--output={folder / 'out'}", *loose) == 0
    return path, folder / "out", loose


def test_scores_ledger_and_books(finished):
    _, output, _ = finished
    documents = {row["id"]: row for row in rows(output, "documents")}
    removed = rows(output, "removed")
    assert set(documents["good"]["scores"]) == {"web_type/article", "quality"}
    assert documents["good"]["scores"]["quality"] > 0.5 and documents["good"]["text"] == TEXTS["good"]
    assert documents["mixed"]["text"] == "\n".join(TEXTS["mixed"].split("\n")[i] for i in (0, 2, 3))
    (line,) = [row for row in removed if row["kind"] == "line"]
    assert (line["id"], line["step"], line["detail"], line["lines"]) == ("mixed", "clutter", "line 2", 1)
    assert line["score"] >= 0.5 and line["text"] == " ".join(BAD) and line["characters"] == len(line["text"]) + 1
    gone = {row["id"]: (row["step"], row["reason"]) for row in removed if row["kind"] == "document"}
    assert gone == {"bad": ("clutter", "all clutter"), "only clutter": ("clutter", "all clutter")}
    report = json.loads((output / "report.json").read_text())
    assert report["books"]["records_read"] == 155 and report["books"]["documents_written"] == 153
    steps = {row["step"]: row for row in report["funnel"]}
    for name in ("web_type", "clutter", "quality"):
        for unit in ("records", "lines", "characters"):
            came, kept, went = (steps[name][side].get(unit, 0) for side in ("in", "kept", "removed"))
            assert came == kept + went
    assert report["not_run"] == {} and report["removed_nothing"] == ["identity", "web_type", "quality", "pii"]


def test_documents_of_other_types_and_of_low_quality_go(folders, tmp_path):
    path = write_texts(tmp_path / "texts.jsonl")
    assert curate(f"--input={path}", f"--output={tmp_path / 'a'}", *settings(folders)) == 0
    gone = {row["id"]: row for row in rows(tmp_path / "a", "removed") if row["kind"] == "document"}
    assert gone["bad"]["reason"] == "type shop" and gone["bad"]["step"] == "web_type" and gone["bad"]["score"] > 0.5
    out = tmp_path / "b.jsonl"
    assert curate(f"--input={path}", f"--output={out}", "--only=quality", *settings(folders)) == 0
    kept = {row["id"] for row in map(json.loads, out.read_text().splitlines())}
    (row,) = [
        row for row in map(json.loads, (tmp_path / "b.removed.jsonl").read_text().splitlines()) if row["id"] == "bad"
    ]
    assert "good" in kept and row["reason"] == "low quality" and row["score"] < 0.5 and row["detail"] == "at least 0.5"


@pytest.mark.subprocess
def test_same_bytes_with_beams_run_inference(finished, tmp_path):
    path, output, words = finished
    beam = "CurateConfig.beam = ('--runner=FnApiRunner', '--direct_num_workers=2', '--direct_running_mode=multi_threading')"
    assert curate(f"--input={path}", f"--output={tmp_path / 'out'}", *words, f"--gin_bindings={beam}") == 0
    assert output_bytes(tmp_path / "out") == output_bytes(output)


def test_same_bytes_with_other_blocks_and_partly_done(finished, tmp_path, monkeypatch):
    path, output, words = finished
    monkeypatch.setattr(scoring, "BLOCK", 7)
    write, calls = scoring.write_verdicts, []

    def stop_at_the_fourth(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(scoring, "write_verdicts", stop_at_the_fourth)
    flags = [f"--input={path}", f"--output={tmp_path / 'out'}", *words]
    assert curate(*flags) == 130 and curate(*flags) == 0
    assert output_bytes(tmp_path / "out") == output_bytes(output)
    assert len(calls) == 1 + 3 * 8  # eight partitions of three steps, and the one that was stopped


def test_another_model_of_the_same_name_is_refused(finished, folders, tmp_path, capfd):
    path, _, _ = finished
    write_model(tmp_path / "m", "document", ("high", "low"))
    words = [f"--input={path}", f"--output={tmp_path / 'out'}", "--only=quality"]
    words += settings(folders, f"QualityConfig.model = '{tmp_path / 'm'}'")
    assert curate(*words) == 0
    write_model(tmp_path / "m", "document", ("high", "low"), seed=5)
    capfd.readouterr()
    assert curate(*words) == 2 and "holds a run with other models" in capfd.readouterr().err


def test_no_class_is_over_its_share(folders, tmp_path):
    texts = {f"g{n}": f"{TEXTS['good']} {n}" for n in range(40)} | {f"b{n}": f"{TEXTS['bad']} {n}" for n in range(10)}
    path = write_texts(tmp_path / "texts.jsonl", texts)
    model = (f"ClassesConfig.model = '{folders / 'type'}'", "ClassesConfig.max_share = 0.6")
    words = [f"--gin_bindings={line}" for line in ("CurateConfig.steps = ('identity', 'classes')", *model)]
    assert curate(f"--input={path}", f"--output={tmp_path / 'out'}", *words) == 0
    kept, gone = rows(tmp_path / "out", "documents"), rows(tmp_path / "out", "removed")
    by_key = sorted((id for id in texts if id[0] == "g"), key=lambda id: key_of(0, id))
    assert {row["id"] for row in kept if row["id"][0] == "g"} == set(by_key[:15])  # 15 of 25
    assert len(kept) == 25 and len(gone) == 25 and {row["reason"] for row in gone} == {"over the share of article"}
    assert {row["detail"] for row in gone} == {f"document {n} of the class" for n in range(16, 41)}
    assert all(list(row["scores"]) == [f"classes/{'article' if row['id'][0] == 'g' else 'shop'}"] for row in kept)


@pytest.mark.parametrize(
    "counts, shares, kept",
    [
        ([1000, 10, 20, 5], [0.5] * 4, [35, 10, 20, 5]), ([1000, 10, 20, 0], [0.5, 1, 1, 1], [30, 10, 20, 0]),
        ([1000, 10, 20, 5], [0.1] * 4, [103, 10, 20, 5]), ([0, 0], [0.5, 0.5], [0, 0]), ([7], [1.0], [7]),
    ],
)  # fmt: skip
def test_caps(counts, shares, kept):
    assert caps(np.array(counts), np.array(shares)).tolist() == kept


def test_caps_of_200_classes_are_the_most_that_fit():
    counts_C = np.random.default_rng(0).integers(0, 1000, 200)
    kept_C = caps(counts_C, np.full(200, 0.006))
    assert kept_C.max() <= 0.006 * kept_C.sum() and (kept_C <= counts_C).all()
    assert kept_C.max() + 1 > 0.006 * (kept_C.sum() + (counts_C > kept_C).sum()) - 1


# --- without models ---------------------------------------------------------------------------------------------------


def test_a_run_without_models_says_which_steps_did_not_run(tmp_path, capfd):
    path = write_texts(tmp_path / "texts.jsonl")
    words = [f"--input={path}", f"--output={tmp_path / 'out'}", f"--gin_bindings=CurateConfig.steps = {STEPS}"]
    said = (
        "did not run: web_type (WebTypeConfig.model names no model), clutter (ClutterConfig.model names no model), "
        "quality (QualityConfig.model names no model)"
    )
    assert curate(*words, "--dry_run") == 0 and said in capfd.readouterr().out
    assert curate(*words) == 0 and said in capfd.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["not_run"]) == {"web_type", "clutter", "quality"}
    assert (
        "did not run, since they have no model: web_type, clutter, quality."
        in (tmp_path / "out/report.html").read_text()
    )
    assert curate(f"--input={path}", "--output=x.jsonl", "--only=quality") == 2
    assert "--only=quality needs QualityConfig.model" in capfd.readouterr().err


@pytest.mark.subprocess
def test_jax_is_loaded_for_models_alone(tmp_path):
    path = write_texts(tmp_path / "texts.jsonl")
    code = f"""
import sys
from dots_jax.cli.main import main
assert main(["curate", "--gin_file=gin/curate.gin", "--input={path}", "--output={tmp_path / "out"}",
             "--gin_bindings=CurateConfig.steps = {STEPS}"]) == 0
assert not {{"jax", "flax", "tensorflow"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "settings_, sentence",
    [
        ({"quality": QualityConfig(model="/nowhere")}, "QualityConfig.model = '/nowhere' has no classifier.json"),
        ({"quality": QualityConfig(model="{}/clutter")}, "is a model of kind line, but this step needs one of --kind=document"),
        ({"quality": QualityConfig(model="{}/quality", label="x")}, "names the label 'x', but the model has high, low"),
        ({"web_type": WebTypeConfig(model="{}/type", keep=("news",))}, "WebTypeConfig.keep names the label 'news'"),
        ({"clutter": ClutterConfig(model="{}/clutter", label="ad")}, "ClutterConfig.label names the label 'ad'"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_the_model(folders, settings_, sentence):
    import dataclasses

    ((name, section),) = settings_.items()
    section = dataclasses.replace(section, model=section.model.format(folders))
    step = next(step for step in MODEL_STEPS if step.name == name)
    with pytest.raises(UserError, match=sentence):
        models.check(step, CurateConfig(**{name: section}))


def test_scores_are_probabilities():
    with pytest.raises(UserError, match="ClutterConfig.min_score must be in"):
        ClutterConfig(min_score=1.5)


# --- pure functions ---------------------------------------------------------------------------------------------------


def test_lines_at_the_threshold_go():
    config = CurateConfig(clutter=ClutterConfig(min_score=0.25))
    found = model_steps.clutter_verdicts(
        np.array([[0.75, 0.25], [0.7501, 0.2499], [0, 1]]), ("text", "clutter"), config
    )
    assert found == [(0, 0, 0.25), (2, 0, 1.0)]
    decisions = np.array([(0, 0, *row) for row in found], scoring.DECISION)
    outcome = model_steps.apply_clutter(Document("id", "", "a\nb\nc"), decisions, ("text", "clutter"), config)
    assert outcome.kept[0].text == "b" and [row.text for row in outcome.removed] == ["a", "c"]


def test_explain_shows_scores(finished, folders, capfd):
    path, output, words = finished
    assert curate(f"--input={path}", f"--output={output}", "--explain=mixed", *words) == 0
    out = capfd.readouterr().out
    assert "web_type/article 0." in out and "loses a line: clutter" in out and "as in the corpus" in out
