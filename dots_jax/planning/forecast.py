"""A run on a pod in numbers: memory, step time, MFU, cost; read off its compiled train step."""

import dataclasses
import functools
import hashlib

from dots_jax.config import ComputeConfig
from dots_jax.hlo.calibration import BEST_DENSE_HFU, BEST_MOE_HFU, Shares
from dots_jax.hlo.kernel_cost import Expectation
from dots_jax.hlo.kernel_table import KernelTable
from dots_jax.hlo.liveness import Peak, peak
from dots_jax.hlo.parser import parse
from dots_jax.hlo.tables import collective_rows, part_seconds
from dots_jax.hlo.timeline import ScheduleSimulator, Timeline
from dots_jax.model.flops import count_parameters, flops_per_token
from dots_jax.planning.compile import GIB, Compiled, Job

_HOST_SHARE = 0.75  # of a host's memory: the rest is for input, checkpoints and the system
REPORT_HOURS_PER_TRILLION = 130_000  # of H800 GPUs (report, abstract and table 3)


@dataclasses.dataclass(frozen=True)
class Memory:
    """GiB of one chip. batch: the tokens of a step. temporaries: all that a step needs besides its arguments: program and
    new outputs included. peak: arguments and the fullest moment, by the compiler; the rest are gaps between buffers. host: what
    waits in the host's memory, and host_limit what may, each for one chip."""

    parameters: float
    optimizer: float
    batch: float
    temporaries: float
    total: float
    limit: float
    hbm: float
    peak: float
    host: float
    host_limit: float

    @property
    def fits(self) -> bool:
        return self.total <= self.limit and self.host <= self.host_limit


