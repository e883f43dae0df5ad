"""The small files next to the weights: tokenizer, chat template, generation config. They are copied; only ids are checked."""

import json

from etils import epath

from dots_jax.config import UserError
from dots_jax.huggingface.safetensors_read import read_json
from dots_jax.storage import folder

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja", "generation_config.json",
)  # fmt: skip
END_OF_TEXT = "<|endoftext|>"
STOP_TOKENS = (END_OF_TEXT, "<|endofresponse|>")  # after which a generation ends


def found(path: epath.Path) -> list[str]:
    return [name for name in TOKENIZER_FILES if (path / name).exists()]


def check_vocabulary(path: epath.Path, vocab_size: int) -> None:
    """Refuses a tokenizer, of a folder or in a file, with more ids than the model has embeddings. Fewer is usual: embeddings
    are padded."""
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.exists():
        return
    ids = _ids(path)
    if max(ids.values(), default=0) >= vocab_size:
        raise UserError(
            f"The tokenizer {path} has ids up to {max(ids.values())}, but the model's vocab_size is "
            f"{vocab_size}: it is of another model."
        )


def _ids(path: epath.Path) -> dict[str, int]:
    file = read_json(path)
    try:
        vocabulary = file["model"]["vocab"]
        if isinstance(vocabulary, list):  # Unigram: pairs of piece and score
            vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
        return {**vocabulary, **{token["content"]: int(token["id"]) for token in file.get("added_tokens", [])}}
    except (KeyError, TypeError, IndexError, ValueError):
        raise UserError(f"{path} is no tokenizer of Hugging Face's tokenizers library.") from None


def tokenizer_folder(path: str) -> epath.Path:
    """The folder that --tokenizer names: of a tokenizer.json, or that file itself."""
    named = folder(path)
    named = named.parent if named.name == "tokenizer.json" else named
    if not (named / "tokenizer.json").exists():
        raise UserError(f"There is no tokenizer.json in {named}: give the folder that holds it as --tokenizer.")
    return named


def copy_files(source: epath.Path, target: epath.Path) -> None:
    """source: a folder, or a tokenizer.json under any name."""
    if not source.is_dir():
        (target / "tokenizer.json").write_bytes(source.read_bytes())
        return
    for name in found(source):
        (target / name).write_bytes((source / name).read_bytes())


def complete(target: epath.Path, chat_template: str, config: dict, trained: bool) -> dict:
    """Adds what is not there: a tokenizer config for a bare tokenizer.json, the template, the generation config. Returns the
    model's config with the id that ends a text.

    trained: by a run of ours: then a generation config that is there gets the ids that end an answer too, as that of a base
    model stops after the end of a text alone.
    """
    ids = _ids(target / "tokenizer.json") if (target / "tokenizer.json").exists() else {}
    if ids and not (target / "tokenizer_config.json").exists():
        tokens = {"eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT} if END_OF_TEXT in ids else {}
        _write(target / "tokenizer_config.json", {
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config["max_position_embeddings"], **tokens
        })  # fmt: skip
    has_template = (target / "tokenizer_config.json").exists() and "chat_template" in read_json(
        target / "tokenizer_config.json"
    )
    if not has_template and not (target / "chat_template.jinja").exists():
        (target / "chat_template.jinja").write_text(chat_template)
    path = target / "generation_config.json"
    if trained or not path.exists():
        there = read_json(path) if path.exists() else {}
        stops = _as_list(there.get("eos_token_id"))
        stops += [ids[token] for token in STOP_TOKENS if token in ids and ids[token] not in stops]
        stops = stops or config.get("eos_token_id")
        _write(path, there | {"eos_token_id": stops} if stops else there)
    if config.get("eos_token_id") is None and END_OF_TEXT in ids:
        config = config | {"eos_token_id": ids[END_OF_TEXT]}
    return config


def _as_list(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else list(ids) if isinstance(ids, list) else [ids]


def _write(path: epath.Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
