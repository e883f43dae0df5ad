"""Rows of unequal lengths: a row that ends gives its place to the next one, against batches that wait for their longest row.

    python -m benchmarks.generate_refill [--json=FILE] [--rounds=N] [--rows=N] [--median=N] [--batch=N]

Rows of 32 prompt tokens and of lengths lognormal(median, sigma 1), at most 8 times the median, float32, greedy, with the 41M
model of train_step_vs_transformers. Both sides are the same code: the peer gets one batch of rows at a time, so that no row is
there to take a place. They take turns, and give the same tokens.

The gain in steps is not the gain in tokens/s: a step of a mixture of experts reads the experts that its live rows chose, so that
a step with few live rows is cheaper.
"""

import argparse
import json
import os
import statistics
import sys
import time

import numpy as np

from benchmarks.train_step_vs_transformers import CONFIG

PROMPT, SIGMA, LONGEST = 32, 1.0, 8


def make_requests(rows: int, median: int) -> list:
    from dots_jax.inference.generation import Request

    rng = np.random.default_rng(0)
    lengths = np.minimum(np.ceil(rng.lognormal(np.log(median), SIGMA, rows)), LONGEST * median).astype(int)
    prompts = rng.integers(0, CONFIG.vocab_size, (rows, PROMPT)).tolist()
    return [Request(prompt, n, int(length)) for n, (prompt, length) in enumerate(zip(prompts, lengths))]


def make_generator():
    import jax

    from dots_jax.inference.generation import Generator
    from dots_jax.inference.weights import define, serving_mesh, shard_weights

    definition = define(CONFIG, "float32")
    params, bias = jax.jit(lambda: definition.init(0))()
    mesh = serving_mesh(CONFIG, 1)
    return Generator(CONFIG, "float32", mesh, shard_weights(definition, params, bias, mesh))


def run(generator, batches: list[list], batch_size: int) -> tuple[float, float, list[list[int]]]:
    """(seconds, seconds of the processor, tokens of each row)."""
    from dots_jax.inference.completion import complete, in_order

    start, start_cpu, new = time.perf_counter(), time.process_time(), []
    for requests in batches:
        found = complete(generator, requests, (), None, batch_size=batch_size)
        new += [completion.tokens for _, completion in in_order(found)]
    return time.perf_counter() - start, time.process_time() - start_cpu, new


def measure(rounds: int, rows: int, median: int, batch: int) -> dict:
    requests, generator = make_requests(rows, median), make_generator()
    ways = {"refill": [requests], "batches": [requests[i : i + batch] for i in range(0, rows, batch)]}
    seconds, cpu_seconds, tokens = {way: [] for way in ways}, {way: [] for way in ways}, {}
    for number in range(rounds + 1):  # the first compiles
        for way, batches in ways.items():
            took, cpu, tokens[way] = run(generator, batches, batch)
            if number:
                seconds[way].append(took)
                cpu_seconds[way].append(cpu)
            print(f"round {number} of {rounds}: {way} {took:.1f} s, {cpu:.1f} s of the processor", file=sys.stderr)
    total = sum(map(len, tokens["refill"]))
    rates = {way: total / statistics.median(took) for way, took in seconds.items()}
    cpu = {way: statistics.median(took) for way, took in cpu_seconds.items()}
    return {
        "rows": rows, "batch": batch, "median": median, "tokens": total, "cores": len(os.sched_getaffinity(0)),
        "tokens_per_s": rates, "ratio": rates["refill"] / rates["batches"],
        "processor_seconds": cpu, "processor_ratio": cpu["batches"] / cpu["refill"],
        "same_tokens": tokens["refill"] == tokens["batches"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16, help="rows at the same time")
    parser.add_argument("--median", type=int, default=48, help="new tokens of a row")
    flags = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    report = measure(flags.rounds, flags.rows, flags.median, flags.batch)
    for way, rate in report["tokens_per_s"].items():
        print(f"{way:<10}{rate:>8,.0f} tokens/s")
    print(f"processor {report['processor_ratio']:>8.2f}, the ratio of its seconds: for a machine that is busy")
    print(f"ratio     {report['ratio']:>8.2f}, the same tokens: {'yes' if report['same_tokens'] else 'no'}")
    if flags.json:
        with open(flags.json, "w") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
