"""The small files of an export: ids that end an answer, template, generation config."""

import json

import pytest
from etils import epath
from golden import make_chat

from dots_jax.huggingface.tokenizer_files import complete

CONFIG = {"max_position_embeddings": 64}


@pytest.fixture
def target(tmp_path):
    (tmp_path / "tokenizer.json").write_text(make_chat.tokenizer_json())
    return epath.Path(tmp_path)


def ids(target) -> dict[str, int]:
    return {
        token["content"]: token["id"] for token in json.loads((target / "tokenizer.json").read_text())["added_tokens"]
    }


def generation(target) -> dict:
    return json.loads((target / "generation_config.json").read_text())


def test_an_export_stops_after_an_answer(target):
    ends = [ids(target)[name] for name in ("<|endoftext|>", "<|endofresponse|>")]
    config = complete(target, "template", CONFIG, trained=True)
    assert generation(target) == {"eos_token_id": ends} and config["eos_token_id"] == ends[0]
    assert (target / "chat_template.jinja").read_text() == "template"
    assert json.loads((target / "tokenizer_config.json").read_text())["eos_token"] == "<|endoftext|>"


@pytest.mark.parametrize("of_base", [151643, [151643]])
def test_a_fine_tuned_base_model_stops_too(target, of_base):
    """Its weights came with a generation config that knows the end of a text alone."""
    text = {"eos_token_id": of_base, "temperature": 0.7}
    (target / "generation_config.json").write_text(json.dumps(text))
    complete(target, "", CONFIG, trained=True)
    ends = [ids(target)[name] for name in ("<|endoftext|>", "<|endofresponse|>")]
    assert generation(target) == {"eos_token_id": [151643, *ends], "temperature": 0.7}


def test_weights_that_no_run_trained_keep_what_they_came_with(target):
    (target / "generation_config.json").write_text('{"eos_token_id": 7}')
    complete(target, "", CONFIG, trained=False)
    assert generation(target) == {"eos_token_id": 7}


def test_without_a_tokenizer(tmp_path):
    complete(epath.Path(tmp_path), "template", CONFIG | {"eos_token_id": 3}, trained=True)
    assert generation(tmp_path) == {"eos_token_id": 3}
