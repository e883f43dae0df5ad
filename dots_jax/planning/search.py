"""Looks for a better configuration within the same chips: meshes, remat, microbatches, exchanges, chunks of the loss.

Arithmetic sorts all of them; the compiler is asked about the most promising ones only.
"""

import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator

from dots_jax.cli.options import PodOptions
from dots_jax.config import EXPERT_STRATEGIES, Stage, TrainConfig, UserError
from dots_jax.hlo.interconnect import Interconnect
from dots_jax.planning.analytic import Rough, group_along, rough
from dots_jax.planning.calibrate import Measurements
from dots_jax.planning.compile import Job, compile_step
from dots_jax.planning.forecast import Forecast
from dots_jax.planning.pod import network_of_mesh_sizes
from dots_jax.storage import write_text

Remat = str | tuple[str, ...]
REMATS: tuple[Remat, ...] = (
    "full", ("attention",), ("attention", "qkv"), ("attention", "qkv", "attn_out", "dense_ffn_hidden"), "matmuls",
)  # fmt: skip
SEQUENCES = (1, 2, 4, 8)  # of a device in a microbatch
CHUNKS = (1024, 2048)
OFFLOADS = ((), ("layer_input",))
_HOPELESS = 1.15  # times the limit, by arithmetic that errs towards too little


@dataclasses.dataclass(frozen=True)
class Candidate:
    job: Job
    rough: Rough

    @property
    def settings(self) -> str:
        """As bindings of a gin file."""
        mesh, compute = self.job.config.mesh, self.job.config.compute
        axes = " x ".join(f"{name} {size}" for name, size in dataclasses.asdict(mesh).items() if size > 1)
        sequences = self.job.device_tokens / self.job.stage.seq_len
        chunk = f"loss chunk {compute.loss_chunk_tokens}"
        host = f", on the host {compute.offload_activations}" if compute.offload_activations else ""
        return f"{axes}; {compute.expert_strategy}; remat {compute.remat}{host}; {sequences:g} sequence(s); {chunk}"


def candidates(job: Job, network: Callable[[TrainConfig], Interconnect | None]) -> list[Candidate]:
    """All that can run and may fit, the most promising first. network: of a config, None where its mesh cannot be laid."""
    found = []
    for config, stage in _variants(job):
        laid = network(config)
        if laid is None or cube(laid, "fsdp"):  # for which the compiler has no gathers: see `mesh.gather_parameter`
            continue
        microbatches = job.batch_size * stage.seq_len // stage.microbatch_tokens
        variant = dataclasses.replace(job, config=config, stage=stage, microbatches=microbatches)
        estimate = rough(variant, laid)
        if estimate.gib <= _HOPELESS * job.chip.usable_gib:
            found.append(Candidate(variant, estimate))
    return sorted(found, key=lambda candidate: candidate.rough.seconds)


def cube(network: Interconnect, axis: str) -> bool:
    """Whether a mesh axis spans all three dimensions of a torus."""
    group = group_along(network, (axis,))
    return len(group) > 1 and set("xyz") <= set(network.links(group))


def _variants(job: Job) -> Iterator[tuple[TrainConfig, Stage]]:
    for mesh in _meshes(job):
        strategies = EXPERT_STRATEGIES if mesh["expert"] > 1 else (job.config.compute.expert_strategy,)
        strategies = tuple(strategy for strategy in strategies if _sensible(strategy, mesh, job))
        for remat, strategy, sequences, chunk, offload in itertools.product(
            REMATS, strategies, SEQUENCES, CHUNKS, OFFLOADS
        ):
            tokens = sequences * job.stage.seq_len * job.devices // mesh["context"]
            if tokens > job.batch_size * job.stage.seq_len:
                continue
            try:
                yield _config(job, mesh, remat, strategy, chunk, offload, tokens)
            except UserError:  # config.py refuses it: a batch or experts that do not divide
                continue


def _sensible(strategy: str, mesh: dict[str, int], job: Job) -> bool:
    """Where weights travel, `expert` only says in which order they lie: one order is enough, and for one collective over a
    2D torus the one in which a device holds a part of one expert."""
    if strategy == "gather_weights":
        return mesh["expert"] in (1, job.config.mesh.expert)
    return strategy != "gather_weights_fused" or (job.chip.dims == 2 and mesh["fsdp"] == job.config.model.num_experts)


