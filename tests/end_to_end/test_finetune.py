"""A new run from converted weights, and from another run's; and what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest
from hf_checkpoint import convert, hf_config, random_tensors, write
from small_run import GIN, restored

from dots_jax.cli.gin_config import build
from dots_jax.config import MeshConfig, ModelConfig, Stage, TrainConfig
from dots_jax.huggingface import names as hf
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.mesh import make_mesh
from dots_jax.training.initial import first_state
from dots_jax.training.optimizer import make_optimizer
from dots_jax.training.state import abstract_state

MODEL = ModelConfig(
    vocab_size=259, num_layers=3, hidden_size=16, num_heads=2, head_dim=8, dense_ffn_size=32, num_experts=8,
    experts_per_token=2, expert_ffn_size=16, num_shared_experts=1, rope_theta=10_000.0, max_seq_len=64,
)  # fmt: skip


def finite_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: (0.05 * rng.normal(size=t.shape)).astype(t.dtype) for name, t in random_tensors(MODEL).items()}


@pytest.fixture
def converted(tmp_path):
    write(tmp_path / "hf", finite_tensors(), hf_config(MODEL))
    assert convert("from_hf", tmp_path / "hf", tmp_path / "weights") == 0
    return tmp_path / "weights"


def starts_from(path) -> str:
    return f"TrainConfig.initial_checkpoint = '{path}'"


def test_the_first_state_is_the_source(converted):
    """On 8 devices: every parameter and bias of the source, bit for bit, and an optimizer that knows nothing yet."""
    stage = Stage(
        name="all", tokens=64, mixture="any", seq_len=64, batch_tokens=((0, 64),), learning_rate_start=1e-3,
        learning_rate_end=1e-3,
    )  # fmt: skip
    config = TrainConfig(model=MODEL, stages=(stage,), initial_checkpoint=str(converted))
    definition = ModelDef(MODEL, config.compute, make_mesh(MeshConfig(data=2, fsdp=2, expert=2)), init_std=1.0)
    optimizer = make_optimizer(config.optimizer, definition.weight_decays())
    abstract = abstract_state(definition, optimizer)
    state = first_state(config, definition, optimizer, abstract)
    placed = lambda tree: jax.tree.map(lambda leaf: (leaf.sharding, leaf.dtype), tree)
    assert placed(state) == placed(abstract)
    assert int(state.step) == 0 and not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(state.opt_state))
    again = hf.to_hf(jax.device_get(state.params), jax.device_get(state.router_bias), MODEL)
    for name, tensor in finite_tensors().items():
        np.testing.assert_array_equal(again[name], tensor.astype(np.float32), err_msg=name)


def test_training_goes_on_from_converted_weights(workdir, converted, capfd):
    assert workdir.train(starts_from(converted), flags=("--max_steps=3",)) == 0
    assert f"starts      with the weights of {converted}/checkpoints/0" in capfd.readouterr().out
    # What has begun goes on from its own checkpoint, and no longer needs the other.
    shutil.rmtree(converted)
    assert workdir.train(starts_from(converted), flags=("--max_steps=8",)) == 0
    out = capfd.readouterr().out
    assert "resuming    after step 3 " in out and "starts " not in out
    losses = [row["loss"] for row in workdir.rows()]
    assert len(losses) == 8 and losses[-1] < losses[0]


def test_training_starts_from_another_run(workdir):
    assert workdir.train(flags=("--max_steps=5",)) == 0
    other = workdir.another("other")
    assert other.train(starts_from(workdir.path), flags=("--max_steps=1",)) == 0
    fresh = workdir.another("fresh")
    assert fresh.train(flags=("--max_steps=1",)) == 0
    assert other.rows()[0]["loss"] < fresh.rows()[0]["loss"] and other.rows()[0]["step"] == 1
    step, trained = restored(other, 1)["training['step']"], restored(workdir, 5)["training['step']"]
    assert (step, trained) == (1, 5)  # a new optimizer


def test_the_round_trip_of_a_training_checkpoint(workdir, tmp_path):
    """A run's checkpoint is exported as it is: step chosen, float32, every bit."""
    assert workdir.train(flags=("--max_steps=7",)) == 0
    assert convert("to_hf", workdir.path, tmp_path / "out", "--step=5") == 0
    assert convert("from_hf", tmp_path / "out", tmp_path / "again") == 0
    record = json.loads((tmp_path / "again" / "checkpoints" / "0" / "record" / "metadata").read_text())
    theirs = json.loads((workdir.path / "checkpoints" / "5" / "record" / "metadata").read_text())
    names = {name for name in theirs["checksums"] if name.startswith("['model']")}
    assert record["checksums"] == {name: theirs["checksums"][name] for name in names}
    assert set(record["dtypes"].values()) == {"float32"}


@pytest.mark.parametrize("flags", [(), ("--dry_run",)])
def test_refused(workdir, converted, tmp_path, capfd, flags):
    def says(*words, bindings=()):
        assert workdir.train(*bindings, flags=flags) == 2
        (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        assert all(word in line for word in words), line
        assert not workdir.path.exists()

    says("TrainConfig.initial_checkpoint: There is no folder", bindings=(starts_from(tmp_path / "nowhere"),))
    says(
        "holds another model: num_heads was 2 and is now 4", "Set ModelConfig to that model",
        bindings=(starts_from(converted), "ModelConfig.num_heads = 4"),
    )  # fmt: skip


def test_converted_weights_are_no_workdir(workdir, converted, capfd):
    workdir.path = converted
    assert workdir.train() == 2
    assert "TrainConfig.initial_checkpoint" in capfd.readouterr().err
    assert workdir.steps() == [0]


def test_the_model_of_these_tests_is_the_small_runs(tmp_path):
    (tmp_path / "run.gin").write_text(GIN)
    assert build(TrainConfig, [str(tmp_path / "run.gin")])[0].model == MODEL
