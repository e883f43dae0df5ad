"""XLM-RoBERTa's encoder, of which BGE-M3 is one: pure functions of arrays, read from the folder that Hugging Face publishes.

The embedding of a text is the last hidden state of its first token, scaled to length 1, as BGE-M3's dense vectors are. Shape
suffixes: B texts, T tokens, D hidden size, N heads, H head size, F width of the feed-forward.
"""

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dots_jax.config import UserError
from dots_jax.curation_models.examples import CHARACTERS
from dots_jax.curation_models.torch_file import read_tensors

# Name here -> name in layer i of the published file. A matrix is stored as [out, in].
_LAYER = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value", "o": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm", "up": "intermediate.dense", "down": "output.dense",
    "ffn_norm": "output.LayerNorm",
}  # fmt: skip
_EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class Settings(NamedTuple):
    """Of config.json, under its names there."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    pad_token_id: int
    layer_norm_eps: float


def read_settings(folder: str) -> Settings:
    """Raises UserError for a folder that is no XLM-RoBERTa, or of a kind whose numbers would differ."""
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        settings = Settings(*(config[name] for name in Settings._fields))
    except FileNotFoundError:
        raise UserError(f"There is no file {path}: name the folder of an XLM-RoBERTa, such as BGE-M3's.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no config of an XLM-RoBERTa ({type(error).__name__}: {error}).") from None
    wanted = {"model_type": ("xlm-roberta",), "hidden_act": ("gelu",), "position_embedding_type": ("absolute", None)}
    for name, values in wanted.items():
        if config.get(name) not in values:
            raise UserError(f"{path}: {name} is {config.get(name)!r}, but this program computes {values[0]!r} alone.")
    return settings


def load(folder: str) -> tuple[Settings, dict]:
    """Settings and parameters in float32; those of a layer are stacked, [L, ...].

    Raises UserError for a folder that is incomplete, or whose tensors have other shapes than its config says.
    """
    settings = read_settings(folder)
    path = next((str(Path(folder) / name) for name in WEIGHTS if (Path(folder) / name).exists()), None)
    if path is None:
        raise UserError(f"{folder} has neither {' nor '.join(WEIGHTS)}: give the complete folder as it is published.")
    tensors = _read(folder, path)
    tensors = {name.removeprefix("roberta."): tensor for name, tensor in tensors.items()}

    def get(name: str, *shape: int | None) -> np.ndarray:
        if name not in tensors:
            raise UserError(f"{path} has no tensor {name}: it is no XLM-RoBERTa of this config.")
        found = tensors[name].astype(np.float32)
        if any(size not in (None, real) for size, real in zip(shape, found.shape)) or len(shape) != found.ndim:
            raise UserError(f"{path}: {name} has the shape {found.shape}, which its config.json contradicts.")
        return found

    D, L = settings.hidden_size, settings.num_hidden_layers
    params = {name: get(f"embeddings.{name}.weight", None, D) for name in _EMBEDDINGS}
    params["norm"] = {kind: get(f"embeddings.LayerNorm.{kind}", D) for kind in ("weight", "bias")}
    params["layers"] = {}
    for ours, theirs in _LAYER.items():
        matrix = (None, None) if not ours.endswith("norm") else (D,)
        names = [f"encoder.layer.{layer}.{theirs}" for layer in range(L)]
        params["layers"][ours] = {
            "weight": np.stack([get(f"{name}.weight", *matrix) for name in names]),
            "bias": np.stack([get(f"{name}.bias", None) for name in names]),
        }
    return settings, params


def _read(folder: str, path: str) -> dict[str, np.ndarray]:
    if path.endswith(".bin"):
        return read_tensors(path)
    from dots_jax.huggingface.safetensors_read import SafetensorsFolder

    found = SafetensorsFolder(folder)
    tensors = {name: found.read(name) for name in found.tensors if not name.endswith("position_ids")}
    found.close()
    return tensors


def _norm(x_BTD: jax.Array, p: dict, epsilon: float) -> jax.Array:
    mean = x_BTD.mean(axis=-1, keepdims=True)
    variance = jnp.square(x_BTD - mean).mean(axis=-1, keepdims=True)
    return (x_BTD - mean) * jax.lax.rsqrt(variance + epsilon) * p["weight"] + p["bias"]


def _dense(x: jax.Array, p: dict) -> jax.Array:
    return jnp.einsum("btd,fd->btf", x, p["weight"], precision=jax.lax.Precision.HIGHEST) + p["bias"]


def _layer(settings: Settings, mask_BT: jax.Array, x_BTD: jax.Array, p: dict) -> jax.Array:
    B, T, D = x_BTD.shape
    N = settings.num_attention_heads
    q, k, v = (_dense(x_BTD, p[name]).reshape(B, T, N, D // N) for name in "qkv")
    scores_BNTS = jnp.einsum("btnh,bsnh->bnts", q, k, precision=jax.lax.Precision.HIGHEST) * (D // N) ** -0.5
    weights = jax.nn.softmax(jnp.where(mask_BT[:, None, None, :], scores_BNTS, -1e30), axis=-1)
    mixed = jnp.einsum("bnts,bsnh->btnh", weights, v, precision=jax.lax.Precision.HIGHEST).reshape(B, T, D)
    x_BTD = _norm(x_BTD + _dense(mixed, p["o"]), p["attention_norm"], settings.layer_norm_eps)
    hidden_BTF = jax.nn.gelu(_dense(x_BTD, p["up"]), approximate=False)
    return _norm(x_BTD + _dense(hidden_BTF, p["down"]), p["ffn_norm"], settings.layer_norm_eps)


def hidden_states(settings: Settings, params: dict, ids_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """float32 [B, T, D] of the last layer. mask: True for tokens. Positions count tokens, from pad_token_id + 1 on."""
    positions_BT = jnp.cumsum(mask_BT, axis=1) * mask_BT + settings.pad_token_id
    x_BTD = params["word_embeddings"][ids_BT] + params["position_embeddings"][positions_BT]
    x_BTD = _norm(x_BTD + params["token_type_embeddings"][0], params["norm"], settings.layer_norm_eps)
    step = functools.partial(_layer, settings, mask_BT)
    return jax.lax.scan(lambda x, p: (step(x, p), None), x_BTD, params["layers"])[0]


class Embedder:
    """Unit vectors of texts, float32 [N, D]. length: tokens of a text, `<s>` and `</s>` among them; the rest is not seen.

    Texts are padded to a power of two of tokens, so a handful of shapes are compiled; no vector depends on the other texts.
    """

    def __init__(self, folder: str, length: int, rows: int = 16):
        import tokenizers

        self.settings, params = load(folder)
        most = self.settings.max_position_embeddings - self.settings.pad_token_id - 1
        if not 3 <= length <= most:
            raise UserError(
                f"SemanticConfig.length must be from 3 to {most}, the context of {folder}, but is {length}."
            )
        path = os.path.join(folder, "tokenizer.json")
        if not os.path.exists(path):
            raise UserError(f"There is no file {path}: give the complete folder as it is published.")
        self._tokenizer = tokenizers.Tokenizer.from_file(path)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(length)
        self._length, self._rows, self._params = length, rows, jax.tree.map(jnp.asarray, params)
        self._embed = jax.jit(self._first)

    def _first(self, params: dict, ids_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
        first_BD = hidden_states(self.settings, params, ids_BT, mask_BT)[:, 0]
        return first_BD / jnp.linalg.norm(first_BD, axis=1, keepdims=True)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        clean = [text[: CHARACTERS * self._length].encode("utf-8", "replace").decode() for text in texts]
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(clean)]
        sizes = [min(max(16, 1 << (len(some) - 1).bit_length()), self._length) for some in ids]
        found_ND = np.empty((len(ids), self.settings.hidden_size), np.float32)
        for size in sorted(set(sizes)):
            mine = [place for place, of in enumerate(sizes) if of == size]
            for first in range(0, len(mine), self._rows):
                chosen = mine[first : first + self._rows]
                ids_BT = np.full((self._rows, size), self.settings.pad_token_id, np.int32)
                mask_BT = np.zeros((self._rows, size), bool)
                mask_BT[:, 0] = True
                for row, place in enumerate(chosen):
                    ids_BT[row, : len(ids[place])] = ids[place]
                    mask_BT[row, : len(ids[place])] = True
                found_ND[chosen] = np.asarray(self._embed(self._params, ids_BT, mask_BT))[: len(chosen)]
        return found_ND
