"""Forecasts of runs on pods: from recorded modules and figures of the compiler; the compiler itself in the slow test.

Claim: the planner's memory and time of a pod are those of the compiled module.
"""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from dots_jax.config import ComputeConfig, MeshConfig, ModelConfig, Stage, TrainConfig, UserError
from dots_jax.hlo.interconnect import Interconnect
from dots_jax.hlo.oom_report import refusal
from dots_jax.parallel.topology import CHIPS, peak_flops
from dots_jax.planning import compile as compiling
from dots_jax.planning import pod
from dots_jax.planning.analytic import rough
from dots_jax.planning.compile import GIB, Compiled, Job, StateBytes
from dots_jax.planning.forecast import Forecast, expectation, verdict
from dots_jax.planning.forecast_picture import draw
from dots_jax.planning.forecast_text import forecast_text
from dots_jax.planning.search import candidates, diverse, gin_lines

ROOT = Path(__file__).parents[2]
HAS_COMPILER = importlib.util.find_spec("libtpu") is not None
STAGE = Stage(
    name="stable", tokens=10**13, mixture="m", seq_len=8192, batch_tokens=((0, 2**26),), learning_rate_start=3e-4,
    learning_rate_end=3e-4, microbatch_tokens=2**20,
)  # fmt: skip


DEFAULT = ComputeConfig()


def job(compute: ComputeConfig = DEFAULT, stage: Stage = STAGE, **mesh) -> Job:
    mesh = MeshConfig(**({"fsdp": 16, "expert": 8} | mesh))
    config = TrainConfig(model=ModelConfig(), stages=(stage,), compute=compute, mesh=mesh)
    batch = stage.batch_tokens[0][1]
    return Job(config, "v5p:4x4x8", 1, stage, batch // stage.seq_len, batch // (stage.microbatch_tokens or batch))


def network(j: Job) -> Interconnect:
    places = tuple((0, x, y, z, 0) for x in range(4) for y in range(4) for z in range(8))
    return Interconnect(CHIPS["v5p"], tuple(dataclasses.asdict(j.config.mesh).items()), places)


def compiled(j: Job, gib: float, text: str = "") -> Compiled:
    state = StateBytes(5 * GIB, 10 * GIB, 15 * GIB)
    memory = {"argument": 15 * GIB, "needed": int(gib * GIB), "peak": int(0.9 * gib * GIB)}
    if not text:
        memory = {"needed": int(gib * GIB)}
    return Compiled(j, network(j), state, text, memory)


# Half as many devices as the jobs below have; its first 64 stand for all.
RECORDED = (ROOT / "tests/hlo/sparse_cores.txt").read_text().replace("num_partitions=64", "num_partitions=128")


# --- chips and topologies -------------------------------------------------------------------------------------------------


def test_the_compilers_clock_gives_the_peak():
    """A large matrix product takes, by the compiler's cycles, that many FLOPs a cycle of one device (measured with libtpu
    0.0.42 at 16384 x 16384): at the clock of the table that is 85 to 95 % of the data sheet's peak."""
    for name, flops_per_cycle in {"v5p": 246_028, "v5e": 120_892, "v6e": 408_749, "tpu7x": 444_834}.items():
        chip = CHIPS[name]
        share = flops_per_cycle * chip.clock / (chip.flops / chip.devices)
        # The compiler's own model of v6e is the most cautious.
        assert 0.75 < share < 0.95, (name, share)


def test_peaks_by_kind_of_device():
    kinds = {"TPU v5 lite": 197e12, "TPU v5": 459e12, "TPU v5p": 459e12, "TPU v6 lite": 918e12, "TPU7x": 1153.5e12}
    for kind, flops in kinds.items():
        assert peak_flops(dataclasses.make_dataclass("Device", ["device_kind"])(kind))[0] == flops


def test_rings():
    assert CHIPS["v5p"].wraps((4, 4, 8)) == (True, True, True)
    assert CHIPS["v5p"].wraps((2, 2, 1)) == (False, False, False)
    assert CHIPS["v6e"].wraps((16, 16, 1)) == (True, True, False)
    assert CHIPS["v5e"].wraps((8, 16, 1)) == (False, True, False)


def test_sentences_for_what_does_not_exist(monkeypatch):
    with pytest.raises(UserError, match="there is no chip v9; known are v5e, v5p, v6e, tpu7x"):
        pod.chip_of("v9:4x4")
    monkeypatch.setattr(pod.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install -r requirements-tpu.txt"):
        pod.prepare_runtime()


# --- memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message, needed",
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (107.06G) exceeds "
         "available HBM (95.74G).", 117.06 * 2**30),
        ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 19.50G of 15.75G "
         "hbm. Exceeded hbm capacity by 3.75G.", 19.5 * 2**30),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem while allocating on stack for %tgmm.28: 16.79M", None),
        ("INVALID_ARGUMENT: no such option", None),
    ],
)  # fmt: skip
def test_the_compilers_refusals(message, needed):
    found = refusal(message, arguments=10 * GIB)
    assert found == (None if needed is None else (int(needed), ()))


