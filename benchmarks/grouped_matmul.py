"""The grouped matmul at the eight shapes of the report's table 1, forward and backward, against torch on the same machine.

    python -m benchmarks.grouped_matmul [--json=FILE] [--rounds=N] [--scale=N]

A shape is (g, m, n, k): g experts with m rows each (tokens spread evenly), [m, k] times [k, n]. Forward is 2 g m n k floating-point
operations, backward, both gradients, twice that. On a GPU: bfloat16, against `torch._grouped_mm` if a torch with CUDA is
there, and the report's own columns, measured on an H800. On a CPU: float32, the same shapes with every axis but g
divided by --scale (8), against a loop of torch.mm, if torch is there.

Both rivals are in this process and take turns, one burst of calls each, so that other load on the machine affects both.
A figure is the median over the rounds. That m counts an expert's rows, not all rows, is our reading of the report.
"""

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves room for torch; read when jax starts

import jax
import jax.numpy as jnp
import numpy as np

from dots_jax.kernels.select import kernels_for

# (g, m, n, k) -> TFLOP/s on an H800: forward by Transformer Engine 2.1 and by the report's kernel, backward by both.
REPORT = {
    (4, 1024, 2816, 4096): (589.12, 662.48, 614.24, 665.06),
    (4, 1024, 4096, 2816): (581.77, 725.35, 594.03, 637.48),
    (4, 2048, 2816, 4096): (636.49, 678.89, 655.39, 709.75),
    (4, 2048, 4096, 2816): (636.94, 745.45, 635.02, 677.51),
    (8, 1024, 2816, 4096): (614.87, 654.77, 633.35, 677.56),
    (8, 1024, 4096, 2816): (609.69, 745.01, 619.97, 637.71),
    (8, 2048, 2816, 4096): (646.70, 705.85, 666.00, 706.85),
    (8, 2048, 4096, 2816): (657.20, 744.74, 650.53, 695.38),
}
DIRECTIONS = ("forward", "backward")
OURS, TORCH = "dots_jax", "torch"
CALLS = {"cpu": 3, "gpu": 20, "tpu": 20}  # in a burst: the device always has the next call at hand
PAUSE_S = {"cpu": 0.3, "gpu": 0.0, "tpu": 0.0}  # the threads of the other rival keep spinning for 0.2 s


class Ours:
    """A shape's two directions by this project's kernel for the platform."""

    def __init__(self, platform: str, x_RD, w_EDF, dy_RF, rows: int):
        kernel = kernels_for(platform, default_vmem=True).grouped_matmul
        dtype = jnp.float32 if platform == "cpu" else jnp.bfloat16
        x, w, dy = (jnp.asarray(a, dtype) for a in (x_RD, w_EDF, dy_RF))
        sizes = jnp.full((len(w_EDF),), rows, jnp.int32)
        # Jitted, the backward pass alone is left: its residuals are the operands, and nobody reads the product.
        run = {
            "forward": jax.jit(lambda x, w, dy, sizes: kernel(x, w, sizes)),
            "backward": jax.jit(lambda x, w, dy, sizes: jax.vjp(lambda x, w: kernel(x, w, sizes), x, w)[1](dy)),
        }
        self.calls = {name: (lambda f=f: f(x, w, dy, sizes)) for name, f in run.items()}

    def burst(self, direction: str, calls: int) -> None:
        results = [self.calls[direction]() for _ in range(calls)]
        jax.block_until_ready(results)

    def result(self, direction: str) -> list[np.ndarray]:
        return [np.asarray(a, np.float32) for a in jax.tree.leaves(self.calls[direction]())]


class Torch:
    """The same by torch: its grouped kernel on CUDA, a loop over the experts on a CPU."""

    def __init__(self, platform: str, x_RD, w_EDF, dy_RF, rows: int):
        import torch

        self.torch, cuda = torch, platform == "gpu"
        place = dict(device="cuda", dtype=torch.bfloat16) if cuda else dict(dtype=torch.float32)
        x, w, dy = (torch.from_numpy(a).to(**place) for a in (x_RD, w_EDF, dy_RF))
        if cuda:
            ends = torch.arange(1, len(w) + 1, device="cuda", dtype=torch.int32) * rows
            mm = lambda a, b: torch._grouped_mm(a, b, offs=ends)
            self.calls = {"forward": lambda: [mm(x, w)], "backward": lambda: [mm(dy, w.mT), mm(x.T, dy)]}
            return
        parts = [slice(e * rows, (e + 1) * rows) for e in range(len(w))]
        y, dx, dw = torch.empty_like(dy), torch.empty_like(x), torch.empty_like(w)

        def forward():
            for e, part in enumerate(parts):
                torch.mm(x[part], w[e], out=y[part])
            return [y]

        def backward():
            for e, part in enumerate(parts):
                torch.mm(dy[part], w[e].T, out=dx[part])
                torch.mm(x[part].T, dy[part], out=dw[e])
            return [dx, dw]

        self.calls = {"forward": forward, "backward": backward}

    def burst(self, direction: str, calls: int) -> None:
        for _ in range(calls):
            self.calls[direction]()
        if self.torch.cuda.is_available():
            self.torch.cuda.synchronize()

    def result(self, direction: str) -> list[np.ndarray]:
        return [a.float().cpu().numpy() for a in self.calls[direction]()]


