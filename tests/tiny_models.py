"""Models of curation that tell two lists of words apart, without training: their embeddings are set by hand."""

import numpy as np

from dots_jax.curation_models import folder
from dots_jax.curation_models.encoder import Encoder, small_model

GOOD = "the theory explains why measured results agree with careful observation of nature".split()
BAD = "buy cheap discount offer click sale casino bonus free shipping deal coupon".split()


def write_model(path, kind: str, classes: tuple[str, str], seed: int = 0) -> None:
    """The first class is GOOD's, the second BAD's. The layers add nothing to the embeddings, whose first number decides."""
    from dots_jax.curation_models.examples import load_tokenizer
    from dots_jax.data.tokenizers.training import train_tokenizer

    words = [f" {word}" for word in (*GOOD, *BAD)] + [*GOOD, *BAD]
    tokenizer = load_tokenizer(train_tokenizer(words * 20, 600).to_str())
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    encoder = Encoder(small_model(size, 32, 2, 64), 2)
    params, bias_LE = encoder.init(seed)
    params = {**params, "model": _silent(params["model"])}
    table_VD = np.full((size, 32), 0.01, np.float32)
    for sign, some in ((1, GOOD), (-1, BAD)):
        for word in some:
            for text in (word, f" {word}"):
                for id in tokenizer.encode(text, add_special_tokens=False).ids:
                    table_VD[id, 0] = sign
    params["model"]["embed"]["w_VD"] = table_VD
    head_DC = np.zeros((32, 2), np.float32)
    head_DC[0] = (0.5 + 0.1 * seed, -0.5)
    params = {**params, "w_DC": head_DC, "b_C": np.array([0.1, 0], np.float32)}
    trained = folder.Classifier(kind, classes, 64, encoder.model, tokenizer, params, bias_LE)
    if path.exists():
        import shutil

        shutil.rmtree(path)
    folder.save(str(path), trained, {}, lambda picture: open(picture, "wb").close())


def _silent(params: dict) -> dict:
    """Without what attention and feed-forwards add."""

    def zero(tree):
        return (
            {name: zero(leaf) for name, leaf in tree.items()} if isinstance(tree, dict) else np.zeros(leaf_shape(tree))
        )

    def leaf_shape(leaf):
        return leaf.shape

    kept = {"embed": dict(params["embed"]), "final_norm": params["final_norm"]}
    return {name: kept.get(name) or zero(part) for name, part in params.items()}


def write_embedder(path, seed: int = 0) -> None:
    """An XLM-RoBERTa of random weights as it is published, whose tokens are words."""
    import json

    import tokenizers
    from safetensors.numpy import save_file

    config = {
        "model_type": "xlm-roberta", "hidden_act": "gelu", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 66, "pad_token_id": 1, "layer_norm_eps": 1e-5,
    }  # fmt: skip
    words = ["<s>", "<pad>", "</s>", "<unk>", *GOOD, *BAD]
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    tensors = {
        "embeddings.word_embeddings.weight": draw(len(words), 32), "embeddings.position_embeddings.weight": 0.01 * draw(66, 32),
        "embeddings.token_type_embeddings.weight": draw(1, 32), "embeddings.LayerNorm.weight": np.ones(32, np.float32),
        "embeddings.LayerNorm.bias": np.zeros(32, np.float32),
    }  # fmt: skip
    shapes = {
        "attention.self.query": (32, 32), "attention.self.key": (32, 32), "attention.self.value": (32, 32),
        "attention.output.dense": (32, 32), "intermediate.dense": (64, 32), "output.dense": (32, 64),
    }  # fmt: skip
    for layer in range(2):
        for name, shape in shapes.items():
            tensors[f"encoder.layer.{layer}.{name}.weight"] = 0.3 * draw(*shape)
            tensors[f"encoder.layer.{layer}.{name}.bias"] = np.zeros(shape[0], np.float32)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors[f"encoder.layer.{layer}.{name}.weight"] = np.ones(32, np.float32)
            tensors[f"encoder.layer.{layer}.{name}.bias"] = np.zeros(32, np.float32)
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ends = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("<s> $A </s>", special_tokens=ends)
    tokenizer.save(str(path / "tokenizer.json"))