class Forecast:
    """All that is said of a compiled step. Where the compiler refused for memory there is no timeline."""

    def __init__(self, compiled: Compiled, shares: Shares | None = None, kernels: KernelTable | None = None):
        self.compiled, self.job = compiled, compiled.job
        self._shares, self._kernels = shares, kernels
        self.refused = not compiled.text
        self.memory = _memory(compiled)
        self.count = count_parameters(self.job.config.model)
        self.module = None if self.refused else parse(compiled.text)

    @functools.cached_property
    def timeline(self) -> Timeline:
        expected = expectation(self.job)
        return ScheduleSimulator(self.module, self.compiled.network, expected, self._shares, self._kernels).walk()

    @functools.cached_property
    def peak(self) -> Peak:
        return Peak(0, self.compiled.largest) if self.refused else peak(self.module)

    @property
    def module_hash(self) -> str:
        return hashlib.sha256(self.compiled.text.encode()).hexdigest()[:16]

    @property
    def step_tokens(self) -> int:
        return self.job.batch_size * self.job.stage.seq_len

    @property
    def step_flops(self) -> float:
        return self.step_tokens * flops_per_token(self.job.config.model, self.job.stage.seq_len)

    @property
    def chips(self) -> int:
        return self.job.devices // self.job.chip.devices

    @functools.cached_property
    def step_seconds(self) -> dict[str, float]:
        return self.timeline.seconds()

    @property
    def mfu(self) -> dict[str, float]:
        at_peak = self.step_flops / (self.chips * self.job.chip.flops)
        return {name: at_peak / seconds for name, seconds in self.step_seconds.items()}

    @property
    def calibrated_range(self) -> tuple[float, float, float]:
        """Seconds of a step: fast end, centre, slow end."""
        return self.timeline.shares.range(self.step_seconds["calibrated"])

    @property
    def mfu_range(self) -> tuple[float, float, float]:
        """MFU at the slow end, the centre, the fast end."""
        at_peak = self.step_flops / (self.chips * self.job.chip.flops)
        fast, centre, slow = self.calibrated_range
        return at_peak / slow, at_peak / centre, at_peak / fast

    @property
    def hfu(self) -> float:
        """Hardware FLOPs, recomputed ones included, over the peak, in a step of the calibrated estimate."""
        chip = self.job.chip
        return self.timeline.flops * chip.devices / chip.flops / self.step_seconds["calibrated"]

    @property
    def assumptions(self) -> list[tuple[str, str]]:
        """(what, kind: measured elsewhere, compiled, assumed, measured on this chip)."""
        timeline = self.timeline
        return timeline.shares.assumptions(self.job.chip, timeline.kernels_made_with, list(timeline.unknown_kernels))

    @property
    def warnings(self) -> list[str]:
        """Where the estimate is better than any measured run of this kind."""
        moe = self.job.config.model.num_experts > 1
        best, kind = (BEST_MOE_HFU, "MoE") if moe else (BEST_DENSE_HFU, "dense")
        if self.hfu <= best:
            return []
        return [
            f"Be careful: HFU {self.hfu:.0%}, and no measured {kind} run exceeds {best:.0%}. Believe the slow end of the range."
        ]

    @property
    def tokens_per_second_per_chip(self) -> dict[str, float]:
        return {name: self.step_tokens / s / self.chips for name, s in self.step_seconds.items()}

    @property
    def chip_hours_per_trillion(self) -> dict[str, float]:
        return {name: 1e12 / rate / 3600 for name, rate in self.tokens_per_second_per_chip.items()}

    def stage_days(self) -> dict[str, dict[str, float]]:
        """Of each stage, at this MFU: another length or batch moves it a little."""
        config = self.job.config
        power = self.chips * self.job.chip.flops * 86400
        return {
            stage.name: {
                name: stage.tokens * flops_per_token(config.model, stage.seq_len) / power / mfu
                for name, mfu in self.mfu.items()
            }
            for stage in config.stages
        }

    @property
    def checkpoint_gib(self) -> float:
        """Parameters and the optimizer's two moments, float32."""
        return 3 * 4 * self.count.total / GIB

    def as_json(self) -> dict:
        job, memory = self.job, self.memory
        found = {
            "topology": job.topology,
            "slices": job.slices,
            "chips": self.chips,
            "mesh": dict(self.compiled.network.axes),
            "stage": job.stage.name,
            "seq_len": job.stage.seq_len,
            "step_tokens": self.step_tokens,
            "microbatches": job.microbatches,
            "tokens_per_device_and_microbatch": job.device_tokens,
            "parameters": self.count.total,
            "active_parameters": self.count.active,
            "hbm_gib_per_chip": memory.total,
            "hbm_limit_gib": memory.limit,
            "fits": memory.fits,
            "memory_gib": dataclasses.asdict(memory),
            "compiler_bytes": self.compiled.memory,
            "state_bytes": dataclasses.asdict(self.compiled.state),
            "largest_temporaries": [
                {"gib": b.bytes * job.chip.devices / GIB, "shape": b.shape, "part": b.part, "operation": b.origin}
                for b in self.peak.buffers[:20]
            ],
            "checkpoint_gib": self.checkpoint_gib,
        }
        if self.refused:
            return found
        kinds = ("compiler", "floor")
        names = ("fast", "centre", "slow")
        return found | {
            "calibrated": {
                "step_seconds": dict(zip(names, self.calibrated_range)),
                "mfu": dict(zip(names, self.mfu_range[::-1])),
                "hfu": self.hfu,
                "assumptions": [{"what": what, "kind": kind} for what, kind in self.assumptions],
                "warnings": self.warnings,
            },
            "model_flops": self.step_flops,
            "step_seconds": self.step_seconds,
            "mfu": self.mfu,
            "tokens_per_second_per_chip": self.tokens_per_second_per_chip["calibrated"],
            "chip_hours_per_trillion_tokens": self.chip_hours_per_trillion["calibrated"],
            "ranges": {
                "tokens_per_second_per_chip": self.tokens_per_second_per_chip,
                "chip_hours_per_trillion_tokens": self.chip_hours_per_trillion,
                "stage_days": self.stage_days(),
            },
            "compute_seconds": {name: self.timeline.compute_seconds(name) for name in kinds},
            "exposed_seconds": {name: self.timeline.exposed_seconds(name) for name in kinds},
            "collectives": collective_rows(self.timeline),
            "parts": part_seconds(self.timeline),
        }


