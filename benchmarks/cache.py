"""Offline tokenisation against a bare loop over the tokenizer, on one core of this machine.

    python -m benchmarks.cache [--tokenizer=tokenizer.json] [--format=parquet] [--megabytes=32] [--json=FILE]

Both read the same Parquet or JSON lines (the Python library's own source, repeated) and tokenise it in batches; the loop then
forgets the tokens, and the job hashes, sorts and writes them, with checksums. Without a tokenizer.json the tokens are
bytes, where the loop has next to nothing to do: what the job adds to it is the job's own cost. Seconds are of processor
time, so that whatever else the machine does counts little.
"""

import argparse
import itertools
import json
import os
import resource
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # per core
os.environ["RAYON_NUM_THREADS"] = "1"

BATCH = 256


def write_parquet(path: Path, megabytes: int) -> int:
    """Rows of about that size, with two more columns; returns the bytes of text."""
    import pyarrow
    import pyarrow.parquet

    from dots_jax.data.sources.python_stdlib import library_files

    texts, rows, written = itertools.cycle(text for _, text in library_files()), [], 0
    while written < megabytes * 1e6:
        rows.append(next(texts))
        written += len(rows[-1].encode())
    columns = {
        "id": list(range(len(rows))),
        "text": rows,
        "url": [f"https://example.org/{i}" for i in range(len(rows))],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=1000)
    return written


def write_corpus(path: Path, megabytes: int) -> int:
    """JSON lines of about that size; returns the bytes of text."""
    from dots_jax.data.sources.python_stdlib import library_files

    texts, written = [text for _, text in library_files()], 0
    with open(path, "w", encoding="utf-8") as file:
        while written < megabytes * 1e6:
            for text in texts:
                file.write(json.dumps({"text": text}) + "\n")
                written += len(text.encode())
                if written >= megabytes * 1e6:
                    break
    return written


def vocabulary_of(tokenizer: str | None):
    import seqio

    if tokenizer is None:
        return seqio.ByteVocabulary(extra_ids=0)
    from tokenizers import Tokenizer

    model = Tokenizer.from_file(tokenizer)

    class Vocabulary(seqio.PassThroughVocabulary):
        """Just enough of one for the job."""

        def encode(self, text):
            return model.encode(text, add_special_tokens=False).ids

        def encode_batch(self, texts):
            return [encoding.ids for encoding in model.encode_batch_fast(texts, add_special_tokens=False)]

    return Vocabulary(model.get_vocab_size(), eos_id=0)


def bare_loop(corpus: Path, vocabulary) -> int:
    """Tokens of the corpus, by nothing but reading and tokenising."""
    from dots_jax.data.tokenizers.vocabulary import encode_batch

    texts = parquet_texts(corpus) if corpus.suffix == ".parquet" else json_texts(corpus)
    return sum(sum(map(len, encode_batch(vocabulary, list(batch)))) for batch in batches(texts))


def batches(texts):
    texts = iter(texts)
    while batch := list(itertools.islice(texts, BATCH)):
        yield batch


def json_texts(corpus: Path):
    with open(corpus, "rb") as lines:
        for line in lines:
            yield json.loads(line)["text"].encode()


def parquet_texts(corpus: Path):
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(corpus) as file:
        for batch in file.iter_batches(1024, columns=["text"]):
            for text in batch.column(0).to_pylist():
                yield text.encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="a Hugging Face tokenizer.json; default: bytes")
    parser.add_argument("--format", choices=("parquet", "jsonl"), default="parquet")
    parser.add_argument("--megabytes", type=int, default=32)
    parser.add_argument("--json", help="also write the figures here")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    import seqio

    from dots_jax.config import DataConfig
    from dots_jax.data.cache import token_cache
    from dots_jax.data.cache.job import on_beam
    from dots_jax.data.sources.file_source import FileSource
    from dots_jax.data.sources.text_task import add_text_task

    with tempfile.TemporaryDirectory() as folder:
        corpus, cache_dir = Path(folder) / f"corpus.{arguments.format}", Path(folder) / "cache"
        write = write_parquet if arguments.format == "parquet" else write_corpus
        size = write(corpus, arguments.megabytes)
        vocabulary = vocabulary_of(arguments.tokenizer)
        add_text_task("benchmark", FileSource({"train": str(corpus)}), vocabulary)
        task = seqio.TaskRegistry.get("benchmark")
        bare_loop(corpus, vocabulary)  # the first one also loads and warms what both use
        start = time.process_time()
        bare_loop(corpus, vocabulary)
        loop_seconds = time.process_time() - start
        start = time.process_time()
        token_cache.make_cache(task, "train", cache_dir, on_beam((), DataConfig(tasks_modules=())))
        job_seconds = time.process_time() - start
        manifest = token_cache.open_stream("benchmark", "train", cache_dir).manifest
    figures = {
        "tokenizer": arguments.tokenizer or "bytes",
        "format": arguments.format,
        "text_megabytes": round(size / 1e6, 1),
        "tokens": manifest.tokens,
        "loop_tokens_per_core_second": round(manifest.tokens / loop_seconds),
        "job_tokens_per_core_second": round(manifest.tokens / job_seconds),
        "job_over_loop": round(loop_seconds / job_seconds, 3),
        "peak_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }
    for name, value in figures.items():
        print(f"{name:<30}{value if isinstance(value, str) else format(value, ','):>16}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
