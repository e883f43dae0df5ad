"""A complete run with a knotted last stage: what its rows, its checkpoints and its first lines say about its sources."""

import dataclasses
import json

import pytest
from small_run import NUM_STEPS

from dots_jax.checkpoint.store import Checkpoints
from dots_jax.training.run import Run

UNTIE = (
    "ModelConfig.vocab_size = 268",
    "long/Stage.untie = @Untie()",
    "Untie.first_id = 259",
    "Untie.reserve = 0.55",
)


@pytest.mark.slow
def test_ledger_warnings_and_a_resumed_knotted_stage(workdir, capfd):
    assert workdir.train(*UNTIE, "DataConfig.max_epochs = 1.5") == 0
    lines = capfd.readouterr().out.splitlines()
    named = [line for line in lines if line.startswith("warning     small_numbers is read ")]
    assert len(named) == 1 and "(stable " in named[0] and named[0].endswith("DataConfig.max_epochs is 1.5")
    assert any(line.split()[:2] == ["small_prose", "70.00%"] for line in lines)
    assert any(line.endswith("constant, untie") for line in lines)

    rows = workdir.rows()
    for row in rows:
        assert sum(row["source_tokens"].values()) == row["tokens"]
        assert row["stage_epoch"].keys() == row["stage_source_tokens"].keys()
    stable, last = rows[24], rows[-1]
    assert stable["source_tokens"] == stable["stage_source_tokens"] and stable["stage_epoch"] == stable["epoch"]
    assert stable["stage"] == "stable" and last["stage"] == "long"
    assert sum(last["stage_source_tokens"].values()) == 5 * 512
    ledger = Checkpoints(str(workdir.path)).metadata(NUM_STEPS).exposure
    assert list(ledger) == ["stable", "anneal", "long"]
    for source in ("small_prose", "small_numbers"):
        assert sum(stage[source]["tokens"] for stage in ledger.values()) == last["source_tokens"][source]
        assert sum(stage[source]["epochs"] for stage in ledger.values()) == pytest.approx(last["epoch"][source])
    # what the plan said is what was read, to within a few sequences
    assert abs(ledger["stable"]["small_prose"]["tokens"] - 0.7 * rows[24]["tokens"]) <= 3 * 32

    # Stopped inside the knotted stage and started again, it is the same run.
    other = workdir.another("stopped")
    assert other.train(*UNTIE, flags=("--max_steps=37",)) == 0
    assert other.train(*UNTIE) == 0
    assert other.history() == workdir.history()
    capfd.readouterr()
    assert workdir.train(*UNTIE, "Untie.probability = 0.5") == 2  # the stage has begun
    assert "has already started stage 'long', whose untie was" in capfd.readouterr().err


def test_ids_that_do_not_fit_are_refused(workdir, capfd):
    assert workdir.train(*UNTIE[1:]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "Stage 'long': untie's ids 259 to 267 must lie outside the vocabulary, whose ids end at 258" in error
    assert "vocab_size to 268 or more" in error


def test_a_checkpoint_from_before_the_ledger_goes_on(workdir, monkeypatch):
    """Its record knows neither exposure nor untie."""
    metadata = Run.metadata
    monkeypatch.setattr(Run, "metadata", lambda run, step: dataclasses.replace(metadata(run, step), exposure={}))
    assert workdir.train(flags=("--max_steps=5",)) == 0
    monkeypatch.undo()
    old = Checkpoints(str(workdir.path)).metadata(5).to_json()
    assert "exposure" not in old and "untie" not in json.dumps(old["data"])
    assert workdir.train(flags=("--max_steps=6",)) == 0
    assert workdir.rows()[-1]["step"] == 6