def expectation(job: Job) -> Expectation:
    """Rows of experts on a device at balanced load, and the room that it has for them."""
    compute: ComputeConfig = job.config.compute
    rows = job.device_tokens * job.config.model.experts_per_token
    return Expectation(rows, compute.expert_capacity_factor if job.config.mesh.expert > 1 else 1.0)


def _memory(compiled: Compiled) -> Memory:
    chip, stats, state = compiled.job.chip, compiled.memory, compiled.state
    gib = lambda n: n * chip.devices / GIB  # noqa: E731
    other = state.total - state.parameters - state.optimizer
    arguments = stats.get("argument", state.total)
    # A refusal that gives no figure: more than there is.
    needed = stats["needed"] or int(chip.hbm_gib * GIB / chip.devices)
    return Memory(
        parameters=gib(state.parameters), optimizer=gib(state.optimizer), batch=gib(arguments - state.total + other),
        temporaries=gib(needed - arguments), total=gib(needed), limit=chip.usable_gib, hbm=chip.hbm_gib,
        peak=gib(stats.get("peak", 0)), host=gib(stats.get("host_temp", 0) + stats.get("host_argument", 0)),
        host_limit=_HOST_SHARE * chip.host_gib,
    )  # fmt: skip


def verdict(forecast: Forecast) -> str:
    """Fits or does not fit, by how much, and what to turn."""
    memory, job = forecast.memory, forecast.job
    room = memory.limit - memory.total
    where = f"{memory.total:.1f} of {memory.limit:g} GiB a chip (of {memory.hbm:g} that {job.topology} has)"
    if memory.fits:
        return f"It fits: {where}, {room:.1f} GiB to spare."
    if room >= 0:
        return (
            f"It does not fit: {memory.host:.1f} GiB a chip in the host's memory, which has {memory.host_limit:.0f} for it. "
            "Name less in ComputeConfig.offload_activations."
        )
    return f"It does not fit: {where}, {-room:.1f} GiB too much. {knob(forecast)}"


def knob(forecast: Forecast) -> str:
    """The setting that brings most, by what there is too much of."""
    memory, job = forecast.memory, forecast.job
    compute, stage = job.config.compute, job.stage
    state = memory.parameters + memory.optimizer
    if state > memory.limit:
        return (
            f"The state alone takes {state:.1f} GiB: more chips, or a larger MeshConfig.fsdp "
            f"(now {job.config.mesh.fsdp}; MeshConfig.data = {job.config.mesh.data} makes copies)."
        )
    if job.config.mesh.data > job.slices:
        return f"MeshConfig.data = {job.config.mesh.data} makes copies of the state: put those devices into MeshConfig.fsdp."
    if compute.remat != "full":
        return f"ComputeConfig.remat = 'full' saves less than {compute.remat!r}."
    if job.device_tokens > stage.seq_len:
        smaller = int(stage.seq_len * job.devices)
        return f"A microbatch is {job.device_tokens / stage.seq_len:g} sequences a device: Stage.microbatch_tokens = {smaller:_}."
    if compute.loss_chunk_tokens == 0 or compute.loss_chunk_tokens > 1024:
        return f"ComputeConfig.loss_chunk_tokens = 1024 makes fewer logits at a time than {compute.loss_chunk_tokens}."
    if job.config.mesh.context == 1 and stage.seq_len > 8192:
        return f"MeshConfig.context splits sequences of {stage.seq_len:,} tokens."
    if memory.total - memory.limit <= memory.optimizer:
        return (
            f"ComputeConfig.offload_optimizer = True takes {memory.optimizer:.1f} GiB of Adam's moments off the chip."
        )
    if compute.remat == "full" and not compute.offload_activations:
        return "ComputeConfig.offload_activations = ('layer_input',) keeps the layers' inputs in host memory."
    if compute.expert_capacity_factor > 1.1 and job.config.mesh.expert > 1:
        return f"ComputeConfig.expert_capacity_factor = 1.1 leaves less room than {compute.expert_capacity_factor}."
    return "Only more chips help: a larger MeshConfig.fsdp."
