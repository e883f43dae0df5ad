"""Folders as people have them: cloned without git-lfs, a cleaned cache, an adapter, an editor's byte order mark; and exports
of a run that names its own tokenizer."""

import dataclasses
import json
import os

import pytest
from hf_checkpoint import CONFIG, convert, hf_config, random_tensors, write
from synthetic_checkpoint import small_state

from dots_jax.checkpoint.metadata import CheckpointMetadata
from dots_jax.checkpoint.store import Checkpoints
from dots_jax.config import CheckpointConfig, tiny
from dots_jax.data.tokenizers.training import train_tokenizer
from dots_jax.training.state import to_items

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 403032\n"


@pytest.fixture
def source(tmp_path):
    write(tmp_path / "hf", random_tensors(), hf_config(CONFIG))
    return tmp_path / "hf"


def refusal(capfd, source, tmp_path) -> str:
    capfd.readouterr()
    assert convert("from_hf", source, tmp_path / "dst") == 2 and not (tmp_path / "dst").exists()
    return capfd.readouterr().err


def test_what_git_leaves_in_place_of_a_file(source, tmp_path, capfd):
    (source / "model.safetensors").write_text(POINTER)
    assert "model.safetensors is a Git LFS pointer and not the file itself: run `git lfs pull`" in refusal(
        capfd, source, tmp_path
    )


def test_a_link_to_a_blob_that_is_gone(source, tmp_path, capfd):
    (source / "model.safetensors").unlink()
    os.symlink("../blobs/b1", source / "model.safetensors")
    assert "model.safetensors is a link to ../blobs/b1, which is not there" in refusal(capfd, source, tmp_path)


def test_an_adapter_alone(source, tmp_path, capfd):
    (source / "model.safetensors").rename(source / "adapter_model.safetensors")
    assert "is an adapter (adapter_model.safetensors, as LoRA makes) without its model" in refusal(
        capfd, source, tmp_path
    )


def test_a_byte_order_mark_is_no_fault(source, tmp_path):
    config = source / "config.json"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    assert convert("from_hf", source, tmp_path / "dst") == 0


@pytest.fixture
def run(tmp_path):
    """Writes a run whose config names this tokenizer."""

    def write_run(tokenizer: str):
        config = dataclasses.replace(tiny(), vocab_size=300)
        checkpoints = Checkpoints(str(tmp_path / "run"), CheckpointConfig(), lambda step: False)
        metadata = CheckpointMetadata(step=1, model=config, config={"data": {"tokenizer": tokenizer}})
        checkpoints.save(1, to_items(small_state(config, 1)), metadata)
        checkpoints.wait()
        checkpoints.close()
        return tmp_path / "run"

    return write_run


def test_an_export_brings_the_tokenizer_of_the_run(run, tmp_path, capfd):
    """Under any name, with the id that ends a text: what serves the export can read text, and stops."""
    path = tmp_path / "mine.json"
    tokenizer = train_tokenizer(["a few words of text"] * 20, 280)
    tokenizer.save(str(path))
    assert convert("to_hf", run(str(path)), tmp_path / "out") == 0
    out, end = tmp_path / "out", tokenizer.token_to_id("<|endoftext|>")
    assert (out / "tokenizer.json").read_bytes() == path.read_bytes()
    assert json.loads((out / "config.json").read_text())["eos_token_id"] == end
    assert end in json.loads((out / "generation_config.json").read_text())["eos_token_id"]
    assert "without a tokenizer" not in capfd.readouterr().out


def test_an_export_says_that_it_has_no_tokenizer(run, tmp_path, capfd):
    assert convert("to_hf", run(""), tmp_path / "out") == 0
    assert "without a tokenizer, since the checkpoint has none (--tokenizer adds one)" in capfd.readouterr().out


def test_a_tokenizer_of_the_run_that_is_gone(run, tmp_path, capfd):
    assert convert("to_hf", run(str(tmp_path / "gone.json")), tmp_path / "out") == 2
    assert "gone.json, which is not there" in capfd.readouterr().err and not (tmp_path / "out").exists()