def torch_is_there(platform: str) -> bool:
    """With CUDA where jax has a GPU; a TPU is no match for torch's CPU."""
    try:
        import torch
    except ImportError:
        return False
    return platform == "cpu" or (platform == "gpu" and torch.cuda.is_available() and hasattr(torch, "_grouped_mm"))


def measure_shape(shape: tuple[int, int, int, int], rivals: dict, platform: str, rounds: int) -> dict:
    """TFLOP/s of each rival in each direction, and how far the rivals' results are apart."""
    g, m, n, k = shape
    rng = np.random.default_rng(0)
    draw = lambda *size: rng.standard_normal(size, np.float32)
    operands = draw(g * m, k), draw(g, k, n), draw(g * m, n)
    players = {name: make(platform, *operands, m) for name, make in rivals.items()}
    row = {"shape": shape}
    for direction in DIRECTIONS:
        flops = 2 * g * m * n * k * (2 if direction == "backward" else 1)
        seconds = {name: [] for name in players}
        for turn in range(rounds + 2):
            for name, player in players.items():
                start = time.perf_counter()
                player.burst(direction, CALLS[platform])
                if turn >= 2:  # the first two compile and warm up
                    seconds[name].append((time.perf_counter() - start) / CALLS[platform])
                time.sleep(PAUSE_S[platform])
        row[direction] = {name: flops / statistics.median(times) / 1e12 for name, times in seconds.items()}
        if len(players) == 2:
            pairs = list(zip(*(player.result(direction) for player in players.values())))
            row[direction]["difference"] = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    return row


def measure(rounds: int, scale: int) -> dict:
    platform = jax.default_backend()
    rivals = {OURS: Ours} | ({TORCH: Torch} if torch_is_there(platform) else {})
    rows = []
    for g, m, n, k in REPORT:
        shape = (g, m, n, k) if platform != "cpu" else (g, m // scale, n // scale, k // scale)
        row = measure_shape(shape, rivals, platform, rounds)
        if platform != "cpu":
            row["report"] = dict(zip(("forward_te", "forward", "backward_te", "backward"), REPORT[g, m, n, k]))
        rows.append(row)
    return {
        "device": jax.devices()[0].device_kind, "platform": platform, "rounds": rounds,
        "dtype": "float32" if platform == "cpu" else "bfloat16", "rivals": list(rivals), "results": rows,
    }  # fmt: skip


def table(report: dict) -> str:
    unit, per = ("GFLOP/s", 1e3) if report["platform"] == "cpu" else ("TFLOP/s", 1.0)
    other = "torch loop" if report["platform"] == "cpu" else "torch"
    lines = [
        f"{unit} on {report['device']}, {report['dtype']}; median of {report['rounds']} rounds",
        f"{'(g, m, n, k)':24}{'':10}{OURS:>10}{other:>12}{'ratio':>8}{'report':>10}{'TE 2.1':>10}{'ratio':>8}",
    ]
    for row in report["results"]:
        for direction in DIRECTIONS:
            ours, torch = row[direction][OURS], row[direction].get(TORCH)
            line = f"{str(tuple(row['shape'])) if direction == 'forward' else '':24}{direction:10}{ours * per:10.1f}"
            line += f"{torch * per:12.1f}{ours / torch:8.2f}" if torch else f"{'-':>12}{'-':>8}"
            if "report" in row:
                published = row["report"][direction]
                line += f"{published:10.1f}{row['report'][direction + '_te']:10.1f}{ours / published:8.2f}"
            lines.append(line)
    if TORCH in report["rivals"]:
        ratios = {d: statistics.geometric_mean(r[d][OURS] / r[d][TORCH] for r in report["results"]) for d in DIRECTIONS}
        lines.append(
            f"ratio to torch, geometric mean: forward {ratios['forward']:.2f}, backward {ratios['backward']:.2f}"
        )
    if report["platform"] != "cpu":
        lines.append("report: the technical report's kernel and Transformer Engine 2.1, as published, on an H800")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=9, help="timed bursts of each rival (default 9)")
    parser.add_argument("--scale", type=int, default=8, help="of the shapes on a CPU (default 8)")
    options = parser.parse_args()
    report = measure(options.rounds, options.scale)
    print(table(report))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
