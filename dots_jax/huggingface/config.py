"""`config.json` of a Hugging Face checkpoint of the dots1 type <-> ModelConfig.

What this model computes is fixed; a Hugging Face config can ask for more. A field that would change the maths is refused by
name unless it asks for exactly what this model computes. Fields that change nothing (dtype, token ids, ...) are ignored.
"""

from collections.abc import Mapping

from dots_jax.config import ModelConfig, UserError

# Native field -> field of the Hugging Face config.
FIELDS = {
    "vocab_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_heads": "num_attention_heads",
    "head_dim": "head_dim",
    "dense_ffn_size": "intermediate_size",
    "num_experts": "n_routed_experts",
    "experts_per_token": "num_experts_per_tok",
    "expert_ffn_size": "moe_intermediate_size",
    "num_shared_experts": "n_shared_experts",
    "routed_scaling_factor": "routed_scaling_factor",
    "norm_epsilon": "rms_norm_eps",
    "max_seq_len": "max_position_embeddings",
}

# Hugging Face field -> the values that this model can compute; the first is written. None also means that the field is absent
# and whose default in transformers is harmless; where the default is another computation, absence is refused too.
FIXED: dict[str, tuple] = {
    "model_type": ("dots1",),
    "hidden_act": ("silu", None),
    "tie_word_embeddings": (False, None),
    "attention_bias": (False, None),
    "attention_dropout": (0.0, None),
    "first_k_dense_replace": (1,),
    "n_group": (1, None),
    "topk_group": (1, None),
    "norm_topk_prob": (True,),
    # transformers reads none of these three and always takes the sigmoid; vLLM and llama.cpp read them.
    "scoring_func": ("sigmoid", "noaux_tc", None),
    "topk_method": ("noaux_tc", None),
    "moe_layer_freq": (1, None),
}
# The same, but never written: fields of other versions or of variants of the released config.
REFUSED_UNLESS: dict[str, tuple] = {
    "rope_scaling": (None,),
    "quantization_config": (None,),
}


def config_from_hf(hf: Mapping) -> ModelConfig:
    """ModelConfig of a parsed config.json, as transformers 4.x (`rope_theta`) or 5.x (`rope_parameters`) write it.

    Raises:
      UserError: a field is missing, or asks for something that this model does not compute.
    """
    for name, allowed in {**FIXED, **REFUSED_UNLESS}.items():
        _require_one_of(name, hf.get(name), allowed)
    heads = _required(hf, "num_attention_heads")
    _require_one_of("num_key_value_heads", hf.get("num_key_value_heads"), (heads, None))
    _check_full_attention(hf)
    values = {native: _required(hf, hf_name) for native, hf_name in FIELDS.items() if hf_name != "head_dim"}
    if hf.get("head_dim") is None and values["hidden_size"] % heads:
        raise UserError(
            "The Hugging Face config has no head_dim, and hidden_size is not a multiple of num_attention_heads."
        )
    values["head_dim"] = hf.get("head_dim") or values["hidden_size"] // heads
    return ModelConfig(**values, rope_theta=_rope_theta(hf))


def config_to_hf(config: ModelConfig) -> dict:
    """The config.json of this model, readable by transformers 4.x and 5.x."""
    return {
        "architectures": ["Dots1ForCausalLM"],
        **{name: allowed[0] for name, allowed in FIXED.items()},
        **{hf_name: getattr(config, native) for native, hf_name in FIELDS.items()},
        "num_key_value_heads": config.num_heads,
        "sliding_window": None,
        "layer_types": ["full_attention"] * config.num_layers,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
    }


def _required(hf: Mapping, name: str):
    if hf.get(name) is None:
        raise UserError(f"The Hugging Face config has no {name}, which this model needs.")
    return hf[name]


def _require_one_of(name: str, value, allowed: tuple) -> None:
    # `is`-like comparison of kinds: in JSON 1 and true are different answers.
    if not any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in allowed):
        wanted = " or ".join("absent" if a is None else repr(a) for a in allowed)
        found = "is absent" if value is None else f"is {value!r}"
        raise UserError(f"The Hugging Face config's {name} {found}, but this model computes only {wanted}.")


def _check_full_attention(hf: Mapping) -> None:
    """Every layer must attend to the full sequence. transformers lets layers from max_window_layers (default 62) on slide."""
    layers = _required(hf, "num_hidden_layers")
    first = hf.get("max_window_layers", 62)
    for name, value in (("num_hidden_layers", layers), ("max_window_layers", first)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise UserError(f"The Hugging Face config's {name} is {value!r}, but must be an integer.")
    sliding = hf.get("sliding_window") is not None and first < layers
    types = hf.get("layer_types") or ["sliding_attention" if sliding else "full_attention"]
    for kind in types:
        _require_one_of("layer_types" if hf.get("layer_types") else "sliding_window", kind, ("full_attention",))


def _rope_theta(hf: Mapping) -> float:
    rope = hf.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise UserError(f"The Hugging Face config's rope_parameters is {rope!r}, but must be an object.")
    for key in ("rope_type", "type"):  # transformers reads the older name as well
        _require_one_of(f"rope_parameters.{key}", rope.get(key), ("default", None))
    for where in (hf, rope):
        _require_one_of("partial_rotary_factor", where.get("partial_rotary_factor"), (1.0, None))
    found = {theta for theta in (hf.get("rope_theta"), rope.get("rope_theta")) if theta is not None}
    if len(found) != 1:
        problem = "no rope_theta" if not found else "two values of rope_theta, at the top and in rope_parameters"
        raise UserError(f"The Hugging Face config has {problem}; this model needs one.")
    theta = found.pop()
    if isinstance(theta, bool) or not isinstance(theta, int | float):
        raise UserError(f"The Hugging Face config's rope_theta is {theta!r}, but must be a number.")
    return float(theta)