def test_what_takes_most_of_a_refused_program():
    message = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 15.89G of 15.75G hbm. Exceeded hbm capacity by
    141.62M.

  Largest program allocations in hbm:

  1. Size: 1.31G
     Shape: f32[61,2,1024,2816]{3,2,1,0:T(8,128)}
     Unpadded size: 1.31G
     XLA label: copy-start.22 = copy-start(param.462)
     Allocation type: HLO temp
     ==========================

  2. Size: 671.00M
     Operator: op_name="jit(train_step)/while/body/jvp()/shard_map/head/dot_general"
     Shape: bf16[61,2,1024,2816]{3,2,1,0:T(8,128)(2,1)}
     Unpadded size: 671.00M
     XLA label: fusion.1696 = fusion(all-gather.892), kind=kOutput
     Allocation type: HLO temp
     ==========================
"""
    found = refusal(message, arguments=0)
    assert found.needed == int(15.89 * GIB)
    assert [(b.bytes, b.shape, b.part, b.origin) for b in found.largest] == [
        (int(1.31 * GIB), "f32[61,2,1024,2816]", "other", "copy-start.22"),
        (671 * 2**20, "bf16[61,2,1024,2816]", "head", "head/dot_general"),
    ]


def test_verdicts():
    full = ComputeConfig(remat="full")
    assert verdict(Forecast(compiled(job(), 80, RECORDED))) == (
        "It fits: 80.0 of 85 GiB a chip (of 95 that v5p:4x4x8 has), 5.0 GiB to spare."
    )
    too_much = Forecast(compiled(job(ComputeConfig(remat="matmuls")), 90.5, RECORDED))
    assert verdict(too_much).startswith(
        "It does not fit: 90.5 of 85 GiB a chip (of 95 that v5p:4x4x8 has), 5.5 GiB too much."
    )
    assert "ComputeConfig.remat = 'full'" in verdict(too_much)
    four = dataclasses.replace(STAGE, microbatch_tokens=2**22)
    assert "Stage.microbatch_tokens = 1_048_576" in verdict(Forecast(compiled(job(full, four), 90, RECORDED)))
    assert "MeshConfig.data = 2" in verdict(Forecast(compiled(job(full, data=2, fsdp=8), 90, RECORDED)))
    long = dataclasses.replace(STAGE, seq_len=32768, microbatch_tokens=2**22)
    chunked = ComputeConfig(remat="full", loss_chunk_tokens=1024)
    assert "offload_optimizer = True takes 10.0 GiB" in verdict(Forecast(compiled(job(chunked), 90, RECORDED)))
    assert "offload_activations = ('layer_input',)" in verdict(Forecast(compiled(job(chunked), 96, RECORDED)))
    waiting = dataclasses.replace(chunked, offload_activations=("layer_input",))
    assert "expert_capacity_factor = 1.1" in verdict(Forecast(compiled(job(waiting), 96, RECORDED)))
    full_host = Forecast(compiled(job(waiting), 80, RECORDED))
    full_host.compiled.memory["host_temp"] = 90 * GIB
    full_host = Forecast(full_host.compiled)
    assert not full_host.memory.fits and "90.0 GiB a chip in the host's memory, which has 84" in verdict(full_host)
    assert "MeshConfig.context" in verdict(Forecast(compiled(job(full, long), 90, RECORDED)))


def test_what_the_compiler_refused_is_a_forecast_too(tmp_path):
    forecast = Forecast(compiled(job(), 122))
    assert not forecast.memory.fits and forecast.memory.total == pytest.approx(122)
    text = forecast_text(forecast)
    assert "The compiler refused" in text and "37.0 GiB too much" in text
    found = forecast.as_json()
    assert found["fits"] is False and "mfu" not in found
    assert "It does not fit: 95.0 of 85" in verdict(Forecast(compiled(job(), 0)))  # it did not say by how much
    draw(forecast, str(tmp_path / "a.png"))


# --- time -----------------------------------------------------------------------------------------------------------------


def test_a_forecast_says_all_that_scripts_need(tmp_path):
    forecast = Forecast(compiled(job(), 80, RECORDED))
    found = json.loads(json.dumps(forecast.as_json()))
    assert found["parameters"] == 142_774_373_888 and found["active_parameters"] == 14_016_581_120
    assert (found["hbm_gib_per_chip"], found["hbm_limit_gib"], found["fits"]) == (80, 85, True)
    for key in ("step_seconds", "mfu"):
        assert set(found[key]) == {"calibrated", "compiler", "floor", "overlapped"}
    assert found["mfu"]["compiler"] <= found["mfu"]["floor"] <= found["mfu"]["overlapped"]
    # Whatever the module: tokens/s, hours and MFU are one and the same figure.
    flops = found["model_flops"] / found["step_tokens"]
    assert flops == pytest.approx(92.8e9, rel=1e-3)
    assert found["mfu"]["calibrated"] == pytest.approx(found["tokens_per_second_per_chip"] * flops / 459e12)
    assert found["chip_hours_per_trillion_tokens"] == pytest.approx(1e12 / found["tokens_per_second_per_chip"] / 3600)
    days = found["ranges"]["stage_days"]["stable"]["calibrated"]
    assert days == pytest.approx(10 * found["chip_hours_per_trillion_tokens"] / 128 / 24)
    assert found["parts"]["experts"]["compiler"] > found["parts"]["combine"]["compiler"] > 0
    assert found["parts"]["collectives"]["compiler"] == pytest.approx(found["exposed_seconds"]["compiler"])
    assert {row["axes"] for row in found["collectives"]} and found["checkpoint_gib"] == pytest.approx(1595.6, abs=0.1)
    assert found["largest_temporaries"][0]["part"] == "experts"
    picture = tmp_path / "plan.png"
    draw(forecast, str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000


def test_expected_rows():
    assert expectation(job()).rows == 8192 * 6 and expectation(job()).buffer == ComputeConfig().expert_capacity_factor
    assert expectation(job(fsdp=128, expert=1)).buffer == 1
    assert expectation(job(stage=dataclasses.replace(STAGE, microbatch_tokens=2**22))).rows == 4 * 8192 * 6


# --- search ---------------------------------------------------------------------------------------------------------------


def test_arithmetic_knows_what_costs_memory_and_time():
    base = job(ComputeConfig(remat="full"))
    at = lambda j: rough(j, network(j))  # noqa: E731
    kept = job(ComputeConfig(remat="matmuls"))
    assert at(kept).gib > at(base).gib + 10 and at(kept).seconds < at(base).seconds
    four = job(ComputeConfig(remat="full"), dataclasses.replace(STAGE, microbatch_tokens=2**22))
    assert at(four).gib > at(base).gib and at(four).seconds <= at(base).seconds
    waiting = job(ComputeConfig(remat="full", offload_activations=("layer_input",)))
    assert at(waiting).gib < at(base).gib - 3 and at(waiting).seconds == at(base).seconds  # hidden
    assert at(job(ComputeConfig(remat="full", offload_optimizer=True))).gib < at(base).gib - 8
    assert 0.3 < at(base).mfu < 0.75
    assert 20 < at(base).gib < 60


def test_candidates_fit_by_arithmetic_and_are_ready_for_a_gin_file():
    found = candidates(job(), lambda config: network(dataclasses.replace(job(), config=config)))
    assert len(found) > 50
    assert all(c.job.devices == 128 and c.rough.gib <= 1.15 * 85 for c in found)
    assert [c.rough.seconds for c in found] == sorted(c.rough.seconds for c in found)
    chosen = diverse(found, 6)
    assert len(chosen) == 6 and len({c.settings for c in chosen}) == 6
    assert "MeshConfig.fsdp = " in "\n".join(gin_lines(chosen[0].job))
    assert candidates(job(), lambda config: None) == []  # no mesh can be laid
    # The compiler has no gather for a complete cube: fsdp takes a line or a plane of it.
    assert all(c.job.config.mesh.fsdp < 128 for c in found)


# --- the command ----------------------------------------------------------------------------------------------------------


def plan(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "dots_jax.plan", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.subprocess
def test_without_libtpu_the_command_says_how_to_install_it():
    code = """
