"""A token cache that is killed and resumed: the same bytes as in one go, and the memory of its processes.

    python -m benchmarks.cache_kill [--megabytes=2000] [--files=200] [--workers=2] [--kills=5] [--folder=DIR] [--json=FILE]

Half of the corpus is Parquet, half JSON lines: the Python library's own source, repeated, each document with its number. The
job runs as `python -m dots_jax.cache` with worker processes. All of its processes are killed at once (SIGKILL) when it has done
1/6, 2/6, ... of its steps. DIR (default: a temporary folder) needs about 12 times --megabytes, since a token of bytes is two bytes,
and two caches stand next to one that is being made.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_TASK = "benchmark_kill"


def write_corpus(folder: Path, megabytes: int, files: int) -> int:
    """Returns the bytes of text."""
    import pyarrow
    import pyarrow.parquet

    from dots_jax.data.sources.python_stdlib import library_files

    texts, each, written, number = [text for _, text in library_files()], megabytes * 1e6 / files, 0, 0
    for f in range(files):
        rows, size = [], 0
        while size < each:
            rows.append(f"# document {number}\n{texts[number % len(texts)]}")
            size += len(rows[-1].encode())
            number += 1
        written += size
        if f % 2:
            table = pyarrow.table({"text": rows, "id": list(range(len(rows)))})
            pyarrow.parquet.write_table(table, folder / f"part-{f:05d}.parquet", row_group_size=100)
        else:
            with open(folder / f"part-{f:05d}.jsonl", "w", encoding="utf-8") as file:
                file.writelines(json.dumps({"text": row}) + "\n" for row in rows)
    return written


def start(corpus: Path, cache_dir: Path, workers: int) -> subprocess.Popen:
    flags = f"('--direct_num_workers={workers}', '--direct_running_mode=multi_processing')"
    bindings = [
        f"CacheConfig.tasks = ('{_TASK}',)", "CacheConfig.data = @DataConfig()", f"DataConfig.cache_dir = '{cache_dir}'",
        f"CacheConfig.beam = {flags}", "DataConfig.sources = (@Source(),)", f"Source.name = '{_TASK}'",
        f"Source.files = (('train', '{corpus}/*'),)",
    ]  # fmt: skip
    command = [sys.executable, "-m", "dots_jax.cache", *(f"--gin_bindings={line}" for line in bindings)]
    command.append("--gin_file=/dev/null")
    return subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def steps_done(cache_dir: Path) -> int:
    return sum(1 for kind in ("pieces", "merged-*", "shards") for _ in cache_dir.rglob(f"{kind}/[0-9]*.json"))


def peaks(group: int, known: dict[int, float]) -> None:
    """Keeps the largest resident memory of each process of a group, in MB."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(entry.name)) != group:
                continue
            lines = (entry / "status").read_text().splitlines()
        except (OSError, ProcessLookupError):
            continue
        for line in lines:
            if line.startswith("VmHWM"):
                known[int(entry.name)] = max(known.get(int(entry.name), 0), int(line.split()[1]) / 1e3)


def run(corpus: Path, cache_dir: Path, workers: int, memory: dict[int, float], until: int | None = None) -> bool:
    """Runs the job to its end, or kills it when that many steps are done. Returns whether it was killed."""
    job = start(corpus, cache_dir, workers)
    while job.poll() is None:
        peaks(job.pid, memory)
        if until is not None and steps_done(cache_dir) >= until:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
            return True
        time.sleep(0.25)
    if job.returncode:
        raise RuntimeError(job.stderr.read()[-2000:])
    return False


def digests(cache_dir: Path) -> dict[str, str]:
    found = {}
    for path in sorted(cache_dir.rglob("tokens-*.array_record")):
        with open(path, "rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("megabytes", 2000), ("files", 200), ("workers", 2), ("kills", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder")
    parser.add_argument("--json", help="also write the figures here")
    arguments = parser.parse_args()
    from dots_jax.data.cache import merge

    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        corpus, killed, once = (Path(name) / part for part in ("corpus", "killed", "once"))
        corpus.mkdir()
        size = write_corpus(corpus, arguments.megabytes, arguments.files)
        memory: dict[int, float] = {}
        begin = time.monotonic()
        run(corpus, once, arguments.workers, memory)
        seconds = time.monotonic() - begin
        steps = arguments.files + len(digests(once))
        steps += sum(merge.steps(arguments.files, n + 1) for n in range(merge.levels(arguments.files)))
        kills, begin = 0, time.monotonic()
        for number in range(1, arguments.kills + 1):
            kills += run(corpus, killed, arguments.workers, memory, until=steps * number // (arguments.kills + 1))
            print(f"killed {kills} times, {steps_done(killed)} of {steps} steps done", flush=True)
        run(corpus, killed, arguments.workers, memory)
        figures = {
            "text_megabytes": round(size / 1e6, 1), "files": arguments.files, "steps": steps, "workers": arguments.workers,
            "kills": kills, "same_bytes": digests(killed) == digests(once) != {},
            "seconds_in_one_go": round(seconds, 1), "seconds_with_kills": round(time.monotonic() - begin, 1),
            "largest_process_megabytes": round(max(memory.values())),
        }  # fmt: skip
    for key, value in figures.items():
        print(f"{key:<30}{value!s:>16}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
