"""Our model against transformers' `Dots1ForCausalLM` in float32: logits, the gradient of every parameter, packed documents.

The golden files in tests/parity need numpy alone; the slow test computes both sides here and now on a fresh random model.

Claim: logits and every gradient equal those of transformers' `Dots1ForCausalLM` to 1e-4 in float32.
"""

import functools
import json
import secrets

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_model import Golden, random_config
from parity import make_golden as golden

from dots_jax.config import ComputeConfig, ModelConfig, UserError, dots_llm1, tiny
from dots_jax.huggingface import names as hf
from dots_jax.huggingface.config import config_from_hf, config_to_hf
from dots_jax.model.model_def import ModelDef

# Largest difference allowed: of logits, and of each gradient relative to the largest entry of its tensor.
TOLERANCE = 1e-4
PACKED_TOLERANCE = 1e-5
PADDING = 6  # at the end of every row, to be ignored
CHUNK = 16  # tokens whose logits exist at a time; divides no batch here


# --- our side ---------------------------------------------------------------------------------------------------------


def make_batch(rows: list[list[np.ndarray]], length: int) -> dict[str, jax.Array]:
    """A batch of rows, each a list of documents of n + 1 tokens, in the training loop's form, with padding at the end."""
    keys = ("tokens", "targets", "positions", "segments", "weights")
    batch = {k: np.zeros((len(rows), length), np.float32 if k == "weights" else np.int32) for k in keys}
    for r, row in enumerate(rows):
        start = 0
        for number, document in enumerate(row, start=1):
            here = (r, slice(start, start := start + len(document) - 1))
            batch["tokens"][here] = document[:-1]
            batch["targets"][here] = document[1:]
            batch["positions"][here] = np.arange(len(document) - 1)
            batch["segments"][here] = number
            batch["weights"][here] = 1
    return {k: jnp.asarray(a) for k, a in batch.items()}


@functools.cache
def compiled(config: ModelConfig, remat: str):
    """(params, router_bias, batch) -> ((mean loss, logits), gradients of params), through the loss of the training step."""
    definition = ModelDef(config, ComputeConfig(dtype="float32", remat=remat), mesh=None, init_std=1.0)

    def loss_and_logits(params, router_bias, batch):
        model = definition.bind(params, router_bias)
        x_BTD, _stats = model(batch["tokens"], batch["positions"], batch["segments"])
        loss = model.head.loss_sum(x_BTD, batch["targets"], batch["weights"], CHUNK) / batch["weights"].sum()
        return loss, model.head(x_BTD)

    return jax.jit(jax.value_and_grad(loss_and_logits, has_aux=True))


def compute_ours(config: ModelConfig, tensors: dict[str, np.ndarray], rows, remat: str, length: int | None = None):
    """Logits of each document [T, V], and gradients in the checkpoint's layout, from a checkpoint's tensors."""
    params, router_bias = hf.from_hf(tensors, config)
    batch = make_batch(rows, length or row_length(rows))
    (_, logits_BTV), grads = compiled(config, remat)(params, router_bias, batch)
    logits_BTV, segments_BT = np.asarray(logits_BTV), np.asarray(batch["segments"])
    logits = [logits_BTV[r][segments_BT[r] == n + 1] for r, row in enumerate(rows) for n in range(len(row))]
    return logits, hf.to_hf(grads, np.zeros_like(router_bias), config)


def row_length(rows) -> int:
    return max(sum(len(d) - 1 for d in row) for row in rows) + PADDING


def assert_equal_to_theirs(ours, theirs):
    (our_logits, our_grads), (their_logits, their_grads) = ours, theirs
    for mine, expected in zip(our_logits, their_logits, strict=True):
        np.testing.assert_allclose(mine, expected, atol=TOLERANCE, rtol=TOLERANCE)
    ours_only = {name for name in our_grads if not name.endswith("e_score_correction_bias")}
    assert ours_only == set(their_grads)
    for name, expected in their_grads.items():
        difference, largest = np.abs(our_grads[name] - expected).max(), np.abs(expected).max()
        assert difference <= TOLERANCE * largest, (
            f"gradient of {name}: off by {difference:.2e}, largest entry {largest:.2e}"
        )


