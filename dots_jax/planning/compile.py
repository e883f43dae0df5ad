"""Compiles the train step of a config, the one that `train` runs, for a TPU pod that is not there."""

import dataclasses

import jax
import jax.numpy as jnp

from dots_jax.config import Stage, TrainConfig, UserError
from dots_jax.curriculum.mixture_use import known_sizes, with_estimated_tokens
from dots_jax.curriculum.stages import Schedule
from dots_jax.hlo.interconnect import Interconnect
from dots_jax.hlo.liveness import Buffer
from dots_jax.hlo.oom_report import refusal
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.batches import BATCH_KEYS
from dots_jax.parallel.mesh import make_mesh
from dots_jax.parallel.sharding import batch_sharding, replicated
from dots_jax.planning.pod import chip_of, network_of, pod_devices
from dots_jax.training.optimizer import make_optimizer
from dots_jax.training.state import abstract_state, bytes_per_device
from dots_jax.training.step import jit_train_step

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Job:
    """What is compiled. batch_size: sequences of a step, over all devices; microbatches: pieces that it is taken in."""

    config: TrainConfig
    topology: str
    slices: int
    stage: Stage
    batch_size: int
    microbatches: int

    @property
    def chip(self):
        return chip_of(self.topology)

    @property
    def devices(self) -> int:
        return self.config.mesh.size

    @property
    def device_tokens(self) -> float:
        """Tokens of one device in one microbatch."""
        return self.batch_size * self.stage.seq_len / self.microbatches / self.devices


@dataclasses.dataclass(frozen=True)
class StateBytes:
    """Of one device."""

    parameters: int
    optimizer: int
    total: int


@dataclasses.dataclass(frozen=True)
class Compiled:
    """text: the optimised module; empty where the compiler refused for want of memory. memory: the compiler's figures for
    one device in bytes; where it refused `needed` alone, and in `largest` what takes most of it."""

    job: Job
    network: Interconnect
    state: StateBytes
    text: str
    memory: dict[str, int]
    largest: tuple[Buffer, ...] = ()


def make_job(config: TrainConfig, topology: str, slices: int = 1, stage: str | None = None) -> Job:
    """The first step of a stage (default: the first) on a topology.

    Raises:
      UserError: there is no such stage, or the mesh or the batch does not fit the devices.
    """
    devices = len(pod_devices(topology, slices))
    config = config.for_devices(devices)
    if config.mesh.size != devices:
        pods = topology if slices == 1 else f"{slices} x {topology}"
        raise UserError(
            f"The mesh ({config.mesh}) leaves {devices - config.mesh.size} of the {devices} devices of {pods} idle: enlarge "
            "MeshConfig.fsdp, or plan for a smaller topology."
        )
    names = [s.name for s in config.stages]
    if stage is not None and stage not in names:
        raise UserError(f"--stage={stage}: the stages of this run are {', '.join(names)}.")
    stages = with_estimated_tokens(config.stages, config.data, known_sizes(config.data))
    config = dataclasses.replace(config, stages=stages)
    schedule = Schedule(stages)
    first = next(s for s in schedule.segments if stage is None or s.stage.name == stage)
    plan = schedule.at(first.first_step)
    return Job(config, topology, slices, plan.stage, plan.batch_size, plan.microbatches)


def compile_step(job: Job) -> Compiled:
    """Lowers and compiles. Takes minutes for the full model.

    Raises:
      UserError: the devices cannot form the mesh.
    """
    config, devices = job.config, pod_devices(job.topology, job.slices)
    mesh = make_mesh(config.mesh, devices)
    definition = ModelDef(config.model, config.compute, mesh, config.optimizer.init_std)
    optimizer = make_optimizer(config.optimizer, definition.weight_decays())
    step = jit_train_step(
        definition, optimizer, compute=config.compute, balance=config.balance, guard=config.guard,
        microbatches=job.microbatches,
    )  # fmt: skip
    state = abstract_state(definition, optimizer)
    shape, sharding = (job.batch_size, job.stage.seq_len), batch_sharding(mesh)
    batch = {
        key: jax.ShapeDtypeStruct(shape, jnp.float32 if key == "weights" else jnp.int32, sharding=sharding)
        for key in BATCH_KEYS
    }
    rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh))
    sizes = StateBytes(bytes_per_device(state.params), bytes_per_device(state.opt_state), bytes_per_device(state))
    network = network_of(mesh, job.chip)
    try:
        compiled = step.lower(state, batch, rate).compile()
    except jax.errors.JaxRuntimeError as error:
        refused = refusal(str(error), sizes.total)
        if refused is None:
            raise
        return Compiled(job, network, sizes, "", {"needed": refused.needed}, refused.largest)
    return Compiled(job, network, sizes, compiled.as_text(), _memory(compiled.memory_analysis()))


def compiled_before(job: Job, text: str, found: dict) -> Compiled:
    """What `compile_step` found, from the files that a plan wrote: --hlo, and --json in `found`."""
    network = network_of(make_mesh(job.config.mesh, pod_devices(job.topology, job.slices)), job.chip)
    return Compiled(job, network, StateBytes(**found["state_bytes"]), text, found["compiler_bytes"])


def _memory(stats) -> dict[str, int]:
    names = ("argument", "output", "alias", "temp", "generated_code", "host_argument", "host_temp")
    found = {name: getattr(stats, f"{name}_size_in_bytes") for name in names}
    found["peak"] = getattr(stats, "peak_memory_in_bytes", 0)
    found["needed"] = sum(found[n] for n in ("argument", "output", "temp", "generated_code")) - found["alias"]
    return found
