"""Exports against the name tables of those that serve them: facts read in their public sources, written down here.

vLLM (vllm/model_executor/models/dots1.py), SGLang (python/sglang/srt/models/dots1.py) and llama.cpp (conversion of
`Dots1ForCausalLM`, gguf's tensor mapping). None of them is run here: what is checked is that every tensor that they ask
for is exported, that they know every tensor that is exported, and that the config has every field that they read.

Claim: vLLM, SGLang and llama.cpp find every tensor and every config field of an export in their name tables.
"""

import math
import re
from types import SimpleNamespace

import pytest
from hf_checkpoint import CONFIG, shapes

from dots_jax.config import dots_llm1
from dots_jax.huggingface.config import config_to_hf
from dots_jax.huggingface.from_hf import check_tensors
from dots_jax.huggingface.safetensors_plan import exports, split
from dots_jax.huggingface.safetensors_read import Tensor
from dots_jax.huggingface.units import DTYPES, layouts, names_of, units

# --- the complete model, without data ---------------------------------------------------------------------------------


def test_every_name_of_the_released_index():
    """62 layers, 128 experts: 24 136 tensors, ours both ways, with their shapes, 285.5 GB in six files of 50 GB."""
    theirs = shapes(dots_llm1())
    assert len(theirs) == 62 * 8 + 3 + 61 * (2 + 3 + 128 * 3) + 3
    tensors = exports(dots_llm1(), DTYPES["bfloat16"])
    ours = {tensor.name: tensor.shape for tensor in tensors}
    assert len(ours) == len(tensors)
    assert ours == theirs
    files = split(tensors, 50 * 10**9)
    assert sum(tensor.num_bytes for tensor in tensors) == 2 * 142_774_373_888 + 4 * 7_808
    assert list(files) == [f"model-{n:05d}-of-00006.safetensors" for n in range(1, 7)]
    assert all(sum(tensor.num_bytes for tensor in part) <= 50 * 10**9 for part in files.values())


def test_every_tensor_of_the_released_index_finds_its_place():
    """The other way: names, shapes and dtypes pass the checks of from_hf, and its units hold all their bytes once, in
    chunks and pieces that fit into memory."""
    config = dots_llm1()
    entries = {
        name: Tensor("file", "F32" if name.endswith("bias") else "BF16", shape, 0, 0)
        for name, shape in shapes(config).items()
    }
    assert check_tensors(SimpleNamespace(tensors=entries), config) == DTYPES["bfloat16"]
    plan = layouts(config, DTYPES["bfloat16"])
    named = [name for layout in plan for names in names_of(layout, config).values() for name in names]
    assert len(named) == len(set(named)) and set(named) == entries.keys()
    work = units(plan)
    assert sum(unit.num_bytes for unit in work) == 2 * 142_774_373_888 + 4 * 7_808
    assert len({unit.name for unit in work}) == len(work)
    for layout in plan:
        assert math.prod(layout.chunk) * layout.dtype.itemsize <= 4 * 2**20
        assert all(size % part == 0 for size, part in zip(layout.shape, layout.chunk, strict=True))
        assert layout.chunk == layout.shape or layout.chunk[: len(layout.stack)] == (1,) * len(layout.stack)
        covered = sum(layout.piece_bytes(piece) for piece in layout.pieces())
        assert covered == layout.num_bytes
        assert max(layout.piece_bytes(piece) for piece in layout.pieces()) <= 180 * 10**6
    experts = next(layout for layout in plan if layout.name.endswith("experts.w_gate_up_EDF"))
    assert experts.chunk == (1, 1, 512, 2816)  # eight hosts along fsdp read nothing twice


# --- vLLM and SGLang --------------------------------------------------------------------------------------------------

# What load_weights renames on the way to a module's parameter.
STACKED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
VLLM_EXPERTS = {"gate_proj": "w13_weight", "up_proj": "w13_weight", "down_proj": "w2_weight"}


def renamed(name: str, fused_experts: bool) -> str:
    if fused_experts and ".experts." in name:
        (projection,) = [p for p in VLLM_EXPERTS if p in name]
        return re.sub(r"experts\.\d+\..*", f"experts.{VLLM_EXPERTS[projection]}", name)
    for theirs, stacked in STACKED.items():
        if theirs in name:
            return name.replace(theirs, stacked)
    return name


def module_parameters(c, fused_experts: bool) -> set[str]:
    found = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    for layer in range(c.num_layers):
        parts = ["input_layernorm.weight", "post_attention_layernorm.weight"]
        parts += [f"self_attn.{name}.weight" for name in ("qkv_proj", "o_proj", "q_norm", "k_norm")]
        mlps = ["mlp"]
        if layer:
            parts += ["mlp.gate.weight", "mlp.gate.e_score_correction_bias"]
            mlps = ["mlp.shared_experts"]
            if fused_experts:
                parts += ["mlp.experts.w13_weight", "mlp.experts.w2_weight"]
            else:
                mlps += [f"mlp.experts.{expert}" for expert in range(c.num_experts)]
        parts += [f"{mlp}.{name}.weight" for mlp in mlps for name in ("gate_up_proj", "down_proj")]
        found |= {f"model.layers.{layer}.{part}" for part in parts}
    return found


