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
