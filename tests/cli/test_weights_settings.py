"""A run file that names weights leaves the model and the tokenizer to them."""

import dataclasses
import json

import pytest

from dots_jax.checkpoint.metadata import CheckpointMetadata
from dots_jax.cli.gin_config import build
from dots_jax.config import TrainConfig, UserError, tiny

MODEL = dataclasses.replace(tiny(), num_experts=16, rope_theta=12_345.5)
RUN = """
TrainConfig.initial_checkpoint = %WEIGHTS
WEIGHTS = '{weights}'
TrainConfig.data = @DataConfig()
TrainConfig.stages = (@one/Stage(),)
one/Stage.name = 'one'
one/Stage.tokens = 640
one/Stage.mixture = 'text'
one/Stage.seq_len = 64
one/Stage.batch_tokens = ((0, 64),)
one/Stage.learning_rate_start = 1e-5
one/Stage.learning_rate_end = 1e-5
"""


def save(workdir, model=MODEL, step: int = 0, **fields):
    here = workdir / "checkpoints" / str(step)
    (here / "model").mkdir(parents=True)
    (here / "record").mkdir()
    record = CheckpointMetadata(step=step, model=model, **fields).to_json()
    (here / "record" / "metadata").write_text(json.dumps(record))
    return workdir


@pytest.fixture
def weights(tmp_path):
    folder = save(tmp_path / "weights", kind="converted")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def run_file(tmp_path, weights):
    path = tmp_path / "run.gin"
    path.write_text(RUN.format(weights=weights))
    return str(path)


def test_model_and_tokenizer_are_those_of_the_weights(run_file, weights, tmp_path):
    config, text, operative = build(TrainConfig, [run_file])
    assert config.model == MODEL and config.data.tokenizer == str(weights / "tokenizer" / "tokenizer.json")
    # What the run keeps in its workdir says all of it, and needs the weights no more.
    for number, kept in enumerate((text, operative)):
        (tmp_path / f"{number}.gin").write_text(kept.replace(str(weights), "gone"))
        assert build(TrainConfig, [str(tmp_path / f"{number}.gin")])[0].model == MODEL


def test_what_a_user_sets_wins(run_file, tmp_path):
    lines = ["TrainConfig.model = @ModelConfig()", "ModelConfig.num_experts = 32", "DataConfig.tokenizer = ''"]
    config = build(TrainConfig, [run_file], lines)[0]
    assert config.model.num_experts == 32 and config.model.rope_theta != 12_345.5 and config.data.tokenizer == ""
    other = save(tmp_path / "other", tiny(), kind="converted")
    config = build(TrainConfig, [run_file], [f"WEIGHTS = '{other}'"])[0]
    assert config.model == tiny() and config.data.tokenizer == ""  # those weights have none
    config = build(TrainConfig, [run_file], ["ModelConfig.max_seq_len = 128"])[0]
    assert (config.model.max_seq_len, config.model.num_experts) == (128, 16)


def test_a_run_that_has_begun_needs_the_weights_no_more(run_file, weights, tmp_path):
    workdir = save(tmp_path / "run", step=3, config={"data": {"tokenizer": "kept.json"}})
    config = build(TrainConfig, [run_file], [f"WEIGHTS = '{tmp_path / 'gone'}'"], str(workdir))[0]
    assert config.model == MODEL and config.data.tokenizer == "kept.json"


def test_weights_that_are_not_there(run_file, tmp_path):
    with pytest.raises(UserError) as error:
        build(TrainConfig, [run_file], ["WEIGHTS = 'nowhere'"])
    assert str(error.value) == (
        "TrainConfig.initial_checkpoint, from which the model is read: There is no folder nowhere."
    )
    with pytest.raises(UserError, match=r"TrainConfig.model has no default and is not set"):
        build(TrainConfig, [run_file], ["WEIGHTS = ''"])
