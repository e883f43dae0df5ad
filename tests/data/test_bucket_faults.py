"""Reads from a bucket that go wrong on the way: the same bytes after retries, in every format.

Claim: a reset in the middle of a file, 429 and a slow body in a bucket change no byte of what is read.
"""

import hashlib
import random

import pytest
from test_files import FORMATS

from dots_jax.data.sources.file_source import FileSource
from dots_jax.data.sources.record_files import read_texts

_RNG = random.Random(0)
TEXTS = [f"{i} " + "".join(_RNG.choices("abcdefgh 你好", k=300)) for i in range(400)]


@pytest.mark.parametrize("fault", ["reset", "429", "slow"])
@pytest.mark.parametrize(
    "ending",
    # google-cloud-cpp, which reads ArrayRecord, waits up to a minute before it asks again.
    ["jsonl", "jsonl.zst", "parquet", "tfrecord.gz", pytest.param("array_record", marks=pytest.mark.slow)],
)
def test_the_same_bytes(buckets, tmp_path, ending, fault):
    path = tmp_path / f"part-0.{ending}"
    FORMATS[ending](path, TEXTS)
    buckets.put(f"corpus/part-0.{ending}", path.read_bytes())
    (file,) = FileSource({"train": f"gs://bucket/corpus/*.{ending}"}, "content").files("train")
    digest = hashlib.sha256()
    with buckets.failing("part-0", fault, 2) as happened:
        found = list(read_texts(file.path, "content", digest=digest, conversations=False))
    assert happened == [2] or (happened == [1] and fault == "slow")
    assert found == [text.encode() for text in TEXTS]
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()