@pytest.mark.parametrize("fused_experts", [True, False], ids=["vllm", "sglang"])
def test_vllm_and_sglang_find_every_parameter(fused_experts):
    names = {tensor.name for tensor in exports(CONFIG, DTYPES["bfloat16"])}
    assert {renamed(name, fused_experts) for name in names} == module_parameters(CONFIG, fused_experts)


def test_the_config_has_what_they_read():
    config = config_to_hf(CONFIG)
    fields = """architectures attention_bias first_k_dense_replace head_dim hidden_act hidden_size intermediate_size
        max_position_embeddings moe_intermediate_size moe_layer_freq n_group n_routed_experts n_shared_experts
        norm_topk_prob num_attention_heads num_experts_per_tok num_hidden_layers num_key_value_heads rms_norm_eps
        rope_parameters rope_theta routed_scaling_factor scoring_func topk_group topk_method vocab_size""".split()
    assert set(fields) <= config.keys()
    assert config["architectures"] == ["Dots1ForCausalLM"]
    # vLLM makes the router bias for this method alone, and it and llama.cpp refuse other words for the sigmoid.
    assert config["topk_method"] == "noaux_tc" and config["scoring_func"] == "sigmoid"


# --- llama.cpp --------------------------------------------------------------------------------------------------------

GGUF = {
    r"model\.embed_tokens\.weight": "token_embd",
    r"model\.norm\.weight": "output_norm",
    r"lm_head\.weight": "output",
    r"model\.layers\.(\d+)\.input_layernorm\.weight": "attn_norm",
    r"model\.layers\.(\d+)\.post_attention_layernorm\.weight": "ffn_norm",
    r"model\.layers\.(\d+)\.self_attn\.q_proj\.weight": "attn_q",
    r"model\.layers\.(\d+)\.self_attn\.k_proj\.weight": "attn_k",
    r"model\.layers\.(\d+)\.self_attn\.v_proj\.weight": "attn_v",
    r"model\.layers\.(\d+)\.self_attn\.o_proj\.weight": "attn_output",
    r"model\.layers\.(\d+)\.self_attn\.q_norm\.weight": "attn_q_norm",
    r"model\.layers\.(\d+)\.self_attn\.k_norm\.weight": "attn_k_norm",
    r"model\.layers\.(\d+)\.mlp\.gate_proj\.weight": "ffn_gate",
    r"model\.layers\.(\d+)\.mlp\.up_proj\.weight": "ffn_up",
    r"model\.layers\.(\d+)\.mlp\.down_proj\.weight": "ffn_down",
    r"model\.layers\.(\d+)\.mlp\.gate\.weight": "ffn_gate_inp",
    r"model\.layers\.(\d+)\.mlp\.gate\.e_score_correction_bias": "exp_probs_b",
    r"model\.layers\.(\d+)\.mlp\.shared_experts\.gate_proj\.weight": "ffn_gate_shexp",
    r"model\.layers\.(\d+)\.mlp\.shared_experts\.up_proj\.weight": "ffn_up_shexp",
    r"model\.layers\.(\d+)\.mlp\.shared_experts\.down_proj\.weight": "ffn_down_shexp",
    r"model\.layers\.(\d+)\.mlp\.experts\.(\d+)\.gate_proj\.weight": "ffn_gate_exps",
    r"model\.layers\.(\d+)\.mlp\.experts\.(\d+)\.up_proj\.weight": "ffn_up_exps",
    r"model\.layers\.(\d+)\.mlp\.experts\.(\d+)\.down_proj\.weight": "ffn_down_exps",
}


def test_llama_cpp_finds_every_tensor():
    """Each name fits one pattern of its map; and a layer has all the experts that it waits for before it stacks them."""
    found: dict[str, int] = {}
    for tensor in exports(CONFIG, DTYPES["bfloat16"]):
        matches = [gguf for pattern, gguf in GGUF.items() if re.fullmatch(pattern, tensor.name)]
        assert len(matches) == 1, tensor.name
        found[matches[0]] = found.get(matches[0], 0) + 1
    layers, moe = CONFIG.num_layers, CONFIG.num_moe_layers
    for gguf in GGUF.values():
        count = moe * CONFIG.num_experts if gguf.endswith("_exps") else moe if "shexp" in gguf else layers
        count = {"ffn_gate_inp": moe, "exp_probs_b": moe, "ffn_gate": 1, "ffn_up": 1, "ffn_down": 1}.get(gguf, count)
        assert found[gguf] == (1 if gguf in ("token_embd", "output_norm", "output") else count), gguf
