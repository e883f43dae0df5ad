"""Times the TPU kernels of the 142B run files on one chip, and what surrounds them: it replaces rows of the planner's table.

    python -m benchmarks.kernels --out=kernels.json
    python -m dots_jax.plan --gin_file=gin/dots142b.gin --topology=v5p:4x4x8 --calibrate=kernels.json

Attention forward and backward at 8K and 32K, grouped matmuls and their weights' gradients with balanced and with random sizes, norm
and rotation, a dense product, a copy in HBM, and the gather of dispatch. A figure is the median over bursts of calls that the
device always has waiting. It has not run on a TPU yet. On a CPU it stops; --tiny runs everything small there, to test this program.
"""

import argparse
import datetime
import importlib.metadata
import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from dots_jax.kernels.tpu import attention, norm_rope
from dots_jax.kernels.tpu.grouped_matmul import grouped_matmul, outer_tiles, tiles
from dots_jax.parallel.compiler_options import OPTIONS
from dots_jax.parallel.topology import CHIPS
from dots_jax.storage import write_text

EXPERTS, ROWS = 128, 196_608  # of a chip with four sequences of 8K and six experts a token
SHAPES = ((4096, 2816, False), (1408, 4096, False), (2816, 4096, True), (4096, 1408, True))
BURST, ROUNDS = 5, 5  # once each on a CPU


def seconds_of(function, *arguments, options: dict) -> float:
    """Median time of a call, in bursts."""
    run = jax.jit(function, compiler_options=options)
    jax.block_until_ready(run(*arguments))
    found = []
    burst, rounds = (BURST, ROUNDS) if options else (1, 1)
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready([run(*arguments) for _ in range(burst)])
        found.append((time.perf_counter() - start) / burst)
    return statistics.median(found)


