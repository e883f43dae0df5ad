"""Conversion from Hugging Face: what is restored is what was in the files, on any mesh, whole and in part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf_checkpoint import CONFIG, convert, hf_config, random_tensors, write

from dots_jax.config import ComputeConfig, MeshConfig
from dots_jax.interop import huggingface as hf
from dots_jax.interop import layout
from dots_jax.parallel.mesh import make_mesh
from dots_jax.training.checkpoint import Checkpoints
from dots_jax.training.state import Definition


def bits(array) -> np.ndarray:
    array = np.asarray(array)
    return array.view({2: np.uint16, 4: np.uint32}[array.dtype.itemsize])


def abstract_model(mesh: MeshConfig, dtype, config=CONFIG) -> dict:
    definition = Definition(config, ComputeConfig(), make_mesh(mesh), init_std=1.0)
    (params, bias), (shardings, bias_sharding) = definition.abstract(), definition.shardings()
    place = lambda leaf, sharding, kind: jax.ShapeDtypeStruct(leaf.shape, kind, sharding=sharding)
    return {
        "params": jax.tree.map(lambda leaf, sharding: place(leaf, sharding, dtype), params, shardings),
        "router_bias": place(bias, bias_sharding, jnp.float32),
    }


def restore(path, abstract: dict) -> dict:
    checkpoints = Checkpoints(str(path))
    assert checkpoints.steps() == [0]
    model = checkpoints.restore_model(0, abstract)
    checkpoints.close()
    return model


def small_chunks(monkeypatch, chunk=512, piece=2048, unit=8192):
    """Sizes at which even this model has many chunks, pieces and units of each array."""
    for name, size in (("CHUNK_BYTES", chunk), ("PIECE_BYTES", piece), ("UNIT_BYTES", unit)):
        monkeypatch.setattr(layout, name, size)


def assert_same_tensors(model: dict, tensors: dict, dtype) -> None:
    """Every tensor of the source, bit for bit, from a restored model whose arrays are of the source's dtype."""
    again = hf.to_hf(jax.device_get(model["params"]), jax.device_get(model["router_bias"]), CONFIG)
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        kind = np.float32 if name.endswith("bias") else dtype
        assert again[name].dtype == kind, name
        np.testing.assert_array_equal(bits(again[name]), bits(tensor), err_msg=name)


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