def _meshes(job: Job) -> Iterator[dict[str, int]]:
    """data holds the slices apart; the rest goes to fsdp, expert and, for long sequences, context."""
    devices = job.devices // job.slices
    contexts = (1, 2, 4, 8) if job.stage.seq_len > 8192 else (1,)
    for expert, context in itertools.product((1, 2, 4, 8, 16, 32), contexts):
        if devices % (expert * context) == 0 and job.config.model.num_experts % expert == 0:
            yield {"data": job.slices, "fsdp": devices // (expert * context), "expert": expert, "context": context}


def _config(
    job: Job, mesh: dict[str, int], remat: Remat, strategy: str, chunk: int, offload: tuple[str, ...], tokens: int
) -> tuple[TrainConfig, Stage]:
    config = job.config
    stage = dataclasses.replace(job.stage, microbatch_tokens=tokens)
    compute = dataclasses.replace(
        config.compute, remat=remat, expert_strategy=strategy, loss_chunk_tokens=chunk, offload_activations=offload
    )
    config = dataclasses.replace(
        config, stages=(stage,), compute=compute, mesh=dataclasses.replace(config.mesh, **mesh), validation=()
    )
    return config.for_devices(job.devices), stage


def diverse(found: list[Candidate], number: int) -> list[Candidate]:
    """The first `number`, but no more than two that differ in chunks, exchange or remat alone: arithmetic is rough."""
    chosen: list[Candidate] = []
    for candidate in found:
        key = (candidate.job.config.mesh, candidate.job.microbatches)
        alike = [c for c in chosen if (c.job.config.mesh, c.job.microbatches) == key]
        if len(alike) < 2 and not any(
            c.job.config.compute.expert_strategy == candidate.job.config.compute.expert_strategy for c in alike
        ):
            chosen.append(candidate)
        if len(chosen) == number:
            break
    return chosen


def search(job: Job, options: PodOptions, measurements: Measurements) -> int:
    """Prints the best that were found, with what to write into a gin file. The exit status: 1 if none fits."""
    import tqdm

    networks: dict = {}

    def network(config: TrainConfig) -> Interconnect | None:
        if config.mesh not in networks:
            sizes = tuple(dataclasses.asdict(config.mesh).items())
            try:
                networks[config.mesh] = network_of_mesh_sizes(job.topology, job.slices, sizes)
            except (UserError, NotImplementedError, ValueError):  # no place on the torus
                networks[config.mesh] = None
        return networks[config.mesh]

    found = candidates(job, network)
    chosen = diverse(found, options.max_trials)
    print(
        f"{len(found)} configurations may fit by arithmetic; compiling the {len(chosen)} most promising ...",
        file=sys.stderr,
    )
    results, start = [], time.monotonic()
    for candidate in tqdm.tqdm(chosen, unit="compile", file=sys.stderr):
        try:
            results.append(
                (candidate, Forecast(compile_step(candidate.job), measurements.shares, measurements.kernels))
            )
        except Exception as error:  # one that the compiler cannot do is no reason to lose the others
            print(f"left out: {candidate.settings}: {' '.join(str(error).split())[:200]}", file=sys.stderr)
    print(f"{len(chosen)} compiled in {time.monotonic() - start:.0f} s", file=sys.stderr)
    ranked = sorted(
        results, key=lambda r: (not r[1].memory.fits, 0 if r[1].refused else r[1].step_seconds["calibrated"])
    )
    print(ranking(ranked))
    if options.json:
        rows = [
            {"settings": c.settings, "gin": gin_lines(c.job), "rough": dataclasses.asdict(c.rough)} | f.as_json()
            for c, f in ranked
        ]
        write_text(options.json, json.dumps(rows, indent=1) + "\n")
    return 0 if ranked and ranked[0][1].memory.fits else 1


def ranking(ranked: list[tuple[Candidate, Forecast]]) -> str:
    lines = [f"{'MFU':>7}{'floors':>8}{'GiB':>8}{'limit':>7}  {'by arithmetic':<16}settings"]
    for candidate, forecast in ranked:
        memory = forecast.memory
        figures = (
            "      -       -" if forecast.refused else f"{forecast.mfu['compiler']:>7.1%}{forecast.mfu['floor']:>8.1%}"
        )
        guess = f"{candidate.rough.mfu:.0%}, {candidate.rough.gib:.0f} GiB"
        state = "" if memory.fits else "  does not fit"
        lines.append(f"{figures}{memory.total:>8.1f}{memory.limit:>7.1f}  {guess:<16}{candidate.settings}{state}")
    if ranked and ranked[0][1].memory.fits:
        lines += ["", "The best of them, for a gin file:", *(f"    {line}" for line in gin_lines(ranked[0][0].job))]
    return "\n".join(lines)


def gin_lines(job: Job) -> list[str]:
    mesh, compute = job.config.mesh, job.config.compute
    return [
        "TrainConfig.mesh = @MeshConfig()",
        *(f"MeshConfig.{name} = {size}" for name, size in dataclasses.asdict(mesh).items()),
        "TrainConfig.compute = @ComputeConfig()",
        *(
            f"ComputeConfig.{name} = {getattr(compute, name)!r}"
            for name in (
                "remat",
                "expert_strategy",
                "expert_capacity_factor",
                "loss_chunk_tokens",
                "offload_optimizer",
                "offload_activations",
            )
        ),
        f"{job.stage.name}/Stage.microbatch_tokens = {job.stage.microbatch_tokens:_}",
    ]
