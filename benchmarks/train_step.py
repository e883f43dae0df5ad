"""A training step of the 1B sibling on one GPU or TPU; on a CPU, of a small model. Tokens/s, MFU and memory, against a roofline.

    python -m benchmarks.train_step [--json=FILE] [--steps=N] [--sequences=N] [--microbatches=N] [--remat=NAME]

The step is the one that training runs (`gin/dots1b.gin`: its model, its settings, its microbatches), on random tokens,
one document a sequence. MFU counts the FLOPs of `model/flops.py`, causal attention as half a square and nothing that is
computed twice, over the peak of the data sheet, or, on a CPU, over a measured one.

Two things to hold it against, both printed: a floor, the longer of what the FLOPs take at the peak and what the bytes take
that a step cannot do without (`floor_bytes`); and a plain matmul in the same process and the same minute, as a peer that
knows no experts.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dots_jax.cli import gin_config
from dots_jax.config import ComputeConfig, MeshConfig, ModelConfig, Stage, TrainConfig
from dots_jax.model.flops import count_parameters, flops_per_token
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.mesh import make_mesh
from dots_jax.parallel.sharding import batch_sharding
from dots_jax.parallel.topology import peak_flops
from dots_jax.training.optimizer import make_optimizer
from dots_jax.training.state import init_state, state_shardings
from dots_jax.training.step import jit_train_step

RUN_FILE = Path(__file__).parents[1] / "gin" / "dots1b.gin"
# Memory bandwidth of one device in bytes/s, by the prefix of jax's device_kind (vendors' data sheets, the SXM cards).
BANDWIDTH = {
    "NVIDIA H200": 4800e9, "NVIDIA H100": 3350e9, "NVIDIA A100": 2039e9, "TPU7x": 3690e9, "TPU v6": 1640e9,
    "TPU v5 lite": 819e9, "TPU v5e": 819e9, "TPU v5": 2765e9, "TPU v4": 1228e9,
}  # fmt: skip


def small_run() -> TrainConfig:
    """The same family at a size for CPUs, in float32: two microbatches of two sequences."""
    model = ModelConfig(
        vocab_size=2048, num_layers=4, hidden_size=256, num_heads=4, head_dim=64, dense_ffn_size=768, num_experts=32,
        experts_per_token=6, expert_ffn_size=96, num_shared_experts=2, max_seq_len=512,
    )  # fmt: skip
    stage = Stage(
        name="small", tokens=2048, mixture="none", seq_len=512, batch_tokens=((0, 2048),), microbatch_tokens=1024,
        learning_rate_start=1e-3, learning_rate_end=1e-3,
    )  # fmt: skip
    compute = ComputeConfig(dtype="float32", remat="matmuls")
    return TrainConfig(model=model, stages=(stage,), compute=compute, mesh=MeshConfig(fsdp=1))


def floor_bytes(parameters: int, microbatches: int) -> float:
    """What a step must read and write at least: parameters and both moments once each way, in float32; and for every
    microbatch the weights in 2 bytes, forward and backward, and the sum of the gradients in 4, read and written."""
    return parameters * (2 * 3 * 4 + microbatches * (2 * 2 + 2 * 4))


def matmul_flops(platform: str) -> float:
    """FLOP/s of a plain matmul of one device here and now, best of five bursts: the peer."""
    size, dtype = (1536, jnp.float32) if platform == "cpu" else (8192, jnp.bfloat16)
    a, multiply = jnp.ones((size, size), dtype), jax.jit(jnp.matmul)
    multiply(a, a).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready([multiply(a, a) for _ in range(8)])
        seconds.append((time.perf_counter() - start) / 8)
    return 2 * size**3 / min(seconds)


def copy_bandwidth() -> float:
    """Bytes/s that this machine reads and writes, all cores, best of five."""
    a, copy = jnp.ones(2**26, jnp.float32), jax.jit(lambda a: a + 1)
    copy(a).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        copy(a).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * a.nbytes / min(seconds)


def bandwidth(device: jax.Device) -> tuple[float, str]:
    for prefix, rate in BANDWIDTH.items():
        if device.device_kind.startswith(prefix):
            return rate, "data sheet"
    return copy_bandwidth() / (jax.local_device_count() if device.platform == "cpu" else 1), "measured"


def peak_memory() -> tuple[float, str]:
    """The largest device's peak in bytes, or, where the devices do not tell, that of this process."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    if max(peaks):
        return max(peaks), "of a device"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "of the process"


def batch_of(config: TrainConfig, sequences: int, mesh) -> dict[str, jax.Array]:
    length = config.stages[0].seq_len
    tokens = np.random.default_rng(0).integers(0, config.model.vocab_size, (sequences, length + 1), np.int32)
    batch = {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "positions": np.tile(np.arange(length, dtype=np.int32), (sequences, 1)),
        "segments": np.ones((sequences, length), np.int32),
        "weights": np.ones((sequences, length), np.float32),
    }
    return jax.device_put(batch, batch_sharding(mesh))