import importlib.util, runpy
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *package: None if name == "libtpu" else real(name, *package)
runpy.run_module("dots_jax.plan", run_name="__main__", alter_sys=True)
"""
    command = [sys.executable, "-c", code, "--gin_file=gin/tiny.gin", "--topology=v5p:2x2x1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "pip install -r requirements-tpu.txt" in done.stderr


@pytest.mark.subprocess
@pytest.mark.parametrize(
    "flags, sentence",
    [
        (
            ["--topology=v5p:2x2x1", "--picture=plan.jpg"],
            "--picture=plan.jpg: the name must end with one of .png, .svg, .pdf",
        ),
        (["--topology=v5p:2x2x1", "--json=gin"], "--json=gin cannot be written: it is a folder"),
        (["--topology=v5p:2x2x1", "--search", "--hlo=plan.hlo"], "--search writes no --hlo"),
        (["--topology=v5p:2x2x1", "--search", "--read=plan.hlo"], "--search compiles many modules, and --read"),
        (["--read=plan.hlo"], "--read is about a compiled step: it needs --topology"),
        (["--stage=long", "--json=plan.json"], "--stage is about a compiled step: it needs --topology"),
    ],
)
def test_what_cannot_be_planned_is_refused_at_once(flags, sentence):
    done = plan("--gin_file=gin/tiny.gin", *flags)
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1


def test_no_device_of_the_topology_stays_idle(monkeypatch):
    monkeypatch.setattr(compiling, "pod_devices", lambda topology, slices: [None] * 256)
    config = dataclasses.replace(job().config, mesh=MeshConfig(data=1, fsdp=16, expert=8))
    with pytest.raises(UserError, match="leaves 128 of the 256 devices of v5p:8x4x8 idle: enlarge MeshConfig.fsdp"):
        compiling.make_job(config, "v5p:8x4x8")


@pytest.mark.subprocess
def test_files_that_cannot_be_written_are_refused_before_compiling():
    done = plan("--gin_file=gin/tiny.gin", "--topology=v5p:2x2x1", "--json=no/such/plan.json")
    assert done.returncode == 2 and "--json=no/such/plan.json cannot be written" in done.stderr


@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.tpu
@pytest.mark.skipif(not HAS_COMPILER, reason="needs libtpu: pip install -r requirements-dev.txt")
def test_a_small_step_compiles_for_a_pod(tmp_path):
    """The step that `train` runs, by the TPU compiler, without tensorflow or seqio."""
    code = """