# --- golden files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, remat", [("plain", "matmuls"), ("wide_choice", "full"), ("deep", ("attention",))])
def test_logits_and_gradients(name, remat):
    case = Golden(name)
    ours = compute_ours(case.config, case.tensors, [[d] for d in case.documents], remat)
    assert_equal_to_theirs(ours, (case.logits, case.grads))


def test_packed_documents_are_computed_as_if_alone():
    case = Golden("packed")
    length = row_length([case.documents])  # of every row here, so that one compilation serves all
    packed = compute_ours(case.config, case.tensors, [case.documents], "none", length)
    assert_equal_to_theirs(packed, (case.logits, case.grads))
    for document, in_pack in zip(case.documents, packed[0], strict=True):
        (alone,), _ = compute_ours(case.config, case.tensors, [[document]], "none", length)
        np.testing.assert_allclose(in_pack, alone, atol=PACKED_TOLERANCE, rtol=PACKED_TOLERANCE)


def test_the_order_of_documents_in_a_pack_does_not_matter():
    case = Golden("packed")
    logits, _ = compute_ours(case.config, case.tensors, [case.documents[::-1]], "none")
    for mine, expected in zip(logits[::-1], case.logits, strict=True):
        np.testing.assert_allclose(mine, expected, atol=TOLERANCE, rtol=TOLERANCE)


