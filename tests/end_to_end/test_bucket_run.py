"""A run whose workdir and token caches are in a bucket: killed in a save, looked at meanwhile, gone on with, and used.

All clients of gs:// are the real ones of the pinned packages, against bucket_server.py. One run serves all tests.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from hf_checkpoint import convert
from small_run import Workdir, restored

import dots_jax
from dots_jax.checkpoint.commit import COMMIT_FILE
from dots_jax.cli.main import main
from dots_jax.config import UserError

RUN, CACHE = "gs://bucket/runs/one", "gs://bucket/cache"
STEPS = ("--max_steps=12",)


@pytest.fixture(scope="module")
def environment(bucket_server, process_env):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in bucket_server.environment.items():
            patch.setenv(name, value)
        patch.setattr("dots_jax.training.preflight.peak_flops", lambda device: (1e10, "assumed"))
        bucket_server.clear()
        yield {**process_env, **bucket_server.environment}


@pytest.fixture(scope="module")
def local(environment, tmp_path_factory, small_cache):
    """The same run on a disk, never interrupted."""
    workdir = Workdir(tmp_path_factory.mktemp("local"), small_cache, environment)
    assert workdir.train(flags=STEPS) == 0
    return workdir


@pytest.fixture(scope="module")
def killed(environment, bucket_server, tmp_path_factory):
    """The run, killed while it saves step 10. Returns it, and what a reader saw before that."""
    workdir = Workdir(tmp_path_factory.mktemp("bucket"), CACHE, environment, RUN)
    process = workdir.start(flags=STEPS)
    with bucket_server.holding("runs/one/checkpoints/10/training/manifest.ocdbt"):
        try:
            bucket_server.wait_for_held(240)
            seen = dots_jax.open_checkpoint(RUN)
            assert seen.step == 5 and seen.steps == [5]
            with pytest.raises(UserError, match="is not finished: it is being written"):
                dots_jax.open_checkpoint(f"{RUN}/checkpoints/10")
            weights = seen.load("*")
        finally:
            process.kill()
            process.communicate()
    return workdir, weights


@pytest.fixture(scope="module")
def run(killed, bucket_server):
    """The run, gone on with in this process and at its end."""
    workdir, _ = killed
    left = [name for name in bucket_server.objects() if name.startswith("runs/one/checkpoints/10/")]
    assert left and f"runs/one/checkpoints/10/{COMMIT_FILE}" not in left
    bucket_server.put("runs/one/checkpoints/notes/mine.txt", b"not orbax's")
    assert workdir.train(flags=STEPS) == 0
    return workdir


def test_a_killed_run_ends_as_if_nothing_had_happened(run, local, bucket_server):
    assert run.steps() == local.steps() == [10, 12]
    assert run.history() == local.history() and len(run.history()) == 12
    here, there = restored(local, 12), restored(run, 12)
    assert here.keys() == there.keys()
    for name, array in here.items():
        np.testing.assert_array_equal(there[name], array, err_msg=name)
    objects = bucket_server.objects()
    assert objects["runs/one/checkpoints/notes/mine.txt"] == b"not orbax's"
    assert not [name for name in objects if ".new" in name or ".probe" in name or "/checkpoints/5/" in name]
    assert [name for name in objects if name.startswith("runs/one/tensorboard/events.out")]
    assert b"TrainConfig.model" in objects["runs/one/config.gin"]


@pytest.mark.subprocess
def test_a_reader_of_the_unfinished_run_had_its_step_5(killed, local):
    _, weights = killed
    assert weights["embed/w_VD"].shape == (259, 16) and np.isfinite(weights["embed/w_VD"]).all()


@pytest.mark.slow
def test_evaluation(run, bucket_server):
    assert run.evaluate() == 0
    results = json.loads(bucket_server.objects()["runs/one/eval.json"])
    assert list(results) == ["12"] and all(np.isfinite(task["loss"]) for task in results["12"].values())


@pytest.mark.slow
def test_generation(run, capfd):
    flags = (f"--checkpoint={RUN}", "--prompt=the quick", "--max_new_tokens=8", "--temperature=0")
    assert main(["generate", *flags]) == 0
    assert capfd.readouterr().out.strip()


@pytest.fixture(scope="module")
def converted(run):
    """The run's weights, to Hugging Face's layout and back, all in the bucket."""
    assert convert("to_hf", RUN, "gs://bucket/hf", "--max_shard_size=20KB") == 0
    assert convert("from_hf", "gs://bucket/hf", "gs://bucket/weights") == 0
    return "gs://bucket/weights"


@pytest.mark.slow
def test_conversion_both_ways(converted, run, bucket_server):
    objects = bucket_server.objects()
    assert len([name for name in objects if name.startswith("hf/model-")]) > 3 and "hf/config.json" in objects
    assert not [name for name in objects if "partial" in name]
    before, after = dots_jax.open_checkpoint(RUN).load("*"), dots_jax.open_checkpoint(converted).load("*")
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)
    assert convert("from_hf", "gs://bucket/hf", converted) == 0  # there already


@pytest.mark.slow
def test_fine_tuning(converted, run):
    tuned = run.another("gs://bucket/runs/tuned")
    assert tuned.train(f"TrainConfig.initial_checkpoint = '{converted}'", flags=("--max_steps=1",)) == 0
    first = run.another("gs://bucket/runs/first")
    assert first.train(flags=("--max_steps=1",)) == 0
    assert tuned.rows()[0]["loss"] < first.rows()[0]["loss"] - 0.3


@pytest.mark.slow
def test_a_run_that_was_copied_there_from_a_disk_goes_on(environment, local, bucket_server):
    """Checkpoints of a disk have no commit file, which orbax takes for the sign of an unfinished one, and deletes."""
    for path in local.path.rglob("*"):
        if path.is_file():
            bucket_server.put(f"runs/copied/{path.relative_to(local.path)}", path.read_bytes())
    assert dots_jax.open_checkpoint("gs://bucket/runs/copied").steps == [10, 12]
    copied = local.another("gs://bucket/runs/copied")
    assert copied.train(flags=("--max_steps=13",)) == 0
    assert copied.steps() == [12, 13] and len(copied.rows()) == 13


NOTEBOOK = """
import importlib.abc, importlib.machinery, sys
# What requirements-notebook.txt lacks is neither there nor found.
MISSING = {"tensorflow", "seqio", "clu", "gin", "array_record", "apache_beam", "tensorflow_datasets", "tensorboard"}
find = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in MISSING else find(name, path, target)
importlib.machinery.PathFinder.find_spec = find_spec
import dots_jax
opened = dots_jax.open_checkpoint("gs://bucket/runs/one")
print(opened.steps, len(opened.metrics()), opened.load("router_bias")["router_bias"].shape, len(opened.tree()) > 0)
import pathlib, urllib.request, os, json, base64
body = json.dumps(["bucket", "runs/one/checkpoints/99/commit_success.txt", ""]).encode()
urllib.request.urlopen(urllib.request.Request(os.environ["STORAGE_EMULATOR_HOST"] + "/_control/put", body)).read()
print(dots_jax.open_checkpoint("gs://bucket/runs/one/checkpoints/12").steps)
print(opened.restore().step)
assert not MISSING & {name.split(".")[0] for name in sys.modules}
"""


@pytest.mark.subprocess
@pytest.mark.slow
def test_the_notebook_packages_alone_open_it(run, environment, bucket_server):
    """And a checkpoint that another machine adds is seen at once."""
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[10, 12] 12 (2, 8) True", "[10, 12, 99]", "12"]