import runpy, sys
for name in ("tensorflow", "seqio", "tensorflow_datasets"):
    sys.modules[name] = None
runpy.run_module("dots_jax.plan", run_name="__main__", alter_sys=True)
"""
    files = {name: tmp_path / f"plan.{name}" for name in ("json", "hlo", "png")}
    flags = [f"--json={files['json']}", f"--hlo={files['hlo']}", f"--picture={files['png']}", "--top=5"]
    done = subprocess.run(
        [sys.executable, "-c", code, "--gin_file=gin/tiny.gin", "--topology=v5p:2x2x1", *flags],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "It fits" in done.stdout
    found = json.loads(files["json"].read_text())
    assert found["fits"] and found["mesh"] == {"data": 1, "fsdp": 4, "expert": 1, "context": 1}
    assert {"attention", "experts", "router", "dispatch", "combine", "shared", "head", "collectives"} <= set(
        found["parts"]
    )
    assert {row["axes"] for row in found["collectives"]} == {"fsdp"}
    assert files["hlo"].read_text().startswith("HloModule") and files["png"].stat().st_size > 20_000


@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.tpu
@pytest.mark.skipif(not HAS_COMPILER, reason="needs libtpu: pip install -r requirements-dev.txt")
def test_tokens_travel_ragged_and_moments_stay_on_the_host(tmp_path):
    settings = {
        "MeshConfig.fsdp": "1", "MeshConfig.expert": "4", "ComputeConfig.expert_strategy": "'all_to_all'",
        "ComputeConfig.offload_optimizer": "True",
    }  # fmt: skip
    hlo, report = tmp_path / "plan.hlo", tmp_path / "plan.json"
    bindings = [f"--gin_bindings={name} = {value}" for name, value in settings.items()]
    done = plan("--gin_file=gin/tiny.gin", *bindings, "--topology=v5p:2x2x1", f"--hlo={hlo}", f"--json={report}")
    assert done.returncode == 0, done.stderr
    assert "ragged-all-to-all(" in hlo.read_text()
    memory = json.loads(report.read_text())["memory_gib"]
    assert memory["host"] > 1000 * memory["optimizer"]  # the step count stays
