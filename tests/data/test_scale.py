"""The order of a run at full size: hosts, stage boundaries, and a place far into 11.2T tokens.

Claim: 1, 2, 3 and 8 hosts read the same batches from any step on.
Claim: opening at sequence 1,000,000,000 of 11.2T tokens takes less than 300 MB (measured: 35 MB, 0.5 s).
"""

import json
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import seqio
from stage_config import stage

from dots_jax.curriculum.stages import Schedule
from dots_jax.data.sequences.mixture_sequences import MixtureSequences
from dots_jax.data.sequences.packing import FEATURES
from dots_jax.data.sources.text_task import register_text_task

TEXTS = {
    "scale_a": [f"document {i} of a: " + "a" * (i % 50) for i in range(60)],
    "scale_b": [f"document {i} of b: " + "b" * (i % 90) for i in range(20)],
}
MIXTURES = {"scale_early": [("scale_a", 0.7), ("scale_b", 0.3)], "scale_late": [("scale_a", 0.1), ("scale_b", 0.9)]}
# 24 sequences a step, then 48, then a stage of longer sequences.
STAGES = (
    stage(
        name="early", tokens=24 * 32 * 11, mixture="scale_early", seq_len=32, batch_tokens=((0, 768), (768 * 5, 1536))
    ),
    stage(name="late", tokens=24 * 64 * 6, mixture="scale_late", seq_len=64, batch_tokens=((0, 1536),)),
)


@pytest.fixture(scope="module", autouse=True)
def tasks():
    for name, texts in TEXTS.items():
        register_text_task(name, {"train": texts})
    for name, rates in MIXTURES.items():
        seqio.MixtureRegistry.add(name, rates)
    yield
    for name in MIXTURES:
        seqio.MixtureRegistry.remove(name)
    for name in TEXTS:
        seqio.TaskRegistry.remove(name)


class Host:
    """One of several hosts: opens the data for itself, and reads its own rows of each step's batch."""

    def __init__(self, cache, rank, hosts):
        self.schedule = Schedule(STAGES)
        self.stages = [MixtureSequences(s.mixture, s.seq_len, 0, cache, salt=s.name) for s in STAGES]
        self.rank, self.hosts = rank, hosts

    def rows(self, step):
        at = self.schedule.at(step)
        share = at.batch_size // self.hosts
        first = at.sequence + self.rank * share
        return self.stages[at.stage_index].rows(range(first, first + share))


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """What one host that never stops reads."""
    cache = tmp_path_factory.mktemp("cache")
    one = Host(cache, 0, 1)
    return cache, [one.rows(step) for step in range(one.schedule.num_steps)]


@pytest.mark.parametrize("hosts", [1, 2, 3, 8])
@pytest.mark.parametrize("resumed_at", [0, 4, 5, 7, 8, 13])
def test_any_number_of_hosts_from_any_step_on(complete, hosts, resumed_at):
    cache, batches = complete
    assert [batch["tokens"].shape for batch in batches[4:9]] == [(24, 32), (48, 32), (48, 32), (48, 32), (24, 64)]
    opened = [Host(cache, rank, hosts) for rank in range(hosts)]
    for step in range(resumed_at, len(batches)):
        parts = [host.rows(step) for host in opened]
        for name in FEATURES:
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), batches[step][name])


# --- 11.2T tokens -----------------------------------------------------------------------------------------------------

TOKENS = {"scale_web_zh": 4 * 10**12, "scale_web_en": 5 * 10**12, "scale_code": 2 * 10**12, "scale_math": 2 * 10**11}
# Processes of their own, so that time and memory are those of opening the data and nothing else.
MAKE = """
import json, sys
import seqio
from dots_jax.data.cache import token_format as fmt
from dots_jax.data.sources import text_task
from dots_jax.data.tokenizers import vocabulary
from dots_jax.data.cache.plan import DOCUMENT_ORDER_SEED
from dots_jax.data.cache.token_cache import cache_directory, code_identity

folder, tokens = sys.argv[1], json.loads(sys.argv[2])
for name in tokens:
    text_task.register_text_task(name, {"train": ["x"]})
seqio.MixtureRegistry.add("scale_all", [(name, 1.0 + i) for i, name in enumerate(tokens)])
"""
WRITE = """
chunk, per_file = fmt.CHUNK_TOKENS, fmt.CHUNK_TOKENS * 16384
for name, number in tokens.items():
    where = cache_directory(seqio.TaskRegistry.get(name), "train", folder)
    where.mkdir(parents=True)
    (where / "empty").touch()  # all files are this one: none is opened before it is read
    files = [{"name": "empty", "tokens": min(per_file, number - at), "documents": 1, "sha256": f"{at:064}", "size": 0}
             for at in range(0, number, per_file)]
    fmt.Manifest(
        format=fmt.FORMAT, task=name, split="train", source="made up", fingerprint=None,
        vocabulary=vocabulary.identity(text_task.BYTES), eos_id=1, token_dtype="<u2", chunk_tokens=chunk,
        document_order_seed=DOCUMENT_ORDER_SEED, weighted=False,
        code=code_identity(seqio.TaskRegistry.get(name)), documents=number // 1000, tokens=number, bytes=number,
        malformed={}, files=files,
    ).write(where)
"""
OPEN = """
import resource, time
from dots_jax.data.registry import find_mixture
from dots_jax.data.sequences.mixture_sequences import MixtureSequences

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
sequences = MixtureSequences(find_mixture("scale_all"), 8192, seed=0, cache_dir=folder, salt="stable")
places = [sequences._order.place(1_000_000_000 + i) for i in range(64)]
counts = sequences.counts(1_000_000_000)
seconds = time.perf_counter() - start
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "opening_mb": (after - before) / 1024, "process_mb": after / 1024,
                  "files": sum(len(stream.manifest.files) for stream in sequences._streams.values()),
                  "counts": counts, "places": places, "windows": sequences.windows}))
"""


def run(code, folder, env) -> str:
    command = [sys.executable, "-c", code, str(folder), json.dumps(TOKENS)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.subprocess
def test_opening_at_sequence_1_000_000_000_of_11_trillion_tokens(tmp_path, process_env):
    run(MAKE + WRITE, tmp_path, process_env)
    found = json.loads(run(MAKE + OPEN, tmp_path, process_env).splitlines()[-1])
    print(
        f"opened {found['files']:,} files at sequence 1,000,000,000 in {found['seconds']:.2f} s with "
        f"{found['opening_mb']:.0f} MB more; the process has {found['process_mb']:.0f} MB"
    )
    assert found["opening_mb"] < 300  # TensorFlow, loaded before, is most of the process
    assert sum(found["counts"].values()) == 10**9
    for i, name in enumerate(TOKENS):
        assert abs(Fraction(found["counts"][name], 10**9) - Fraction(i + 1, 10)) < Fraction(1, 10**8)
        assert found["windows"][name] == -(-TOKENS[name] // 8192)
    for task, epoch, window in found["places"]:
        assert 0 <= window < found["windows"][task] and epoch == found["counts"][task] // found["windows"][task]
