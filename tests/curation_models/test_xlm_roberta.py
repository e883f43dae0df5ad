"""XLM-RoBERTa: the same numbers as transformers at random weights, from both published forms of a folder."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import tokenizers

from dots_jax.config import UserError
from dots_jax.curation_models import torch_file, xlm_roberta

CONFIG = {
    "model_type": "xlm-roberta", "hidden_act": "gelu", "position_embedding_type": "absolute", "hidden_size": 48,
    "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96, "max_position_embeddings": 40,
    "pad_token_id": 1, "layer_norm_eps": 1e-5, "vocab_size": 60, "type_vocab_size": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
WORDS = "river town bridge market winter harvest road school garden letter".split()


def write_tokenizer(folder) -> None:
    vocabulary = {name: n for n, name in enumerate(["<s>", "<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(transformers' model, its folder with safetensors, one with pytorch_model.bin)."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**CONFIG), add_pooling_layer=True).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too, or a mistake in them would not show
            parameter.add_(0.2 * torch.randn_like(parameter))
    folders = [tmp_path_factory.mktemp(name) for name in ("safetensors", "bin")]
    model.save_pretrained(folders[0])
    torch.save(model.state_dict(), folders[1] / "pytorch_model.bin")
    for folder in folders:
        (folder / "config.json").write_text(json.dumps(CONFIG))
        write_tokenizer(folder)
    return model, *folders


@pytest.mark.slow
def test_hidden_states_are_those_of_transformers(published):
    import torch

    model, *folders = published
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(4, 60, (5, 30)), np.ones((5, 30), bool)
    for row, size in enumerate((30, 1, 7, 29, 16)):
        mask[row, size:] = False
    ids[~mask] = CONFIG["pad_token_id"]
    with torch.no_grad():
        expected = model(torch.tensor(ids), attention_mask=torch.tensor(mask.astype(int))).last_hidden_state.numpy()
    for folder in folders:
        settings, params = xlm_roberta.load(str(folder))
        found = np.asarray(xlm_roberta.hidden_states(settings, params, ids, mask))
        assert np.abs(found - expected)[mask].max() < 1e-4


@pytest.mark.slow
def test_embeddings_are_the_first_token_at_unit_length(published):
    import torch

    model, folder, _ = published
    texts = ["river town", " ".join(WORDS * 2), "unknown words here", ""]
    embedder = xlm_roberta.Embedder(str(folder), length=24, rows=3)
    found = embedder(texts)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text, vector in zip(texts, found):
        ids = torch.tensor([tokenizer.encode(text).ids[:24]])
        with torch.no_grad():
            first = model(ids).last_hidden_state[0, 0].numpy()
        np.testing.assert_allclose(vector, first / np.linalg.norm(first), atol=1e-5)
    assert (embedder(texts[::-1])[::-1] == found).all() and (embedder(texts[:1])[0] == found[0]).all()
    with pytest.raises(UserError, match="SemanticConfig.length must be from 3 to 38"):
        xlm_roberta.Embedder(str(folder), length=39)


# --- folders that cannot be used --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"model_type": "bert"}, "model_type is 'bert', but this program computes 'xlm-roberta' alone"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"), ({"hidden_size": None}, "has neither model.safetensors nor"),
    ],
)  # fmt: skip
def test_other_models_are_refused(tmp_path, changes, sentence):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | changes))
    with pytest.raises(UserError, match=sentence):
        xlm_roberta.load(str(tmp_path))
    with pytest.raises(UserError, match="There is no file"):
        xlm_roberta.load(str(tmp_path / "none"))


class Harmful:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("content", [{"a": Harmful()}, [1], "not a pickle"])
def test_a_pickle_that_asks_for_more_than_tensors_is_refused(tmp_path, capsys, content):
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content if isinstance(content, str) else pickle.dumps(content))
    with pytest.raises(UserError, match="is no file of tensors that torch saved"):
        torch_file.read_tensors(str(path))
    path.write_text("plain")
    with pytest.raises(UserError, match="BadZipFile"):
        torch_file.read_tensors(str(path))
    assert capsys.readouterr().out == ""