# --- here and now -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(3))
def test_live_parity(attempt, tmp_path):
    """A new random model each time, which transformers loads from a checkpoint that we wrote."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    save_file = pytest.importorskip("safetensors.numpy").save_file
    seed = secrets.randbits(31)
    print(f"seed {seed}")  # pytest shows it when the test fails
    rng = np.random.default_rng(seed)
    config = random_config(rng)
    lengths = tuple(int(n) for n in rng.integers(5, 70, size=3))
    # eager: the faster way of transformers refuses widths that are no multiple of four.
    options = dict(experts_implementation="eager")
    model = golden.build(config, **options)
    seed, _, documents = golden.find_seed(model, lengths, config["vocab_size"], range(seed, seed + 500))

    ours = config_from_hf(config)
    tensors = {
        name: golden.make_tensor(name, hf.hf_shape(row, ours), seed)
        for row in (*hf.TABLE, hf.ROUTER_BIAS)
        for _, names in hf.slices(row, ours)
        for name in names
    }
    params, router_bias = hf.from_hf(tensors, ours)
    save_file(hf.to_hf(params, router_bias, ours), tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config_to_hf(ours)))
    model, loading = transformers.Dots1ForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True, **options
    )
    assert not any(loading.values()), loading

    theirs = golden.answers(model.train(), documents)
    remat = ("none", "full", "matmuls")[attempt]
    assert_equal_to_theirs(compute_ours(ours, tensors, [[d] for d in documents], remat), theirs)
    assert_equal_to_theirs(compute_ours(ours, tensors, [documents], remat), theirs)


# --- names and configs ------------------------------------------------------------------------------------------------


def test_the_table_knows_every_parameter_of_our_model():
    definition = ModelDef(tiny(), ComputeConfig(), mesh=None, init_std=0.1)
    shapes, router_bias = definition.abstract()
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes)
    tensors = hf.to_hf(zeros, np.zeros(router_bias.shape, np.float32), tiny())
    again, _ = hf.from_hf(tensors, tiny())
    assert jax.tree.map(np.shape, again) == jax.tree.map(np.shape, zeros)


def test_weights_survive_a_round_trip_bit_for_bit():
    case = Golden("plain")
    again = hf.to_hf(*hf.from_hf(case.tensors, case.config), case.config)
    assert set(again) == set(case.tensors)
    for name, tensor in case.tensors.items():
        np.testing.assert_array_equal(again[name], tensor)


def test_tensors_that_do_not_fit_are_named():
    case = Golden("plain")
    norm, extra = "model.norm.weight", {"model.layers.3.mlp.gate.weight": np.zeros(1)}
    with pytest.raises(UserError, match="1 tensors are missing.*model.norm.weight"):
        hf.from_hf({k: v for k, v in case.tensors.items() if k != norm}, case.config)
    with pytest.raises(UserError, match="1 tensors are unknown.*layers.3.mlp.gate"):
        hf.from_hf(case.tensors | extra, case.config)
    with pytest.raises(UserError, match=r"model.norm.weight has shape \(3,\)"):
        hf.from_hf(case.tensors | {norm: np.zeros(3)}, case.config)


RELEASED = {
    "architectures": ["Dots1ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "first_k_dense_replace": 1,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 10944,
    "max_position_embeddings": 32768, "max_window_layers": 62, "model_type": "dots1", "moe_intermediate_size": 1408,
    "n_group": 1, "n_routed_experts": 128, "n_shared_experts": 2, "norm_topk_prob": True, "num_attention_heads": 32,
    "num_experts_per_tok": 6, "num_hidden_layers": 62, "num_key_value_heads": 32, "rms_norm_eps": 1e-05,
    "rope_theta": 10000000, "routed_scaling_factor": 2.5, "scoring_func": "noaux_tc", "sliding_window": None,
    "tie_word_embeddings": False, "topk_group": 1, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 152064,
}  # fmt: skip


def test_the_released_config_is_ours_in_both_spellings():
    assert config_from_hf(RELEASED) == dots_llm1()
    newer = {k: v for k, v in RELEASED.items() if k != "rope_theta"}
    newer["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000000.0}
    assert config_from_hf(newer) == dots_llm1()
    for config in (dots_llm1(), tiny()):
        assert config_from_hf(json.loads(json.dumps(config_to_hf(config)))) == config


@pytest.mark.parametrize(
    "field, value, named",
    [
        ("model_type", "deepseek_v3", "model_type"),
        ("hidden_act", "gelu", "hidden_act"),
        ("tie_word_embeddings", True, "tie_word_embeddings"),
        ("attention_bias", True, "attention_bias"),
        ("first_k_dense_replace", 3, "first_k_dense_replace"),
        ("n_group", 8, "n_group"),
        ("norm_topk_prob", False, "norm_topk_prob"),
        ("norm_topk_prob", None, "norm_topk_prob"),
        ("scoring_func", "softmax", "scoring_func"),
        ("num_key_value_heads", 8, "num_key_value_heads"),
        ("rope_scaling", {"type": "yarn", "factor": 4.0}, "rope_scaling"),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e7}, "rope_type"),
        ("rope_parameters", {"type": "yarn", "rope_theta": 1e7}, "rope_parameters.type"),
        ("rope_parameters", [1], "rope_parameters"),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 1e4}, "rope_theta"),
        ("rope_theta", "1e7", "rope_theta"),
        ("num_hidden_layers", "62", "num_hidden_layers"),
        ("rope_theta", None, "rope_theta"),
        ("layer_types", ["full_attention", "sliding_attention"] * 31, "layer_types"),
        ("quantization_config", {"quant_method": "fp8"}, "quantization_config"),
        ("num_experts_per_tok", None, "num_experts_per_tok"),
    ],
)
def test_a_config_that_computes_something_else_is_refused_by_name(field, value, named):
    with pytest.raises(UserError, match=named):
        config_from_hf(RELEASED | {field: value})


def test_a_sliding_window_counts_only_where_a_layer_slides():
    assert config_from_hf(RELEASED | {"sliding_window": 4096}) == dots_llm1()
    with pytest.raises(UserError, match="sliding_window"):
        config_from_hf(RELEASED | {"sliding_window": 4096, "max_window_layers": 10})
