"""Memory and time of the steps that compare documents: identity, lines and MinHash over texts of 2 KB.

    python -m benchmarks.curation_scale --documents=20000,100000 [--beam] [--json=FILE]      a million: --documents=1000000

Every size is a process of its own through `dots curate`, so that its peak memory is its own. A tenth of the texts are
near-duplicates of others, a hundredth are copies, and half begin with one of 50 frequent lines. `exchange` is the CPU time
a document of what shares rows alone: sorting, writing, reading back and deciding, for all three steps, in this process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dots_jax.config import CurateConfig
from dots_jax.curation import exchange, identity, lines, near_duplicates

STEPS = "('identity','lines','minhash')"
WORDS, CHUNK = 270, 1000  # 270 words are about 2 KB


def write_texts(path: Path, number: int, seed: int = 0) -> None:
    draw = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    vocabulary = ["".join(draw.choice(letters, size)) for size in draw.integers(2, 11, 20_000)]
    last = ""
    with open(path, "w") as file:
        for first in range(0, number, CHUNK):
            choices = (draw.zipf(1.3, (CHUNK, WORDS)) - 1) % 20_000
            for place, row in enumerate(choices[: number - first].tolist()):
                index = first + place
                words = [vocabulary[n] for n in row]
                for start in range(0, WORDS, 18):
                    words[start] = "\n" + words[start].capitalize()
                if index % 10 == 1:
                    text = last[:-40] + "an edited end of number " + str(index)
                elif index % 100 == 2:
                    text = last
                else:
                    text = (f"Section {index % 50}" if index % 2 else "") + " ".join(words)
                last = text
                file.write(json.dumps({"id": str(index), "text": text}) + "\n")


def run(number: int, partitions: int, beam: bool) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "texts.jsonl"
        write_texts(source, number)
        bindings = [f"CurateConfig.steps={STEPS}", f"CurateConfig.partitions={partitions}"]
        bindings += ["CurateConfig.beam=('--runner=FnApiRunner',)"] if beam else []
        command = [sys.executable, "-m", "dots_jax.curate", f"--input={source}", f"--output={folder}/out"]
        command += [f"--gin_bindings={binding}" for binding in bindings]
        start = time.time()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"dots curate ended with status {status}: {' '.join(command)}")
        report = json.loads((Path(folder) / "out" / "report.json").read_text())
        removed = {row["step"]: row["removed"].get("rows", 0) for row in report["funnel"]}
        cpu = usage.ru_utime + usage.ru_stime
        return {
            "documents": number,
            "text_bytes": source.stat().st_size,
            "peak_mib": usage.ru_maxrss / 1024,
            "cpu_ms_a_document": cpu / number * 1000,
            "wall_seconds": time.time() - start,
            "rows_of_the_ledger": removed,
        }


def exchange_ms(number: int, partitions: int) -> float:
    """CPU milliseconds a document of the shared rows, for three steps, with random rows of the same shape."""
    draw, config = np.random.default_rng(1), CurateConfig()
    total = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for step, rows_each in ((identity, 1), (lines, 10), (near_duplicates, 128)):
            rows = np.zeros(number * rows_each, step.ROW)
            rows[step.ROW.names[0]] = draw.integers(0, 1 << 63, len(rows), dtype=np.uint64) << np.uint64(1)
            rows["key"] = np.repeat(draw.integers(0, 1 << 63, number, dtype=np.uint64), rows_each)
            if step is lines:
                rows["count"] = 1
            path = Path(folder) / "rows.npy"
            start = time.process_time()
            slices = exchange.write_rows(path, rows, partitions)
            for one in slices:
                part = exchange.read_rows([(path, one)], step.ROW)
                step.decide(part, config)
                step.condense(part, config)
            total += time.process_time() - start
    return total / number * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", default="20000,100000")
    parser.add_argument("--partitions", type=int, default=32)
    parser.add_argument("--beam", action="store_true", help="through Beam's local runner, in one process")
    parser.add_argument("--json")
    options = parser.parse_args()
    sizes = [int(size) for size in options.documents.split(",")]
    result = {"partitions": options.partitions, "beam": options.beam, "runs": []}
    result["exchange_ms_a_document"] = exchange_ms(min(sizes[0], 20_000), options.partitions)
    print(f"exchange {result['exchange_ms_a_document']:.3f} ms a document", flush=True)
    for size in sizes:
        result["runs"].append(run(size, options.partitions, options.beam))
        print(json.dumps(result["runs"][-1]), flush=True)
        if options.json:
            with open(options.json, "w") as file:
                json.dump(result, file, indent=1)
    if len(sizes) > 1:
        growth = result["runs"][-1]["peak_mib"] / result["runs"][0]["peak_mib"]
        print(f"memory grows {growth:.2f}x from {sizes[0]:,} to {sizes[-1]:,} documents")


if __name__ == "__main__":
    main()
