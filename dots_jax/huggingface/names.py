"""Weights in the layout of the released checkpoint (`Dots1ForCausalLM`), in both directions, from one table.

A row of the table says which of their tensors make up one of our parameters, and how. Our parameters are nested
dicts of arrays, written here as paths (`head/w_DV`); their names hold `{layer}` and `{expert}` where our array has a
stack axis. numpy only: a converter that streams from disk walks the same table, one `slices` entry at a time.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from dots_jax.config import ModelConfig, UserError

# --- the table --------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One of our parameters.

    theirs: names of the tensors it is made of. Two names are concatenated along our last axis.
    inputs, outputs: our axes, stack axes left out, by what gives their sizes (fields of ModelConfig). A linear weight is
      [*inputs, *outputs] here and [outputs, inputs], each flattened, there. Without inputs both store the same.
    """

    ours: str
    theirs: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


HIDDEN, HEADS = ("hidden_size",), ("num_heads", "head_dim")


def _norm(ours: str, theirs: str, size: str = "hidden_size") -> Row:
    return Row(ours, (f"{theirs}.weight",), (), (size,))


def _attention(ours: str, theirs: str) -> tuple[Row, ...]:
    """What every layer has: two norms around attention and feed-forward, four projections, two norms over the head."""
    a, b = f"{ours}/attention", f"{theirs}.self_attn"
    return (
        _norm(f"{ours}/attention_norm/scale", f"{theirs}.input_layernorm"),
        Row(f"{a}/wq_DNH", (f"{b}.q_proj.weight",), HIDDEN, HEADS),
        Row(f"{a}/wk_DNH", (f"{b}.k_proj.weight",), HIDDEN, HEADS),
        Row(f"{a}/wv_DNH", (f"{b}.v_proj.weight",), HIDDEN, HEADS),
        Row(f"{a}/wo_NHD", (f"{b}.o_proj.weight",), HEADS, HIDDEN),
        _norm(f"{a}/q_norm/scale", f"{b}.q_norm", "head_dim"),
        _norm(f"{a}/k_norm/scale", f"{b}.k_norm", "head_dim"),
        _norm(f"{ours}/ffn_norm/scale", f"{theirs}.post_attention_layernorm"),
    )


def _swiglu(ours: str, suffix: str, theirs: str, size: str) -> tuple[Row, ...]:
    """A SwiGLU: gate and up are two of their matrices and one of ours, [gate | up]."""
    return (
        Row(
            f"{ours}/w_gate_up_{suffix}DF", (f"{theirs}.gate_proj.weight", f"{theirs}.up_proj.weight"), HIDDEN, (size,)
        ),
        Row(f"{ours}/w_down_{suffix}FD", (f"{theirs}.down_proj.weight",), (size,), HIDDEN),
    )


DENSE, MOE = "model.layers.0", "model.layers.{layer}"

TABLE: tuple[Row, ...] = (
    Row("embed/w_VD", ("model.embed_tokens.weight",), (), ("vocab_size", "hidden_size")),
    *_attention("dense_block", DENSE),
    *_swiglu("dense_block/ffn", "", f"{DENSE}.mlp", "dense_ffn_size"),
    *_attention("moe_blocks", MOE),
    Row("moe_blocks/moe/router/w_DE", (f"{MOE}.mlp.gate.weight",), HIDDEN, ("num_experts",)),
    *_swiglu("moe_blocks/moe/experts", "E", f"{MOE}.mlp.experts.{{expert}}", "expert_ffn_size"),
    *_swiglu("moe_blocks/moe/shared", "", f"{MOE}.mlp.shared_experts", "shared_ffn_size"),
    _norm("final_norm/scale", "model.norm"),
    Row("head/w_DV", ("lm_head.weight",), HIDDEN, ("vocab_size",)),
)  # fmt: skip

# Not a parameter, and not in the tree: one float32 array [L, E].
ROUTER_BIAS = Row("router_bias", (f"{MOE}.mlp.gate.e_score_correction_bias",), (), ("num_experts",))

# --- one slice of one row ---------------------------------------------------------------------------------------------


