"""Live, with an installed transformers: it reads what we export and computes the same, and writes what we write.

Claim: transformers loads an export with the same logits, and writes the same files.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from converted import abstract_model, restore
from hf_checkpoint import CONFIG, convert, hf_config, random_tensors, write

from dots_jax.config import ComputeConfig, MeshConfig
from dots_jax.data.tokenizers.chat import render
from dots_jax.data.tokenizers.training import train_tokenizer
from dots_jax.model.model_def import ModelDef

pytestmark = pytest.mark.slow
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def libraries():
    return pytest.importorskip("torch"), pytest.importorskip("transformers")


def finite_tensors(dtype: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    return {name: (0.2 * rng.normal(size=t.shape)).astype(t.dtype) for name, t in random_tensors(dtype=dtype).items()}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_transformers_loads_an_export_and_computes_the_same(tmp_path, libraries, dtype):
    torch, transformers = libraries
    write(tmp_path / "hf", finite_tensors(dtype), hf_config(CONFIG, dtype))
    assert convert("from_hf", tmp_path / "hf", tmp_path / "dst") == 0
    assert convert("to_hf", tmp_path / "dst", tmp_path / "out", "--max_shard_size=50KB") == 0
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True, experts_implementation="eager"
    )
    assert type(model).__name__ == "Dots1ForCausalLM" and not any(loading.values()), loading
    tokens = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (2, 40))
    with torch.no_grad():
        theirs = model.eval()(torch.from_numpy(tokens)).logits.numpy()

    weights = restore(tmp_path / "dst", abstract_model(MeshConfig(fsdp=1), jnp.float32))
    definition = ModelDef(CONFIG, ComputeConfig(dtype="float32", remat="none"), mesh=None, init_std=1.0)

    @jax.jit
    def logits(params, router_bias, tokens_BT):
        bound = definition.bind(params, router_bias)
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        x_BTD, _ = bound(tokens_BT, positions_BT, jnp.ones_like(tokens_BT))
        return bound.head(x_BTD)

    ours = np.asarray(logits(weights["params"], weights["router_bias"], jnp.asarray(tokens, jnp.int32)))
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("shard", ["50GB", "30KB"])
def test_transformers_writes_the_same_files(tmp_path, libraries, shard):
    """Shards, order, headers, index: its `save_pretrained` of the model and our export of it are the same bytes."""
    torch, transformers = libraries
    config = transformers.Dots1Config(
        **{k: v for k, v in hf_config(CONFIG).items() if k not in ("architectures", "torch_dtype")}
    )
    torch.manual_seed(0)
    model = transformers.Dots1ForCausalLM(config)
    model.save_pretrained(tmp_path / "theirs", max_shard_size=shard)
    assert convert("from_hf", tmp_path / "theirs", tmp_path / "dst") == 0
    assert convert("to_hf", tmp_path / "dst", tmp_path / "ours", f"--max_shard_size={shard}") == 0
    names = lambda folder: {path.name for path in (tmp_path / folder).iterdir() if "safetensors" in path.name}
    assert names("ours") == names("theirs") and (len(names("ours")) > 2) == (shard == "30KB")
    for name in names("ours"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes(), name
    ours, theirs = (json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("ours", "theirs"))
    assert {name: value for name, value in ours.items() if name in theirs} == theirs
    reread = transformers.AutoConfig.from_pretrained(tmp_path / "ours").to_dict()
    for name, value in config.to_dict().items():
        written_by_loading = ("dtype", "torch_dtype", "architectures", "transformers_version", "_name_or_path")
        assert name in written_by_loading or reread[name] == value, name


def test_the_tokenizer_and_template_are_found(tmp_path, libraries):
    """AutoTokenizer reads the exported folder; its template gives our text, and the stop ids are the tokens' own."""
    _, transformers = libraries
    config = dataclasses.replace(CONFIG, vocab_size=320)
    tensors = {name: t.copy() for name, t in random_tensors(config).items()}
    write(tmp_path / "hf", tensors, hf_config(config))
    trained = train_tokenizer(["some text to train on"], 264)
    (tmp_path / "tokenizer").mkdir()
    trained.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    assert convert("from_hf", tmp_path / "hf", tmp_path / "dst") == 0
    assert convert("to_hf", tmp_path / "dst", tmp_path / "out", f"--tokenizer={tmp_path / 'tokenizer'}") == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == render(messages, add_generation_prompt=True)
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert generation.eos_token_id == tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|endofresponse|>"])
    assert tokenizer.eos_token == "<|endoftext|>" and tokenizer.bos_token is None
