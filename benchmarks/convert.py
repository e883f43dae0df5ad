"""Conversion from and to Hugging Face against a plain copy of the same files, on this machine's disk.

    python -m benchmarks.convert [--gigabytes=4] [--dir=FOLDER] [--json=FILE]

Makes a synthetic checkpoint with the full naming of the released one (62 layers, 128 experts; small hidden sizes), converts
it both ways, each in a process of its own, and compares the bytes with what they were. For each: MB/s, the peak memory of
the process, and the ratio to `cp` right before it. The last lines are of two layers at the released sizes, whose
largest tensors show what a piece costs in memory.
"""

import argparse
import filecmp
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dots_jax.config import ModelConfig, dots_llm1
from dots_jax.huggingface.config import config_to_hf
from dots_jax.huggingface.names import ROUTER_BIAS
from dots_jax.huggingface.safetensors_plan import Export, exports, header, index_json, split
from dots_jax.huggingface.units import DTYPES

MB = 1e6
PART = 2**24


def full_naming(gigabytes: float) -> ModelConfig:
    """62 layers and 128 experts, as large as asked for by way of the experts' width."""
    hidden = 512
    per_width = 61 * 128 * 3 * hidden * 2  # bytes of one unit of the experts' width
    width = max(8, round(gigabytes * 1e9 / per_width / 8) * 8)
    return ModelConfig(
        vocab_size=16_384, hidden_size=hidden, num_heads=4, head_dim=128, dense_ffn_size=1408, expert_ffn_size=width,
    )  # fmt: skip


def released_sizes() -> ModelConfig:
    """Two layers and 16 experts at the released sizes: the largest tensors that there are."""
    return ModelConfig(**{**vars(dots_llm1()), "num_layers": 2, "num_experts": 16})


def make(folder: Path, config: ModelConfig, shard_bytes: int) -> int:
    """Random bits in files as transformers deals them; returns their bytes."""
    folder.mkdir(parents=True)
    files = split(exports(config, DTYPES["bfloat16"]), shard_bytes)
    rng, total = np.random.default_rng(0), 0
    for file, tensors in files.items():
        with open(folder / file, "wb") as out:
            out.write(header(tensors))
            for tensor in tensors:
                for begin in range(0, tensor.num_bytes, PART):  # small: a child's peak begins at its parent's
                    out.write(_random(rng, tensor, min(PART, tensor.num_bytes - begin)))
                total += tensor.num_bytes
    if len(files) > 1:
        (folder / "model.safetensors.index.json").write_text(index_json(files))
    (folder / "config.json").write_text(json.dumps(config_to_hf(config) | {"torch_dtype": "bfloat16"}))
    return total


def _random(rng: np.random.Generator, tensor: Export, num_bytes: int) -> bytes:
    if tensor.weight is ROUTER_BIAS:
        return rng.normal(size=num_bytes // 4).astype(np.float32).tobytes()
    return rng.bytes(num_bytes)


def measured(argv: list[str]) -> tuple[float, float, float]:
    """Seconds, seconds of all cores together, and peak memory in MB, of a process that must end well."""
    started = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    stderr = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(stderr)
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / MB


def round_trip(folder: Path, config: ModelConfig, shard: str) -> list[dict]:
    total = make(folder / "hf", config, int(shard.removesuffix("MB")) * 10**6)
    command = [sys.executable, "-m", "dots_jax.convert"]
    runs = (
        ("from_hf", "hf", "ours", [*command, "from_hf", str(folder / "hf"), str(folder / "ours")]),
        ("to_hf", "ours", "back", [
            *command, "to_hf", str(folder / "ours"), str(folder / "back"), f"--max_shard_size={shard}"
        ]),
    )  # fmt: skip
    rows = []
    for name, source, target, argv in runs:
        os.sync()
        copy_s, _, _ = measured(["cp", "-r", str(folder / source), str(folder / "copy")])
        shutil.rmtree(folder / "copy")
        os.sync()
        seconds, cpu_s, peak = measured(argv)
        rate, copy_rate = total / MB / seconds, total / MB / copy_s
        rows.append({
            "what": name, "bytes": total, "seconds": seconds, "cpu_seconds": cpu_s, "mb_per_s": rate, "peak_mb": peak,
            "copy_mb_per_s": copy_rate, "ratio": copy_s / seconds,
        })  # fmt: skip
        print(
            f"{name:<8}{total / 1e9:>7.2f} GB {seconds:>7.1f} s {rate:>7.0f} MB/s {cpu_s:>7.1f} CPU-s   peak {peak:>6.0f} MB   "
            f"cp {copy_rate:>6.0f} MB/s   ratio {copy_s / seconds:.2f}", flush=True,
        )  # fmt: skip
        if target == "ours":
            continue
        for path in sorted((folder / "hf").glob("*.safetensors")):
            if not filecmp.cmp(path, folder / "back" / path.name, shallow=False):
                raise SystemExit(f"{path.name} came back as other bytes")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--dir", help="where the files are made, and deleted again (default: a temporary folder)")
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    results = {"cores": os.cpu_count(), "load": os.getloadavg()[0]}
    for name, config in (("full naming", full_naming(arguments.gigabytes)), ("released sizes", released_sizes())):
        with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
            print(f"{name}: {config.num_layers} layers, {config.num_experts} experts, hidden {config.hidden_size}")
            results[name] = round_trip(Path(folder), config, "2000MB")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