def stack_shape(row: Row, config: ModelConfig) -> tuple[int, ...]:
    """The leading axes of our array that are separate tensors there: (), (L,) or (L, E)."""
    counts = (("{layer}", config.num_moe_layers), ("{expert}", config.num_experts))
    return tuple(count for mark, count in counts if mark in row.theirs[0])


def slices(row: Row, config: ModelConfig) -> Iterator[tuple[tuple[int, ...], tuple[str, ...]]]:
    """Each index into our stack axes, with their names for it. MoE layer 0 of ours is layer 1 of theirs."""
    for index in np.ndindex(stack_shape(row, config)):
        layer, expert = (*index, None, None)[:2]
        marks = {"layer": None if layer is None else layer + 1, "expert": expert}
        yield index, tuple(name.format(**marks) for name in row.theirs)


def _sizes(fields: tuple[str, ...], config: ModelConfig) -> tuple[int, ...]:
    return tuple(getattr(config, field) for field in fields)


def our_shape(row: Row, config: ModelConfig) -> tuple[int, ...]:
    """The shape of one slice of our parameter, stack axes left out."""
    *front, last = _sizes(row.inputs + row.outputs, config)
    return (*front, last * len(row.theirs))


def their_shape(row: Row, config: ModelConfig) -> tuple[int, ...]:
    """The shape of each of their tensors in the row."""
    inputs, outputs = _sizes(row.inputs, config), _sizes(row.outputs, config)
    return (math.prod(outputs), math.prod(inputs)) if inputs else outputs


def slice_to_theirs(row: Row, ours: np.ndarray) -> tuple[np.ndarray, ...]:
    """One slice of our parameter as their tensors, in the order of `row.theirs`."""
    if not row.inputs:
        return (ours,)
    inputs = math.prod(ours.shape[: len(row.inputs)])
    matrix = ours.reshape(inputs, -1).T
    return tuple(np.ascontiguousarray(part) for part in np.split(matrix, len(row.theirs), axis=0))


def slice_from_theirs(row: Row, theirs: tuple[np.ndarray, ...], config: ModelConfig) -> np.ndarray:
    """The inverse of `slice_to_theirs`; also of some rows of a row with one tensor, whose first output axis they shorten."""
    if not row.inputs:
        return theirs[0]
    matrix = theirs[0] if len(theirs) == 1 else np.concatenate(theirs, axis=0)
    return matrix.T.reshape(*_sizes(row.inputs, config), -1, *_sizes(row.outputs[1:], config))


# --- whole models in memory -------------------------------------------------------------------------------------------


def to_hf(params: Mapping, router_bias: np.ndarray, config: ModelConfig) -> dict[str, np.ndarray]:
    """Our parameters as their tensors by name, every array in the dtype it has.

    params: nested dicts of arrays. router_bias: [L, E] float32. Works on gradients as well as on weights.

    Raises:
      UserError: a parameter is missing, is not in the table, or has the wrong shape.
    """
    flat = _flatten(params)
    check_names("parameters", flat, [row.ours for row in TABLE])
    tensors = {}
    for row in (*TABLE, ROUTER_BIAS):
        array = np.asarray(router_bias if row is ROUTER_BIAS else flat[row.ours])
        _check_shape(row.ours, array, stack_shape(row, config) + our_shape(row, config))
        for index, names in slices(row, config):
            tensors.update(zip(names, slice_to_theirs(row, array[index])))
    return tensors


def from_hf(tensors: Mapping[str, np.ndarray], config: ModelConfig) -> tuple[dict, np.ndarray]:
    """Their tensors by name as (params, router_bias): nested dicts of float32 arrays, and [L, E] float32.

    Raises:
      UserError: a tensor is missing, is not in the table, or has the wrong shape.
    """
    rows = (*TABLE, ROUTER_BIAS)
    check_names("tensors", tensors, [name for row in rows for _, names in slices(row, config) for name in names])
    flat = {}
    for row in rows:
        array = flat[row.ours] = np.empty(stack_shape(row, config) + our_shape(row, config), np.float32)
        for index, names in slices(row, config):
            for name in names:
                _check_shape(name, tensors[name], their_shape(row, config))
            array[index] = slice_from_theirs(row, tuple(np.asarray(tensors[name]) for name in names), config)
    router_bias = flat.pop(ROUTER_BIAS.ours)
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
