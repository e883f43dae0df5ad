"""Packed sequences a second, against stock seqio's packing, on the same documents of the Python library.

    python -m benchmarks.packing [--json=FILE] [--seconds=N] [--lengths=8192,32768] [--rivals=dots_jax]

Ours is what training reads: rows by index from token caches on the disk, in training order. seqio's is
`LMFeatureConverter(pack=True)` (its trim and pack) over the same documents, tokenised already and held in memory, in
their order. Tokens are real ones, not padding. A core's rate is over the CPU seconds of all threads of the process.

Every rival and length is a process of its own, one after the other, so that peak memory and the seconds to the first
batch are its own. Memory over what the imports take is given as well, since TensorFlow is most of either process.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time

OURS, SEQIO = "dots_jax", "seqio"
RIVALS = (OURS, SEQIO)
BATCH_TOKENS = 262_144
TASK, SPLIT = "python_stdlib", "train"


# --- what runs inside a rival's process -------------------------------------------------------------------------------


def our_batches(folder: str, length: int):
    """Batches [rows, length] without end: their real tokens, their slots."""
    from dots_jax.data import tasks  # noqa: F401  registers TASK
    from dots_jax.data.sequences.mixture_sequences import MixtureSequences

    sequences, rows = MixtureSequences(TASK, length, seed=0, cache_dir=folder), BATCH_TOKENS // length
    first = 0
    while True:
        batch = sequences.rows(range(first, first + rows))
        yield int(batch["weights"].sum()), batch["tokens"].size
        first += rows


def seqio_batches(folder: str, length: int):
    """The same of stock seqio."""
    import numpy as np
    import seqio
    import tensorflow as tf

    stored = np.load(os.path.join(folder, "documents.npz"))
    ragged = tf.RaggedTensor.from_row_lengths(stored["tokens"], stored["lengths"])
    dataset = tf.data.Dataset.from_tensor_slices(ragged).repeat().map(lambda document: {"targets": document})
    trimmed = seqio.utils.trim_dataset(dataset, {"targets": length}, {"targets": seqio.Feature(seqio.ByteVocabulary())})
    packed = seqio.LMFeatureConverter(pack=True)(trimmed, {"targets": length})
    for batch in packed.batch(BATCH_TOKENS // length).prefetch(2).as_numpy_iterator():
        yield int((batch["decoder_segment_ids"] > 0).sum()), batch["decoder_target_tokens"].size


def worker(rival: str, folder: str, length: int, seconds: float) -> dict:
    """Runs one rival and returns its figures."""
    import seqio  # noqa: F401  either needs it; the clock starts after it
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    imported, started = _peak_mb(), time.perf_counter()
    batches = (our_batches if rival == OURS else seqio_batches)(folder, length)
    next(batches)
    first_batch = time.perf_counter() - started
    wall, cpu, tokens, slots = time.perf_counter(), time.process_time(), 0, 0
    while time.perf_counter() - wall < seconds:
        real, size = next(batches)
        tokens, slots = tokens + real, slots + size
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "tokens_per_second": tokens / wall,
        "tokens_per_core_second": tokens / cpu,
        "filled": tokens / slots,
        "first_batch_seconds": first_batch,
        "peak_mb": _peak_mb(),
        "peak_over_imports_mb": _peak_mb() - imported,
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- the comparison ---------------------------------------------------------------------------------------------------


def prepare(folder: str) -> dict:
    """Makes the token cache, and the same documents for seqio."""
    import numpy as np

    from dots_jax.data import tasks  # noqa: F401  registers TASK
    from dots_jax.data.cache.token_cache import open_stream

    stream = open_stream(TASK, SPLIT, folder)
    tokens, ends = stream.window(0, stream.num_tokens)
    lengths = np.diff(ends + 1, prepend=0)
    np.savez(os.path.join(folder, "documents.npz"), tokens=tokens, lengths=lengths)
    return {"documents": len(lengths), "tokens": int(stream.num_tokens), "lengths": lengths.tolist()}


def start(*arguments: str) -> dict:
    """This module's result in a process of its own."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.packing", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode == -signal.SIGKILL:
        return {"failed": "killed by the system: out of memory"}
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(lengths: list[int], seconds: float, rivals: list[str]) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        data = start("--prepare", folder)
        document_lengths = data.pop("lengths")
        results = {}
        for length in lengths:
            kept = sum(min(n, length) for n in document_lengths) / data["tokens"]
            for rival in rivals:
                figures = start("--worker", rival, folder, str(length), str(seconds))
                results.setdefault(str(length), {})[rival] = figures | {"kept": 1.0 if rival == OURS else kept}
    return {"data": data, "seconds": seconds, "batch_tokens": BATCH_TOKENS, "cores": os.cpu_count(), "results": results}


def table(result: dict) -> str:
    lines = [
        f"{result['data']['documents']:,} documents, {result['data']['tokens']:,} tokens; batches of "
        f"{result['batch_tokens']:,}; {result['seconds']:g} s each; {result['cores']} cores",
        f"{'length':>7}  {'':<10}{'tokens/s':>12}{'a core':>12}{'first batch':>13}{'peak':>9}{'more':>9}{'filled':>9}{'kept':>8}",
    ]
    for length, rivals in result["results"].items():
        for rival, f in rivals.items():
            if "failed" in f:
                lines.append(f"{int(length):>7,}  {rival:<10}{f['failed']}")
                continue
            lines.append(
                f"{int(length):>7,}  {rival:<10}{f['tokens_per_second']:>12,.0f}{f['tokens_per_core_second']:>12,.0f}"
                f"{f['first_batch_seconds']:>11.2f} s{f['peak_mb']:>6,.0f} MB{f['peak_over_imports_mb']:>6,.0f} MB"
                f"{f['filled']:>9.1%}{f['kept']:>8.1%}"
            )
        if len(rivals) == 2 and not any("failed" in f for f in rivals.values()):
            ratio = rivals[OURS]["tokens_per_core_second"] / rivals[SEQIO]["tokens_per_core_second"]
            lines.append(f"{'':>7}  ours packs {ratio:.1f} times as many tokens a core")
    lines.append(
        "more: memory over the imports; filled: slots that hold a token; kept: tokens not cut off by truncation"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring each (default 5)")
    parser.add_argument("--lengths", default="8192,32768", help="of sequences (default 8192,32768)")
    parser.add_argument("--rivals", default=",".join(RIVALS), help="which of them (default: both)")
    parser.add_argument("--prepare", help=argparse.SUPPRESS)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        print(json.dumps(prepare(options.prepare)))
        return
    if options.worker:
        rival, folder, length, seconds = options.worker
        print(json.dumps(worker(rival, folder, int(length), float(seconds))))
        return
    result = compare([int(length) for length in options.lengths.split(",")], options.seconds, options.rivals.split(","))
    print(table(result))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