def measure(config: TrainConfig, sequences: int, microbatches: int, steps: int) -> dict:
    """Figures of steps on `microbatches` pieces of `sequences` sequences, over all devices."""
    devices, stage = jax.devices(), config.stages[0]
    config = config.for_devices(len(devices) if config.mesh.fsdp == -1 else config.mesh.size)
    mesh = make_mesh(config.mesh)
    definition = ModelDef(config.model, config.compute, mesh, config.optimizer.init_std)
    optimizer = make_optimizer(config.optimizer, definition.weight_decays())
    state = jax.jit(
        lambda: init_state(definition, optimizer, config.seed), out_shardings=state_shardings(definition, optimizer)
    )()
    step = jit_train_step(
        definition, optimizer, compute=config.compute, balance=config.balance, guard=config.guard,
        microbatches=microbatches,
    )  # fmt: skip
    batch = batch_of(config, sequences * microbatches, mesh)
    rate, losses, seconds, first = jnp.float32(stage.learning_rate_start), [], [], 0.0
    for turn in range(steps + 3):
        start = time.perf_counter()
        state, metrics = jax.block_until_ready(step(state, batch, rate))
        elapsed = time.perf_counter() - start
        first = first or elapsed
        if turn >= 3:  # the first compiles, two warm up
            seconds.append(elapsed)
        losses.append(float(metrics["loss"]))
    median, tokens = statistics.median(seconds), batch["tokens"].size
    peak, peak_source = peak_flops(mesh.devices.flat[0])
    hbm, hbm_source = bandwidth(mesh.devices.flat[0])
    flops = flops_per_token(config.model, stage.seq_len) * tokens
    parameters, memory = count_parameters(config.model), peak_memory()
    floors = {
        "flops": flops / (peak * mesh.size),
        "bytes": floor_bytes(parameters.total, microbatches) / (hbm * mesh.size),
    }
    plain = matmul_flops(devices[0].platform) * (mesh.size if devices[0].platform != "cpu" else 1)
    return {
        "device": devices[0].device_kind, "devices": mesh.size, "dtype": config.compute.dtype, "remat": config.compute.remat,
        "parameters": parameters.total, "active_parameters": parameters.active, "seq_len": stage.seq_len,
        "sequences": sequences, "microbatches": microbatches, "tokens_per_step": tokens, "steps": steps,
        "step_seconds": median, "step_seconds_min": min(seconds), "first_step_seconds": first,
        "tokens_per_second": tokens / median, "flops_per_step": flops, "mfu": flops / median / (peak * mesh.size),
        "peak_flops": peak * mesh.size, "peak_source": peak_source, "bandwidth_source": hbm_source,
        "floor_seconds": floors, "over_floor": median / max(floors.values()), "matmul_flops": plain,
        "ratio_to_matmul": flops / median / plain, "peak_memory_bytes": memory[0], "peak_memory_source": memory[1],
        "loss_first": losses[0], "loss_last": losses[-1],
        "expert_load_imbalance": float(jnp.max(metrics["expert_load_imbalance"])),
    }  # fmt: skip


def table(r: dict) -> str:
    floor = r["floor_seconds"]
    return "\n".join([
        f"{r['devices']} x {r['device']}; {r['parameters'] / 1e6:,.0f}M parameters, {r['active_parameters'] / 1e6:,.0f}M active; "
        f"{r['dtype']}, remat {r['remat']}",
        f"a step       {r['tokens_per_step']:,} tokens: {r['microbatches']} x {r['sequences']} sequences of {r['seq_len']}; loss "
        f"{r['loss_first']:.3f} -> {r['loss_last']:.3f}; busiest expert {r['expert_load_imbalance']:.2f} times the mean",
        f"time         {r['step_seconds']:.3f} s (median of {r['steps']}; best {r['step_seconds_min']:.3f}; the first, with "
        f"compilation, {r['first_step_seconds']:.1f})",
        f"speed        {r['tokens_per_second']:,.0f} tokens/s",
        f"MFU          {r['mfu']:.1%} of {r['peak_flops'] / 1e12:,.2f} TFLOP/s ({r['peak_source']})",
        f"floor        {max(floor.values()):.3f} s (FLOPs {floor['flops']:.3f}, bytes {floor['bytes']:.3f}; bandwidth: "
        f"{r['bandwidth_source']}): the step takes "
        f"{r['over_floor']:.2f} times that",
        f"peer         a plain matmul reaches {r['matmul_flops'] / 1e12:,.2f} TFLOP/s here and now: ratio "
        f"{r['ratio_to_matmul']:.2f}",
        f"peak memory  {r['peak_memory_bytes'] / 2**30:.2f} GiB {r['peak_memory_source']}",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--steps", type=int, default=10, help="timed steps (default 10)")
    parser.add_argument("--sequences", type=int, help="of a microbatch, over all devices (default: the run file's)")
    parser.add_argument("--microbatches", type=int, help="of a step (default: the run file's)")
    parser.add_argument("--remat", help="what the backward pass recomputes (default: the run file's)")
    options = parser.parse_args()
    bindings = [f"ComputeConfig.remat = '{options.remat}'"] if options.remat else []
    accelerator = jax.default_backend() != "cpu"
    config = gin_config.build(TrainConfig, [str(RUN_FILE)], bindings)[0] if accelerator else small_run()
    stage = config.stages[0]
    sequences = options.sequences or stage.microbatch_tokens // stage.seq_len
    microbatches = options.microbatches or stage.batch_tokens[0][1] // stage.microbatch_tokens
    result = measure(config, sequences, microbatches, options.steps)
    print(table(result))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