def attention_rows(shrink: int, interpret: bool, options: dict) -> list[dict]:
    """Both passes at 8K and 32K. The backward pass alone: the difference to the forward pass that it comes with."""
    found, M = [], 4096 // shrink
    for B, T in ((4, 8192 // shrink), (1, 32768 // shrink)):
        q = jnp.ones((B, T, M), jnp.bfloat16)
        segments = jnp.ones((B, T), jnp.int32)
        forward = lambda q, k, v, s: attention._attention(q, k, v, s, s, 128, 0, interpret)  # noqa: E731

        def both(q, k, v, s, forward=forward):
            return jax.vjp(lambda q, k, v: forward(q, k, v, s), q, k, v)[1](q)

        one = seconds_of(forward, q, q, q, segments, options=options)
        two = seconds_of(both, q, q, q, segments, options=options)
        tile = [attention._tile(attention.QUERIES, T), attention._tile(attention.KEYS, T)]
        found.append({"kernel": "attention_forward", "tiles": tile, "shape": [B, T, M], "seconds": one})
        found.append(
            {"kernel": "attention_backward", "tiles": tile, "shape": [B, T, M], "seconds": max(two - one, 1e-9)}
        )
    return found


def grouped_rows(shrink: int, interpret: bool, options: dict) -> list[dict]:
    """gmm at the four shapes, tgmm at two; each with as many rows for every expert, and with a random share of them."""
    found, experts, rows = [], EXPERTS // shrink, ROWS // shrink**2
    share = np.random.default_rng(0).dirichlet(np.full(experts, 8.0))
    random = np.floor(share * rows).astype(np.int32)
    random[0] += rows - random.sum()
    for sizes_name, sizes in (("balanced", np.full(experts, rows // experts, np.int32)), ("random", random)):
        for K, N, transposed in [(K // shrink, N // shrink, t) for K, N, t in SHAPES]:
            x = jnp.ones((rows, K), jnp.bfloat16)
            w = jnp.ones((experts, N, K) if transposed else (experts, K, N), jnp.bfloat16)
            call = lambda x, w, s, t=transposed: grouped_matmul(x, w, s, transpose_w=t, interpret=interpret)  # noqa: E731
            row = {"contracted": K, "columns": N, "transposed": transposed, "rows": rows, "experts": experts}
            row |= {"sizes": sizes_name, "seconds": seconds_of(call, x, w, jnp.asarray(sizes), options=options)}
            found.append({"kernel": "gmm", "tiles": list(tiles(rows, K, N)), **row})
            if transposed:
                continue
            dy = jnp.ones((rows, N), jnp.bfloat16)
            outer = lambda x, w, s, dy: jax.vjp(lambda w: grouped_matmul(x, w, s, interpret=interpret), w)[1](dy)  # noqa: E731
            row |= {"seconds": seconds_of(outer, x, w, jnp.asarray(sizes), dy, options=options)}
            found.append({"kernel": "tgmm", "tiles": list(outer_tiles(rows, K, N)), **row})
    return found


def norm_rows(shrink: int, interpret: bool, options: dict) -> list[dict]:
    B, T, M = 4, 8192 // shrink, 4096 // shrink
    x, scale, table = jnp.ones((B, T, M), jnp.bfloat16), jnp.ones((1, 128)), jnp.ones((B, T, 128))
    call = lambda x, scale, table: norm_rope._norm_rope(x, scale, table, table, 1e-5, interpret)  # noqa: E731
    taken = seconds_of(call, x, scale, table, options=options)
    moved = 2 * 2 * x.size + 4 * scale.size + 2 * 4 * table.size
    return [
        {
            "kernel": "forward_norm_rope",
            "tiles": [norm_rope.TOKENS, M],
            "shape": [B, T, M],
            "bytes": moved,
            "seconds": taken,
        }
    ]


def rates(shrink: int, options: dict) -> dict:
    """A dense product, a copy in HBM, and the rows a second that a gather of hidden states moves."""
    x, w = jnp.ones((8192 // shrink, 4096), jnp.bfloat16), jnp.ones((4096, 4096), jnp.bfloat16)
    dense = seconds_of(lambda x, w: x @ w, x, w, options=options)
    large = jnp.ones(2**29 // shrink**4, jnp.bfloat16)
    copied = seconds_of(lambda a: a + 1, large, options=options)
    order = jnp.asarray(np.random.default_rng(0).permutation(6 * len(x)) // 6)
    gathered = seconds_of(lambda x, order: x[order], x, order, options=options)
    return {
        "dense_flops_per_second": 2 * x.shape[0] * 4096 * 4096 / dense,
        "hbm_bytes_per_second": 2 * large.nbytes / copied,
        "gathered_rows_per_second": len(order) / gathered,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    kind = jax.devices()[0].device_kind
    chip = next((c for c in sorted(CHIPS.values(), key=lambda c: -len(c.kind)) if kind.startswith(c.kind)), None)
    if chip is None and not arguments.tiny:
        print(
            f"error: this times a TPU's kernels, and jax sees {kind}. --tiny runs it small, for a test.",
            file=sys.stderr,
        )
        return 2
    options = next((o for prefix, o in OPTIONS.items() if kind.startswith(prefix)), {})
    shrink = 16 if arguments.tiny else 1
    found = {
        "chip": chip.name if chip else "none", "device_kind": kind, "date": datetime.date.today().isoformat(),
        "jax": importlib.metadata.version("jax"), "kernels": [],
    }  # fmt: skip
    for name, measure in (
        ("attention", attention_rows),
        ("grouped matmul", grouped_rows),
        ("norm and rotation", norm_rows),
    ):
        print(f"{name} ...", file=sys.stderr, flush=True)
        found["kernels"] += measure(shrink, chip is None, options)
    print("dense product, copy, gather ...", file=sys.stderr, flush=True)
    found |= rates(shrink, options)
    for row in found["kernels"]:
        shape = row.get("shape") or [row["rows"], row["contracted"], row["columns"]]
        print(
            f"{row['kernel']:<20}{' x '.join(map(str, shape)):<24}{row.get('sizes', ''):<10}{1e3 * row['seconds']:10.3f} ms"
        )
    write_text(arguments.out, json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
