"""`open_checkpoint`: what it shows, which bytes it reads, complete models, and one sentence for what cannot be.

Claim: part of the 142B model is loaded with a few hundred MB of memory, and only its chunks are read.
"""

import json
import re
import shutil
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils.epath import gpath
from folder_bucket import FolderBucket, StorageServer
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from synthetic_checkpoint import EXPERTS, LAYER, write_large, write_small

import dots_jax
from dots_jax.checkpoint import store
from dots_jax.checkpoint.arrays import bytes_read
from dots_jax.config import UserError, tiny

GATE_UP, DOWN = "moe_blocks/moe/experts/w_gate_up_EDF", "moe_blocks/moe/experts/w_down_EFD"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A workdir with two checkpoints, and what is in them. Chunks are cut as those of a large model."""
    workdir = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "MIN_CHUNK_BYTES", 1024)
        states = write_small(workdir, tiny(), 3, 5)
    return workdir, states


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("large")
    return workdir, write_large(workdir)


def named(state) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    arrays = {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}
    return arrays | {"router_bias": np.asarray(state.router_bias)}


# --- what it shows ------------------------------------------------------------------------------------------------------


@pytest.mark.subprocess
def test_shows_a_workdir_without_jax(small):
    """Opening costs the names and sizes: neither jax nor orbax is loaded, nor any array."""
    workdir, states = small
    code = (
        "import sys, dots_jax\n"
        "assert set(sys.modules) & {'numpy', 'jax', 'tensorstore', 'etils'} == set()\n"
        f"opened = dots_jax.open_checkpoint({str(workdir)!r})\n"
        "print(opened); print(opened.tree()); print(opened.gin)\n"
        "assert set(sys.modules) & {'jax', 'orbax', 'flax', 'tensorflow'} == set()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "step        5 of 3, 5; 5,000 tokens" in done.stdout and "TrainConfig.seed = 0" in done.stdout
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    for name, array in named(states[5]).items():
        assert " x ".join(map(str, array.shape)) in rows[name] and " float32 " in rows[name]


def test_sizes(small):
    workdir, states = small
    opened = dots_jax.open_checkpoint(str(workdir))
    assert {n: (a.shape, a.dtype, a.nbytes) for n, a in opened.arrays.items()} == {
        n: (a.shape, a.dtype, a.nbytes) for n, a in named(states[5]).items()
    }
    files = sum(file.stat().st_size for file in (workdir / "checkpoints/5/model").rglob("d/*"))
    stored = opened._opened.arrays.stored_bytes
    assert 0.7 * files < sum(stored.values()) < files and all(stored.values())
    assert opened.model == tiny() and opened.steps == [3, 5] and opened.tokens == {3: 3000, 5: 5000}


@pytest.mark.parametrize("part", ["", "checkpoints", "checkpoints/3", "checkpoints/5/"])
def test_any_folder_of_a_run(small, part):
    opened = dots_jax.open_checkpoint(f"{small[0]}/{part}")
    assert opened.step == (3 if "3" in part else 5) and opened.steps == [3, 5]


def test_a_checkpoint_that_was_copied_elsewhere(small, tmp_path):
    shutil.copytree(small[0] / "checkpoints" / "3", tmp_path / "mine")
    opened = dots_jax.open_checkpoint(str(tmp_path / "mine"))
    assert opened.step == 3 and opened.steps == [3] and opened.milestones == []
    assert opened.load("embed/*")["embed/w_VD"].shape == (259, 32)


# --- parts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "experts", "place"),
    [
        (2, 5, (1, 5)),
        (2, [0, 3, 6, 7], (1, [0, 3, 6, 7])),
        ([2, 1], slice(2, 5), np.ix_([1, 0], range(2, 5))),
        (slice(1, None), range(8), (slice(None),)),
        (None, 7, (slice(None), 7)),
        (1, None, (0,)),
    ],
)
def test_layers_and_experts(small, layers, experts, place):
    workdir, states = small
    opened = dots_jax.open_checkpoint(str(workdir))
    loaded = opened.load("moe_blocks/moe/experts/*", layers=layers, experts=experts)
    assert set(loaded) == {GATE_UP, DOWN}
    for name, array in loaded.items():
        np.testing.assert_array_equal(array, named(states[5])[name][place])


def test_one_layer_of_everything(small):
    workdir, states = small
    opened, arrays = dots_jax.open_checkpoint(str(workdir)).at(3), named(states[3])
    moe, dense = opened.load("*", layers=2), opened.load("*", layers=0)
    assert set(moe) == {name for name in arrays if name.startswith("moe_blocks/") or name == "router_bias"}
    assert set(dense) == {name for name in arrays if name.startswith("dense_block/")}
    for name, array in {**moe, **dense}.items():
        np.testing.assert_array_equal(array, arrays[name][1] if name in moe else arrays[name])
    both = opened.load("*norm/scale", layers=[0, 1])
    assert both["moe_blocks/ffn_norm/scale"].shape == (1, 32) and both["dense_block/ffn_norm/scale"].shape == (32,)


def test_patterns_index_and_dtype(small):
    workdir, states = small
    opened, arrays = dots_jax.open_checkpoint(str(workdir)), named(states[5])
    assert set(opened.load(re.compile(r"w[qk]_DNH$"))) == {
        f"{block}/attention/w{m}_DNH" for m in "qk" for block in ("dense_block", "moe_blocks")
    }
    part = opened.load("embed/*", index=(slice(10, 20), [3, 30]), dtype="bfloat16")["embed/w_VD"]
    np.testing.assert_array_equal(part, arrays["embed/w_VD"][10:20][:, [3, 30]].astype(ml_dtypes.bfloat16))
    complete = opened.load("*")
    assert complete.keys() == arrays.keys()
    for name, array in complete.items():
        np.testing.assert_array_equal(array, arrays[name])


def test_reads_only_the_chunks_it_needs(small):
    workdir, _ = small
    opened = dots_jax.open_checkpoint(str(workdir))
    assert opened.arrays[GATE_UP].chunk == (1, 1, 32, 32) and opened.arrays[DOWN].chunk == (1, 1, 16, 32)
    opened.load("embed/*")  # whatever is read once: the index of the store
    before = bytes_read()
    opened.load(GATE_UP, layers=2, experts=5)
    assert bytes_read() - before < 1.1 * 32 * 32 * 4


def test_a_bucket(small, monkeypatch):
    """Opening is a handful of requests, and a part is one request of a few bytes for each chunk."""
    workdir, states = small
    server, fake = StorageServer(str(workdir)), FolderBucket(workdir)
    monkeypatch.setattr(gpath._GPath, "_backend", property(lambda self: fake))
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    opened = dots_jax.open_checkpoint("gs://bucket")
    assert opened.step == 5 and opened.steps == [3, 5] and len(server.requests) < 6
    server.requests.clear()
    loaded = opened.load("*experts*", layers=2, experts=[5, 1])
    for name, array in loaded.items():
        np.testing.assert_array_equal(array, named(states[5])[name][1, [5, 1]])
    parts = [asked for name, asked in server.requests if "/ocdbt.process_0/d/" in name and asked]
    assert sum(1 + int(asked.split("-")[1]) - int(asked[6:].split("-")[0]) for asked in parts) < 1.2 * 2 * 1536 * 4
    server.shutdown()


@pytest.mark.parametrize("limit", [1, 3000, 2**30])
def test_any_number_of_chunks_at_a_time(small, limit, monkeypatch):
    monkeypatch.setattr("dots_jax.checkpoint.arrays.IN_FLIGHT_BYTES", limit)
    workdir, states = small
    loaded = dots_jax.open_checkpoint(str(workdir)).load("*experts*", layers=[2, 1], experts=[7, 1, 2])
    for name, array in loaded.items():
        np.testing.assert_array_equal(array, named(states[5])[name][np.ix_([1, 0], [7, 1, 2])])


def test_a_sharded_model_is_cut_into_layers_and_experts(tmp_path, monkeypatch):
    """Orbax cuts each device's shard as `save_args` asks, so the chunks of a pod can be told without a pod."""
    monkeypatch.setattr(store, "MIN_CHUNK_BYTES", 256 * 1024)
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("fsdp", "expert"))
    split = NamedSharding(mesh, PartitionSpec(None, "expert", "fsdp"))
    experts = jax.device_put(np.arange(3 * 4 * 512 * 640, dtype=np.float32).reshape(3, 4, 512, 640), split)
    item = {
        "moe_blocks": {"experts": {"w": experts}, "shared": {"w": experts}, "small": {"scale": experts[:, 0, :, 0]}}
    }
    stack_axes = {"moe_blocks": {"experts": {"w": 2}, "shared": {"w": 1}, "small": {"scale": 1}}}
    cut = jax.tree.map(store.save_args, item, stack_axes)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "item", item, save_args=cut)
    written = json.loads((tmp_path / "item/array_metadatas/process_0").read_text())["array_metadatas"]
    chunks = {a["array_metadata"]["param_name"]: a["array_metadata"]["chunk_shape"] for a in written}
    assert chunks["moe_blocks.experts.w"] == [1, 1, 128, 640]
    assert chunks["moe_blocks.shared.w"] == [1, 2, 128, 640]
    assert chunks["moe_blocks.small.scale"][0] == 3  # too small to be worth a cut


