"""Small checkpoints in Hugging Face's layout, for tests of the conversion. Names and sizes come from a list of their own
here, not from the table under test."""

import json

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from dots_jax.config import ModelConfig

CONFIG = ModelConfig(
    vocab_size=96, num_layers=4, hidden_size=32, num_heads=4, head_dim=8, dense_ffn_size=48, num_experts=8,
    experts_per_token=2, expert_ffn_size=24, num_shared_experts=2, rope_theta=10_000.0, max_seq_len=128,
)  # fmt: skip


def shapes(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a `Dots1ForCausalLM`, written down from transformers' module, in no order that matters."""
    d, heads, ffn = c.hidden_size, c.num_heads * c.head_dim, c.expert_ffn_size
    found = {
        "model.embed_tokens.weight": (c.vocab_size, d),
        "model.norm.weight": (d,),
        "lm_head.weight": (c.vocab_size, d),
    }

    def mlp(at: str, size: int) -> None:
        found[f"{at}.gate_proj.weight"] = found[f"{at}.up_proj.weight"] = (size, d)
        found[f"{at}.down_proj.weight"] = (d, size)

    for layer in range(c.num_layers):
        at = f"model.layers.{layer}"
        for name in ("q", "k", "v"):
            found[f"{at}.self_attn.{name}_proj.weight"] = (heads, d)
        found[f"{at}.self_attn.o_proj.weight"] = (d, heads)
        for name in ("q_norm", "k_norm"):
            found[f"{at}.self_attn.{name}.weight"] = (c.head_dim,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{at}.{name}.weight"] = (d,)
        if layer == 0:
            mlp(f"{at}.mlp", c.dense_ffn_size)
            continue
        found[f"{at}.mlp.gate.weight"] = (c.num_experts, d)
        found[f"{at}.mlp.gate.e_score_correction_bias"] = (c.num_experts,)
        mlp(f"{at}.mlp.shared_experts", c.num_shared_experts * ffn)
        for expert in range(c.num_experts):
            mlp(f"{at}.mlp.experts.{expert}", ffn)
    return found


def hf_config(c: ModelConfig, dtype: str = "bfloat16") -> dict:
    """config.json as the released one has it."""
    return {
        "architectures": ["Dots1ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "eos_token_id": 90,
        "first_k_dense_replace": 1, "head_dim": c.head_dim, "hidden_act": "silu", "hidden_size": c.hidden_size,
        "initializer_range": 0.02, "intermediate_size": c.dense_ffn_size, "max_position_embeddings": c.max_seq_len,
        "model_type": "dots1", "moe_intermediate_size": c.expert_ffn_size, "n_group": 1, "n_routed_experts": c.num_experts,
        "n_shared_experts": c.num_shared_experts, "norm_topk_prob": True, "num_attention_heads": c.num_heads,
        "num_experts_per_tok": c.experts_per_token, "num_hidden_layers": c.num_layers,
        "num_key_value_heads": c.num_heads, "rms_norm_eps": c.norm_epsilon, "rope_theta": c.rope_theta,
        "routed_scaling_factor": c.routed_scaling_factor, "scoring_func": "noaux_tc", "sliding_window": None,
        "tie_word_embeddings": False, "topk_group": 1, "torch_dtype": dtype, "vocab_size": c.vocab_size,
    }  # fmt: skip


def random_tensors(c: ModelConfig = CONFIG, dtype: str = "bfloat16", seed: int = 0) -> dict[str, np.ndarray]:
    """Random bit patterns, NaNs among them: a conversion moves bits. Biases are float32."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes(c).items():
        kind = np.dtype(np.float32 if dtype == "float32" or name.endswith("bias") else jnp.bfloat16)
        tensors[name] = np.frombuffer(rng.bytes(int(np.prod(shape)) * kind.itemsize), kind).reshape(shape)
    return tensors


def write(folder, tensors: dict[str, np.ndarray], config: dict, files: int = 1) -> None:
    """One file, or several with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if files == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for number in range(files):
        file = f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        part = dict(list(tensors.items())[number::files])
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def convert(*argv: str) -> int:
    """The command in this process; returns its exit status."""
    from dots_jax.cli.main import main

    return main(["convert", *map(str, argv)])
