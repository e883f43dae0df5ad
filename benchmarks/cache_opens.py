"""The second step of a token cache at 10, 100 and 1,000 pieces: opens of run files, and seconds.

    python -m benchmarks.cache_opens [--pieces=10,100,1000] [--documents=200] [--json=FILE]

Pieces are stand-ins, run files of random tokens, so that merging and writing alone are timed. `old opens` is what opening
every array of every run for every shard takes, one run a piece: 3 x pieces x shards.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def measure(pieces: int, documents: int) -> dict:
    """documents: of each piece, of some 500 tokens."""
    from dots_jax.data.cache import build, merge, runs, token_cache
    from dots_jax.data.cache.plan import Plan, write_json

    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        building = Path(name)
        for folder in ("pieces", "shards", "cache"):
            (building / folder).mkdir()
        plan = Plan(
            format=3, task="benchmark", split="train", source="", vocabulary="", eos_id=1, token_dtype="<u4",
            chunk_tokens=8192, document_order_seed=0, weighted=False, shards=pieces, code="",
            pieces=[[str(i), 1] for i in range(pieces)],
        )  # fmt: skip
        write_json(building / "plan.json", vars(plan))
        tokens = 0
        for piece in range(pieces):
            keys = np.sort(random.integers(0, 1 << 64, documents, np.uint64))
            texts = [random.integers(0, 150_000, n, np.uint32) for n in random.integers(1, 1000, documents)]
            tokens += sum(map(len, texts))
            with open(runs.run_path(building, piece), "wb") as file:
                writer = runs.RunWriter(file)
                writer.add(keys, texts, None, "<u4")
                writer.close()
        start = time.monotonic()
        token_cache.merge_levels(building, pieces, token_cache.one_after_the_other)
        merged = time.monotonic() - start
        for shard in range(pieces):
            build.write_shard(building, shard)
        seconds = time.monotonic() - start
    return {
        "pieces": pieces, "shards": pieces, "levels": merge.levels(pieces),
        "opens": merge.run_file_opens(pieces, pieces), "old_opens": 3 * pieces * pieces, "tokens": tokens,
        "merge_seconds": round(merged, 2), "seconds": round(seconds, 2), "tokens_per_second": round(tokens / seconds),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pieces", default="10,100,1000")
    parser.add_argument("--documents", type=int, default=200, help="of each piece, of some 500 tokens")
    parser.add_argument("--json", help="also write the figures here")
    arguments = parser.parse_args()
    rows = []
    for number in arguments.pieces.split(","):
        rows.append(measure(int(number), arguments.documents))
        if len(rows) == 1:
            print("".join(f"{name:>19}" for name in rows[0]))
        print("".join(f"{value:>19,}" for value in rows[-1].values()), flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
