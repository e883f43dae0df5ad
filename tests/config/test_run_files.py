"""The shipped run files of gin/: each parses, and fits the devices that its header names, without having them.

Claim: every run file and mesh of `gin/` fits the devices that its header names.
"""

import dataclasses
import math
import re
from pathlib import Path

import pytest

from dots_jax.cli import gin_config
from dots_jax.config import TrainConfig, UserError, dots_llm1
from dots_jax.curriculum.table import plan
from dots_jax.model.flops import count_parameters

GIN = Path(__file__).parents[2] / "gin"
DOTS = GIN / "dots142b.gin"
MESHES = sorted(path.stem for path in (GIN / "meshes").glob("*.gin"))


def build(*paths: Path) -> TrainConfig:
    return gin_config.build(TrainConfig, [str(path) for path in paths])[0]


def header(path: Path) -> str:
    return path.read_text().split("\n\n")[0]


def target(path: Path) -> tuple[int, int]:
    """(devices, slices) of the topology that a file's header gives to the planner; its --devices must be as many."""
    generation, shape = re.search(r"--topology=(\w+):([\dx]+)", header(path)).groups()
    slices = int((re.search(r"--slices=(\d+)", header(path)) or [0, 1])[1])
    devices = math.prod(int(n) for n in shape.split("x")) * slices * (2 if generation == "tpu7x" else 1)
    assert f"--devices=tpu:{devices}" in header(path)
    return devices, slices


@pytest.mark.parametrize("name", [path.stem for path in sorted(GIN.glob("*.gin"))])
def test_a_run_file_says_how_to_run_it(name):
    assert re.search(rf"python -m dots_jax\.\w+ --gin_file=gin/{name}\.gin", header(GIN / f"{name}.gin"))
    assert "# Hardware:" in header(GIN / f"{name}.gin")


@pytest.mark.parametrize("name", MESHES)
def test_the_whole_pre_training_fits_each_mesh(name):
    path = GIN / "meshes" / f"{name}.gin"
    config, (devices, slices) = build(DOTS, path), target(path)
    mesh = config.for_devices(devices).mesh  # refuses batches that the mesh cannot split
    assert mesh.size == devices and mesh.data % slices == 0
    assert f"--gin_file=gin/meshes/{name}.gin" in header(path) or config == build(DOTS)
    # A mesh decides how the run is computed, never what it learns.
    plain, default = (
        [dataclasses.replace(stage, microbatch_tokens=0) for stage in one.stages] for one in (config, build(DOTS))
    )
    assert plain == default and config.model == dots_llm1() and config.optimizer == build(DOTS).optimizer
    assert all(stage.microbatch_tokens for stage in config.stages)


def test_a_mesh_file_leaves_nothing_of_the_one_before():
    settings = {
        name: sorted(re.findall(r"^([\w./]+) *=", (GIN / "meshes" / f"{name}.gin").read_text(), re.M))
        for name in MESHES
    }
    assert len(MESHES) >= 8 and len(set(map(tuple, settings.values()))) == 1, settings


def test_the_run_without_its_devices():
    assert target(DOTS) == (512, 1) and build(DOTS).for_devices(512).mesh.size == 512
    with pytest.raises(UserError, match=r"^The mesh .* needs 512 devices, but there are 1: [^.]*\.$"):
        build(DOTS).for_devices(1)
    text = plan(build(DOTS))
    assert text.startswith("tokens      11,328,278,233,088 in 134,818 steps")
    last = next(line for line in text.splitlines() if "dots_long" in line)
    for path in (GIN / "meshes").glob("*.gin"):  # where the headers say that the 32K stage begins
        for step in re.findall(r"step (\d+)|max_steps=(\d+)", header(path)):
            assert f"{int(''.join(step)):,}-" in last


@pytest.mark.parametrize("name, billions, devices", [("dots1b", 1, (1, 2, 8)), ("dots16b", 16, (16,))])
def test_siblings(name, billions, devices):
    config, dots = build(GIN / f"{name}.gin"), dots_llm1()
    assert abs(count_parameters(config.model).total / 1e9 / billions - 1) < 0.1
    for number in devices:
        assert config.for_devices(number).mesh.size == number
    same = ("vocab_size", "head_dim", "experts_per_token", "num_shared_experts", "routed_scaling_factor", "rope_theta")
    assert [getattr(config.model, field) for field in same] == [getattr(dots, field) for field in same]
    assert config.model.num_heads * config.model.head_dim == config.model.hidden_size
    if name == "dots16b":
        assert target(GIN / f"{name}.gin") == (16, 1)


@pytest.mark.parametrize("name, mixture, sessions", [("sft_phase1", "sft", 4), ("sft_phase2_rft", "rft", 1)])
def test_fine_tuning_leaves_the_model_to_the_weights(name, mixture, sessions):
    path = GIN / f"{name}.gin"
    with pytest.raises(
        UserError, match="^TrainConfig.initial_checkpoint, from which the model is read: There is no folder"
    ):
        build(path)
    config = build(path, GIN / "models" / "dots_llm1.gin")
    (devices, slices), (stage,) = target(path), config.stages
    assert config.for_devices(devices).mesh.size == devices == 64 and slices == 1
    assert config.model == dots_llm1() and config.initial_checkpoint
    assert (stage.epochs, stage.mixture, stage.sessions) == (2.0, mixture, sessions)
    rates = stage.learning_rate_start, stage.learning_rate_end, stage.learning_rate_shape
    assert rates == (5e-6, 1e-6, "cosine")  # report, section 5
    assert config.balance.expert_bias_update_rate == config.balance.sequence_aux_loss_coef == 0
    names = {source.name for source in config.data.sources}
    assert names == set(config.validation) and names == set(config.data.mixtures[0].names)
    assert " 2.00" in plan(config) or "~2.00" in plan(config)  # epochs of a source that is not repeated
