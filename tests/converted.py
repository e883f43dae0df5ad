"""A converted checkpoint: restored, compared with its source, and sizes at which a small one has many parts."""

import jax
import jax.numpy as jnp
import numpy as np
from hf_checkpoint import CONFIG

from dots_jax.checkpoint.open import open_checkpoint
from dots_jax.config import ComputeConfig, MeshConfig
from dots_jax.huggingface import names as hf
from dots_jax.huggingface import units as layout
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.mesh import make_mesh


def bits(array) -> np.ndarray:
    array = np.asarray(array)
    return array.view({2: np.uint16, 4: np.uint32}[array.dtype.itemsize])


def abstract_model(mesh: MeshConfig, dtype, config=CONFIG) -> dict:
    definition = ModelDef(config, ComputeConfig(), make_mesh(mesh), init_std=1.0)
    (params, bias), (shardings, bias_sharding) = definition.abstract(), definition.shardings()
    place = lambda leaf, sharding, kind: jax.ShapeDtypeStruct(leaf.shape, kind, sharding=sharding)
    return {
        "params": jax.tree.map(lambda leaf, sharding: place(leaf, sharding, dtype), params, shardings),
        "router_bias": place(bias, bias_sharding, jnp.float32),
    }


def restore(path, abstract: dict) -> dict:
    opened = open_checkpoint(str(path))
    assert opened.steps == [0]
    shapes = (abstract["params"], abstract["router_bias"])
    return dict(zip(abstract, opened.restore(shapes, jax.tree.map(lambda leaf: leaf.sharding, shapes))))


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