LOAD_PART = """
import json, sys
import dots_jax
from dots_jax.inspection.stored_arrays import bytes_read
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 2**10
opened = dots_jax.open_checkpoint(sys.argv[1])
text = repr(opened)
before = peak(), bytes_read()
loaded = opened.load("moe_blocks/moe/[er]*", layers=7, experts=[0, 1, 2, 3], dtype="bfloat16")
figures = {"opening_bytes": before[1], "bytes": bytes_read() - before[1], "opening_mib": before[0], "mib": peak() - before[0]}
figures["shapes"] = {name: [*array.shape, array.dtype.name] for name, array in loaded.items()}
figures["sums"] = {name: float(array.astype("float64").sum()) for name, array in loaded.items()}
print(json.dumps(figures))
"""


@pytest.mark.subprocess
def test_part_of_142b_on_a_small_machine(large):
    """One router and four experts of the full model, as 128 chips write it: 1/1500 of its 571 GB is read."""
    workdir, written = large
    done = subprocess.run([sys.executable, "-c", LOAD_PART, str(workdir)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["shapes"] == {
        "moe_blocks/moe/router/w_DE": [4096, 128, "bfloat16"],
        GATE_UP: [4, 4096, 2816, "bfloat16"],
        DOWN: [4, 1408, 4096, "bfloat16"],
    }
    for name, data in written.items():
        expected = data.astype(ml_dtypes.bfloat16).astype(np.float64).sum()
        assert figures["sums"][name] == pytest.approx(expected, rel=1e-12)
    needed = sum(data.nbytes for data in written.values())
    print(figures)
    assert figures["opening_bytes"] < 2**20 and figures["bytes"] < 1.05 * needed
    assert figures["opening_mib"] < 300 and figures["mib"] < needed / 2 / 2**20 + 600


def test_all_of_142b_is_refused_before_it_is_read(large, monkeypatch):
    opened = dots_jax.open_checkpoint(str(large[0]))
    assert sum(array.nbytes // 4 for array in opened.arrays.values()) == 142_774_373_888 + 61 * 128
    monkeypatch.setattr("dots_jax.analysis.opened._free_memory", lambda: 12 * 2**30)
    before = bytes_read()
    with pytest.raises(UserError, match=r"takes 265.94 GiB, and this machine has 12.00 GiB free: choose fewer layers"):
        opened.load("*", dtype="bfloat16")
    with pytest.raises(UserError, match="free: choose fewer"):
        opened.restore()
    assert bytes_read() == before
    assert LAYER == 7 and EXPERTS == (0, 1, 2, 3)  # LOAD_PART names them


# --- complete models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_restore(small, dtype):
    workdir, states = small
    model = dots_jax.open_checkpoint(str(workdir)).restore(dtype)
    assert model.config == tiny() and model.step == 5
    for restored, saved in zip(jax.tree.leaves(model.params), jax.tree.leaves(states[5].params), strict=True):
        np.testing.assert_array_equal(restored, np.asarray(saved).astype(restored.dtype))
        assert restored.dtype == dtype
    np.testing.assert_array_equal(model.router_bias, states[5].router_bias)
    assert model.bind().embed.w_VD.shape == (259, 32)


def test_a_restored_model_generates(small):
    """Greedy: each token is the likeliest that the model gives after those before it."""
    model = dots_jax.open_checkpoint(str(small[0])).restore()
    prompts = [[5, 80, 90], [100, 7, 8, 9, 30, 31]]
    new = model.generate(prompts, max_new_tokens=5)
    assert list(map(len, new)) == [5, 5]
    rows = [prompt + tokens for prompt, tokens in zip(prompts, new)]
    tokens = np.zeros((2, 12), np.int32)
    for row, ids in zip(tokens, rows):
        row[: len(ids)] = ids
    forward = jax.jit(lambda t: model.bind()(t, np.arange(12) + 0 * t, np.ones_like(tokens))[0])
    likeliest = np.argmax(forward(tokens) @ model.params["head"]["w_DV"], axis=-1)
    for row, prompt, ids in zip(likeliest, prompts, rows):
        assert ids[len(prompt) :] == list(row[len(prompt) - 1 : len(ids) - 1])
    drawn = [model.generate(prompts, 5, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert model.params["head"]["w_DV"].shape == (32, 259)  # still complete


# --- what cannot be -----------------------------------------------------------------------------------------------------


def test_no_checkpoint(small, tmp_path):
    (tmp_path / "run" / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir(parents=True)
    (tmp_path / "broken" / "checkpoints" / "1" / "model").mkdir(parents=True)
    (tmp_path / "broken" / "checkpoints" / "1" / "record").mkdir()
    for path, sentence in (
        ("nowhere", r"There is no folder .*nowhere\."),
        (
            ".",
            r"is not a checkpoint: give the workdir of a training run, a folder that .*convert from_hf` wrote, or one checkpoint",
        ),
        ("run", r"There is no finished checkpoint in .*run/checkpoints\."),
        ("broken", r"The checkpoint .*broken/checkpoints/1 cannot be read: its record cannot be read: .*No such file"),
    ):
        with pytest.raises(UserError, match=sentence):
            dots_jax.open_checkpoint(str(tmp_path / path))


def test_damaged_arrays(small, tmp_path):
    shutil.copytree(small[0] / "checkpoints" / "3", tmp_path / "mine")
    for file in (tmp_path / "mine" / "model").rglob("d/*"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with pytest.raises(UserError, match="mine.* cannot be read: "):
        dots_jax.open_checkpoint(str(tmp_path / "mine")).restore()
    (tmp_path / "mine" / "model" / "manifest.ocdbt").unlink()
    with pytest.raises(UserError, match="The arrays in .*mine/model cannot be read: "):
        dots_jax.open_checkpoint(str(tmp_path / "mine"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"pattern": "moe_blocks/moe/expert/w_down"}, r"matches 'moe_blocks/moe/expert/w_down'; near it are .*w_down_EFD"),
        ({"pattern": re.compile("^xyz$")}, r"No array of .* matches '\^xyz\$'; they are "),
        ({"pattern": "*", "layers": 3}, r"^3 is out of range: the layers are 0 to 2\.$"),
        ({"pattern": "*", "layers": [1, -1]}, r"^-1 is out of range: the layers are 0 to 2\.$"),
        ({"pattern": "*", "layers": 1, "experts": [8]}, r"^8 is out of range: the experts are 0 to 7\.$"),
        ({"pattern": "*", "layers": []}, r"^None is chosen: the layers are 0 to 2\.$"),
        ({"pattern": "embed/*", "layers": 1}, r"^'embed/\*' matches embed/w_VD, of which nothing is in the layers 1: leave"),
        ({"pattern": "embed/*", "index": (300,)}, r"^300 is out of range: the places on axis 0 of embed/w_VD are 0 to 258\.$"),
        ({"pattern": "embed/*", "index": (0, 0, 0)}, r"The index has 3 axes, and embed/w_VD has the shape \(259, 32\)\."),
        ({"pattern": "*", "index": 0, "layers": 0}, r"^Give either index, or layers and experts"),
        ({"pattern": "*", "dtype": "int8"}, r"^dtype must be one of bfloat16, float32, float16, but is 'int8'\.$"),
    ],
)  # fmt: skip
def test_a_part_that_is_not_there(small, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        dots_jax.open_checkpoint(str(small[0])).load(**arguments)


def test_a_step_and_metrics_that_are_not_there(small):
    opened = dots_jax.open_checkpoint(str(small[0]))
    with pytest.raises(UserError, match=r"There is no checkpoint of step 4 in .*checkpoints: it has 3, 5\."):
        opened.at(4)
    with pytest.raises(UserError, match=r"There is no metrics\.jsonl of .*: only a training run writes one"):
        opened.metrics()
