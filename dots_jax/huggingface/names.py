"""Weights in the layout of the released checkpoint (`Dots1ForCausalLM`), in both directions, from one table.

Native is the layout of this project, hf that of Hugging Face. An entry of the table says which hf tensors make up one native
parameter, and how. Native parameters are nested dicts of arrays, written here as paths (`head/w_DV`). Names of hf tensors hold
`{layer}` and `{expert}` where the native array has a stack axis. numpy only: a converter that streams from disk walks the same
table, one `slices` entry at a time.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from dots_jax.config import ModelConfig, UserError

# --- the table --------------------------------------------------------------------------------------------------------


class Weight(NamedTuple):
    """One parameter in both layouts.

    A linear weight is native [*inputs, *outputs] and hf [outputs, inputs], each flattened. Without inputs both are the same.
    """

    native: str  # its path
    hf: tuple[str, ...]  # names of its tensors; two are concatenated along the last native axis
    inputs: tuple[str, ...]  # native axes without the stack axes, by the fields of ModelConfig that give their sizes
    outputs: tuple[str, ...]


HIDDEN, HEADS = ("hidden_size",), ("num_heads", "head_dim")


def _norm(native: str, hf: str, size: str = "hidden_size") -> Weight:
    return Weight(native, (f"{hf}.weight",), (), (size,))


def _attention(native: str, hf: str) -> tuple[Weight, ...]:
    """What every layer has: two norms around attention and feed-forward, four projections, two norms over the head."""
    a, b = f"{native}/attention", f"{hf}.self_attn"
    return (
        _norm(f"{native}/attention_norm/scale", f"{hf}.input_layernorm"),
        Weight(f"{a}/wq_DNH", (f"{b}.q_proj.weight",), HIDDEN, HEADS),
        Weight(f"{a}/wk_DNH", (f"{b}.k_proj.weight",), HIDDEN, HEADS),
        Weight(f"{a}/wv_DNH", (f"{b}.v_proj.weight",), HIDDEN, HEADS),
        Weight(f"{a}/wo_NHD", (f"{b}.o_proj.weight",), HEADS, HIDDEN),
        _norm(f"{a}/q_norm/scale", f"{b}.q_norm", "head_dim"),
        _norm(f"{a}/k_norm/scale", f"{b}.k_norm", "head_dim"),
        _norm(f"{native}/ffn_norm/scale", f"{hf}.post_attention_layernorm"),
    )


def _swiglu(native: str, suffix: str, hf: str, size: str) -> tuple[Weight, ...]:
    """A SwiGLU: gate and up are two hf matrices and one native matrix, [gate | up]."""
    return (
        Weight(f"{native}/w_gate_up_{suffix}DF", (f"{hf}.gate_proj.weight", f"{hf}.up_proj.weight"), HIDDEN, (size,)),
        Weight(f"{native}/w_down_{suffix}FD", (f"{hf}.down_proj.weight",), (size,), HIDDEN),
    )


DENSE, MOE = "model.layers.0", "model.layers.{layer}"

TABLE: tuple[Weight, ...] = (
    Weight("embed/w_VD", ("model.embed_tokens.weight",), (), ("vocab_size", "hidden_size")),
    *_attention("dense_block", DENSE),
    *_swiglu("dense_block/ffn", "", f"{DENSE}.mlp", "dense_ffn_size"),
    *_attention("moe_blocks", MOE),
    Weight("moe_blocks/moe/router/w_DE", (f"{MOE}.mlp.gate.weight",), HIDDEN, ("num_experts",)),
    *_swiglu("moe_blocks/moe/experts", "E", f"{MOE}.mlp.experts.{{expert}}", "expert_ffn_size"),
    *_swiglu("moe_blocks/moe/shared", "", f"{MOE}.mlp.shared_experts", "shared_ffn_size"),
    _norm("final_norm/scale", "model.norm"),
    Weight("head/w_DV", ("lm_head.weight",), HIDDEN, ("vocab_size",)),
)  # fmt: skip

# Not a parameter, and not in the tree: one float32 array [L, E].
ROUTER_BIAS = Weight("router_bias", (f"{MOE}.mlp.gate.e_score_correction_bias",), (), ("num_experts",))

# --- one slice of one weight ------------------------------------------------------------------------------------------


def stack_shape(weight: Weight, config: ModelConfig) -> tuple[int, ...]:
    """The leading axes of the native array, which are separate hf tensors: (), (L,) or (L, E)."""
    counts = (("{layer}", config.num_moe_layers), ("{expert}", config.num_experts))
    return tuple(count for mark, count in counts if mark in weight.hf[0])


def slices(weight: Weight, config: ModelConfig) -> Iterator[tuple[tuple[int, ...], tuple[str, ...]]]:
    """Each index into the native stack axes, with its hf names. Native MoE layer 0 is hf layer 1."""
    for index in np.ndindex(stack_shape(weight, config)):
        layer, expert = (*index, None, None)[:2]
        marks = {"layer": None if layer is None else layer + 1, "expert": expert}
        yield index, tuple(name.format(**marks) for name in weight.hf)


def _sizes(fields: tuple[str, ...], config: ModelConfig) -> tuple[int, ...]:
    return tuple(getattr(config, field) for field in fields)


def native_shape(weight: Weight, config: ModelConfig) -> tuple[int, ...]:
    """The shape of one slice of the native parameter, without the stack axes."""
    *front, last = _sizes(weight.inputs + weight.outputs, config)
    return (*front, last * len(weight.hf))


def hf_shape(weight: Weight, config: ModelConfig) -> tuple[int, ...]:
    """The shape of each hf tensor of the weight."""
    inputs, outputs = _sizes(weight.inputs, config), _sizes(weight.outputs, config)
    return (math.prod(outputs), math.prod(inputs)) if inputs else outputs


def slice_to_hf(weight: Weight, native: np.ndarray) -> tuple[np.ndarray, ...]:
    """One slice of the native parameter as hf tensors, in the order of `weight.hf`."""
    if not weight.inputs:
        return (native,)
    inputs = math.prod(native.shape[: len(weight.inputs)])
    matrix = native.reshape(inputs, -1).T
    return tuple(np.ascontiguousarray(part) for part in np.split(matrix, len(weight.hf), axis=0))


def slice_from_hf(weight: Weight, hf: tuple[np.ndarray, ...], config: ModelConfig) -> np.ndarray:
    """The inverse of `slice_to_hf`; also of some rows of a single tensor, which shorten the first output axis."""
    if not weight.inputs:
        return hf[0]
    matrix = hf[0] if len(hf) == 1 else np.concatenate(hf, axis=0)
    return matrix.T.reshape(*_sizes(weight.inputs, config), -1, *_sizes(weight.outputs[1:], config))


# --- complete models in memory ----------------------------------------------------------------------------------------


def to_hf(params: Mapping, router_bias: np.ndarray, config: ModelConfig) -> dict[str, np.ndarray]:
    """Native parameters as hf tensors by name, every array in the dtype it has.

    params: nested dicts of arrays. router_bias: [L, E] float32. Works on gradients as well as on weights.

    Raises:
      UserError: a parameter is missing, is not in the table, or has the wrong shape.
    """
    flat = _flatten(params)
    check_names("parameters", flat, [weight.native for weight in TABLE])
    tensors = {}
    for weight in (*TABLE, ROUTER_BIAS):
        array = np.asarray(router_bias if weight is ROUTER_BIAS else flat[weight.native])
        _check_shape(weight.native, array, stack_shape(weight, config) + native_shape(weight, config))
        for index, names in slices(weight, config):
            tensors.update(zip(names, slice_to_hf(weight, array[index])))
    return tensors


def from_hf(tensors: Mapping[str, np.ndarray], config: ModelConfig) -> tuple[dict, np.ndarray]:
    """hf tensors by name as (params, router_bias): nested dicts of float32 arrays, and [L, E] float32.

    Raises:
      UserError: a tensor is missing, is not in the table, or has the wrong shape.
    """
    weights = (*TABLE, ROUTER_BIAS)
    check_names(
        "tensors", tensors, [name for weight in weights for _, names in slices(weight, config) for name in names]
    )
    flat = {}
    for weight in weights:
        array = flat[weight.native] = np.empty(stack_shape(weight, config) + native_shape(weight, config), np.float32)
        for index, names in slices(weight, config):
            for name in names:
                _check_shape(name, tensors[name], hf_shape(weight, config))
            array[index] = slice_from_hf(weight, tuple(np.asarray(tensors[name]) for name in names), config)
    router_bias = flat.pop(ROUTER_BIAS.native)
    return _nest(flat), router_bias


def _flatten(tree: Mapping, prefix: str = "") -> dict[str, np.ndarray]:
    flat = {}
    for key, value in tree.items():
        flat.update(_flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat


def _nest(flat: Mapping[str, np.ndarray]) -> dict:
    tree: dict = {}
    for path, value in flat.items():
        *folders, leaf = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = value
    return tree


def check_names(what: str, found, expected) -> None:
    for problem, names in (("missing", set(expected) - set(found)), ("unknown", set(found) - set(expected))):
        if names:
            some = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            raise UserError(f"{len(names)} {what} are {problem} for this model config: {some}.")


def _check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if tuple(array.shape) != shape:
        raise UserError(f"{name} has shape {tuple(array.shape)}, but this model config makes it {shape}.")
