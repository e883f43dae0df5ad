"""Conversion from Hugging Face: what is restored is what was in the files, on any mesh, complete and in part.

Claim: a round trip through a checkpoint of this project gives the same bytes, in bfloat16 and float32.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from converted import abstract_model, assert_same_tensors, bits, restore, small_chunks
from hf_checkpoint import CONFIG, convert, hf_config, random_tensors, write
from safetensors import safe_open

from dots_jax.checkpoint.open import open_checkpoint
from dots_jax.config import MeshConfig, UserError
from dots_jax.huggingface.config import config_from_hf


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("mesh", [MeshConfig(fsdp=1), MeshConfig(data=2, fsdp=2, expert=2)])
def test_restored_bit_for_bit(tmp_path, monkeypatch, dtype, mesh):
    small_chunks(monkeypatch)
    tensors = random_tensors(dtype=dtype)
    write(tmp_path / "hf", tensors, hf_config(CONFIG, dtype), files=3)
    assert convert("from_hf", tmp_path / "hf", tmp_path / "dst") == 0
    abstract = abstract_model(mesh, jnp.dtype(dtype))
    model = restore(tmp_path / "dst", abstract)
    for leaf, wanted in zip(jax.tree.leaves(model), jax.tree.leaves(abstract), strict=True):
        assert leaf.sharding == wanted.sharding
    assert_same_tensors(model, tensors, jnp.dtype(dtype))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_round_trip_is_the_same_bytes(tmp_path, monkeypatch, dtype):
    """Of the file too: the safetensors library wrote the first one, and sorts and pads as it does."""
    small_chunks(monkeypatch)
    write(tmp_path / "hf", random_tensors(dtype=dtype), hf_config(CONFIG, dtype))
    assert convert("from_hf", tmp_path / "hf", tmp_path / "dst") == 0
    assert convert("to_hf", tmp_path / "dst", tmp_path / "back") == 0
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (
        tmp_path / "hf" / "model.safetensors"
    ).read_bytes()
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("hf", "back"))
    assert {name: after[name] for name in before} == before
    assert config_from_hf(after) == config_from_hf(before) == CONFIG
    assert not (tmp_path / "back.partial").exists() and not (tmp_path / "dst" / "conversion.partial").exists()


def test_widened_and_narrowed(tmp_path, monkeypatch):
    """bfloat16 restores as float32 and is still checked; --dtype rounds as jax does; and widening loses nothing."""
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=t.shape).astype(t.dtype) for name, t in random_tensors().items()}
    write(tmp_path / "hf", tensors, hf_config(CONFIG))
    assert convert("from_hf", tmp_path / "hf", tmp_path / "dst") == 0
    model = restore(tmp_path / "dst", abstract_model(MeshConfig(fsdp=4), jnp.float32))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(model))
    wide = {name: t.astype(np.float32) for name, t in tensors.items()}
    assert_same_tensors(model, wide, np.float32)
    assert convert("to_hf", tmp_path / "dst", tmp_path / "wide", "--dtype=float32") == 0
    write(tmp_path / "expected", wide, {})
    file = "model.safetensors"
    assert (tmp_path / "wide" / file).read_bytes() == (tmp_path / "expected" / file).read_bytes()

    precise = {name: rng.normal(size=t.shape).astype(np.float32) for name, t in tensors.items()}
    write(tmp_path / "precise", precise, hf_config(CONFIG, "float32"))
    assert convert("from_hf", tmp_path / "precise", tmp_path / "dst32") == 0
    assert convert("to_hf", tmp_path / "dst32", tmp_path / "narrow", "--dtype=bfloat16") == 0
    kept = lambda name, t: t if name.endswith("bias") else np.asarray(jnp.asarray(t).astype(jnp.bfloat16))
    write(tmp_path / "rounded", {name: kept(name, t) for name, t in precise.items()}, {})
    assert (tmp_path / "narrow" / file).read_bytes() == (tmp_path / "rounded" / file).read_bytes()
    assert json.loads((tmp_path / "narrow" / "config.json").read_text())["dtype"] == "bfloat16"

    with pytest.raises(UserError, match="float32 and cannot be checked as bfloat16: cast it afterwards"):
        restore(tmp_path / "dst32", abstract_model(MeshConfig(fsdp=1), jnp.bfloat16))


def test_a_part_of_a_model(tmp_path, monkeypatch):
    """One expert of one layer, past jax, from the bytes of its chunks alone."""
    small_chunks(monkeypatch)
    tensors = random_tensors()
    write(tmp_path / "hf", tensors, hf_config(CONFIG))
    assert convert("from_hf", tmp_path / "hf", tmp_path / "dst") == 0
    arrays, name = open_checkpoint(str(tmp_path / "dst")).arrays, "params/moe_blocks/moe/experts/w_down_EFD"
    assert arrays.arrays[name].chunk[:2] == (1, 1)
    np.testing.assert_array_equal(
        bits(arrays.read(name, (2, 5), arrays.arrays[name].dtype).T.copy()),
        bits(tensors["model.layers.3.mlp.experts.5.down_proj.weight"]),
    )


def test_a_bias_in_bfloat16_becomes_float32(tmp_path):
    """As transformers writes it when a complete model was cast."""
    tensors = random_tensors()
    biases = {n: np.asarray(jnp.linspace(-1, 1, t.size, dtype=jnp.bfloat16)) for n, t in tensors.items() if "bias" in n}
    write(tmp_path / "hf", tensors | biases, hf_config(CONFIG))
    assert convert("from_hf", tmp_path / "hf", tmp_path / "dst") == 0
    model = restore(tmp_path / "dst", abstract_model(MeshConfig(fsdp=1), jnp.bfloat16))
    assert_same_tensors(model, tensors | {n: t.astype(np.float32) for n, t in biases.items()}, jnp.bfloat16)


def test_files_and_index(tmp_path, monkeypatch):
    """Several files: what the index says is what the files hold, and all of it comes back."""
    tensors = random_tensors()
    write(tmp_path / "hf", tensors, hf_config(CONFIG), files=2)
    assert convert("from_hf", tmp_path / "hf", tmp_path / "dst") == 0
    assert convert("to_hf", tmp_path / "dst", tmp_path / "back", "--max_shard_size=30KB") == 0
    index = json.loads((tmp_path / "back" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "back").glob("*.safetensors"))
    assert len(files) > 3 and set(index["weight_map"].values()) == set(files)
    found = {}
    for file in files:
        with safe_open(tmp_path / "back" / file, "np") as opened:
            names = list(opened.keys())
            assert {name for name, where in index["weight_map"].items() if where == file} == set(names)
            part = {name: opened.get_tensor(name) for name in names}
            assert sum(t.nbytes for t in part.values()) <= 30_000
            found |= part
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(bits(found[name]), bits(tensor), err_msg=name)
    assert index["metadata"] == {
        "total_size": sum(t.nbytes for t in tensors.values()),
        "total_parameters": sum(t.size for n, t in tensors.items() if not n.endswith("bias")),
    }
    # And once more, from the files that we wrote.
    assert convert("from_hf", tmp_path / "back", tmp_path / "again") == 0
    model = restore(tmp_path / "again", abstract_model(MeshConfig(fsdp=1), jnp.bfloat16))
    assert_same_tensors(model, tensors, jnp.bfloat16)
