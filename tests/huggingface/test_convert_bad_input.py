"""What cannot be converted: one sentence that names it, exit status 2, and nothing in the target."""

import json
import shutil

import numpy as np
import pytest
from hf_checkpoint import CONFIG, convert, hf_config, random_tensors, write
from safetensors.numpy import save_file

CUT = "model.layers.2.mlp.experts.3.up_proj.weight"


@pytest.fixture
def tensors():
    return random_tensors()


@pytest.fixture
def folders(tmp_path, capfd):
    """(source, target, says): `says` runs the command, which must fail with one sentence that holds these words."""
    source, target = tmp_path / "hf", tmp_path / "dst"

    def says(*words, argv=None):
        capfd.readouterr()
        assert convert(*(argv or ("from_hf", source, target))) == 2
        err = capfd.readouterr().err
        (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in err
        assert all(word in line for word in words), line
        assert not target.exists() and not target.with_name("dst.partial").exists()

    return source, target, says


@pytest.mark.parametrize("files", [1, 2])
def test_tensors(folders, tensors, files):
    source, _, says = folders
    put = lambda changed: write(source, changed, hf_config(CONFIG), files=files)
    put({name: t for name, t in tensors.items() if name != CUT})
    says("1 tensors are missing", CUT)
    put(tensors | {"model.layers.9.mlp.gate.weight": np.zeros((8, 32), np.float32)})
    says("1 tensors are unknown", "model.layers.9.mlp.gate.weight")
    put(tensors | {CUT: tensors[CUT].T.copy()})
    says(CUT, "has shape (32, 24), but config.json makes it (24, 32)")
    put(tensors | {CUT: tensors[CUT].astype(np.float32)})
    says(CUT, "has the dtype F32, but must have BF16, as the rest")
    put(tensors | {CUT: tensors[CUT].astype(np.float16)})
    says(CUT, "has the dtype F16, but must have BF16 or F32")
    put({name: t.astype(np.float16) for name, t in tensors.items()})
    says("has the dtype F16")


def test_files(folders, tensors):
    """Cut off, too long, damaged, missing, of another index."""
    source, _, says = folders
    write(source, tensors, hf_config(CONFIG), files=3)
    file, index = source / "model-00002-of-00003.safetensors", source / "model.safetensors.index.json"
    data, listed = file.read_bytes(), json.loads(index.read_text())

    def put(content: bytes):
        file.write_bytes(content)

    put(data[:-1])
    says(file.name, "is cut off", f"{len(data) - 1:,} bytes")
    put(data[:100])
    says(file.name, "is cut off")
    put(b"")
    says(file.name, "is cut off")
    put(data + b"x")
    says(file.name, "has bytes that belong to no tensor")
    put((2**62).to_bytes(8, "little") + data[8:])
    says(file.name, "its header should have 4,611,686,018,427,387,904 bytes")
    put(data[:8] + b"[" + data[9:])
    says(f"The header of {file} is damaged: it is not JSON")
    put(data)
    file.rename(source / "elsewhere")
    says("1 of the 3 files", "are missing", file.name)
    (source / "elsewhere").rename(file)
    name = next(name for name, where in listed["weight_map"].items() if where == file.name)
    index.write_text(
        json.dumps(listed | {"weight_map": listed["weight_map"] | {name: "model-00001-of-00003.safetensors"}})
    )
    says("promises the tensor", name, f"but it is in {file.name}")
    index.write_text(json.dumps({"weight_map": {n: f for n, f in listed["weight_map"].items() if n != name}}))
    says(file.name, f"holds the tensor {name}, which", "does not list")
    index.write_text(json.dumps({"weight_map": listed["weight_map"] | {"model.extra": file.name}}))
    says("promises the tensor model.extra", file.name)
    index.write_text(json.dumps({"weight_map": {name: "../model.safetensors"}}))
    says("lists '../model.safetensors'", "no safetensors file of this folder")
    index.write_text("{")
    says(str(index), "is not JSON")


def header(path, change) -> None:
    """Rewrites the JSON header of a file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = change(data[8 : 8 + length].decode())
    path.write_bytes(len(text.encode()).to_bytes(8, "little") + text.encode() + data[8 + length :])


@pytest.mark.parametrize(
    "before, after, words",
    [
        ('"shape":[96,32]', '"shape":[96,33]', "takes 6336"),
        ('"data_offsets":[0,', '"data_offsets":[2,', "bytes"),
        ('"shape":[96,32]', '"shape":[-96,-32]', "has the shape [-96, -32]"),
        ('"dtype":"BF16"', '"dtype":"PICKLE"', "has the dtype 'PICKLE'"),
        ('"model.norm.weight"', '"lm_head.weight"', "names lm_head.weight twice"),
        ('"dtype":"BF16",', "", "is not dtype, shape and data_offsets"),
    ],
)
def test_headers(folders, tensors, before, after, words):
    source, _, says = folders
    write(source, {name: t for name, t in tensors.items() if "bias" not in name}, hf_config(CONFIG))
    header(source / "model.safetensors", lambda text: text.replace(before, after))
    says("The header of", "is damaged", words)


def test_bytes_of_two_tensors(folders, tensors):
    source, _, says = folders
    write(source, tensors, hf_config(CONFIG))

    def overlap(text):
        entries = json.loads(text)
        first, second = [
            n for n in entries if n.endswith("layers.0.input_layernorm.weight") or n == "model.norm.weight"
        ]
        entries[second]["data_offsets"] = entries[first]["data_offsets"]
        return json.dumps(entries)

    header(source / "model.safetensors", overlap)
    says("is damaged", "do not begin where others end")


def test_pickles_are_refused_by_name(folders):
    source, _, says = folders
    source.mkdir()
    (source / "config.json").write_text(json.dumps(hf_config(CONFIG)))
    (source / "pytorch_model-00001-of-00002.bin").write_bytes(b"\x80\x02.")
    says("pytorch_model-00001-of-00002.bin", "runs code")


def test_what_is_no_checkpoint(folders, tensors, tmp_path):
    source, target, says = folders
    says("There is no folder")
    source.mkdir()
    says("it is not a Hugging Face checkpoint")
    write(source, tensors, hf_config(CONFIG))
    (source / "config.json").unlink()
    says("There is no config.json")
    (source / "config.json").write_text('{"model_type": "dots1"')
    says("config.json is not JSON")
    (source / "config.json").write_text(json.dumps(hf_config(CONFIG) | {"model_type": "deepseek_v3"}))
    says("model_type is 'deepseek_v3', but this model computes only 'dots1'")
    (source / "config.json").write_text(json.dumps(hf_config(CONFIG) | {"norm_topk_prob": False}))
    says("norm_topk_prob is False")
    (source / "config.json").write_text(json.dumps(hf_config(CONFIG) | {"num_hidden_layers": 5}))
    says("tensors are missing", "model.layers.4.")

    # The two kinds of folders, taken for each other.
    write(source, tensors, hf_config(CONFIG))
    assert convert("from_hf", source, tmp_path / "ours") == 0
    says("is a workdir of dots_jax", argv=("from_hf", tmp_path / "ours", target))
    says("is a Hugging Face folder: ", argv=("to_hf", source, target))
    says("is not a checkpoint: give the workdir of a training run", argv=("to_hf", tmp_path, target))
    says("There is no folder", argv=("to_hf", tmp_path / "nowhere", target))
    says("There is no checkpoint of step 7", "it has 0", argv=("to_hf", tmp_path / "ours", target, "--step=7"))
    shutil.rmtree(tmp_path / "ours" / "checkpoints" / "0")
    says("There is no finished checkpoint", argv=("to_hf", tmp_path / "ours", target))


def test_the_command_line(folders, tensors, capfd):
    source, target, says = folders
    says("takes DIRECTION SRC DST, but got from_hf", argv=("from_hf",))
    says("must be from_hf or to_hf, but is 'hf'", argv=("hf", source, target))
    says("--dtype belongs to to_hf", argv=("from_hf", source, target, "--dtype=float32"))
    says("no flag --dtpye", argv=("from_hf", source, target, "--dtpye=float32"))
    says("--dtype must be bfloat16 or float32, but is 'int8'", argv=("to_hf", source, target, "--dtype=int8"))
    says("--max_shard_size must be", argv=("to_hf", source, target, "--max_shard_size=5"))
    assert convert("--help") == 0
    assert "--max_shard_size" in capfd.readouterr().out


def tokenizer(folder, size: int) -> None:
    folder.mkdir(exist_ok=True)
    vocabulary = {chr(0x100 + i): i for i in range(size - 2)}
    added = [{"id": size - 2 + i, "content": name} for i, name in enumerate(("<|endoftext|>", "<|endofresponse|>"))]
    content = {"model": {"type": "BPE", "vocab": vocabulary, "merges": []}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def test_tokenizers(folders, tensors, tmp_path):
    """One with more ids than the model; and what travels with the weights when it fits."""
    source, target, says = folders
    write(source, tensors, hf_config(CONFIG))
    tokenizer(source, 97)
    says("has ids up to 96, but the model's vocab_size is 96", "of another model")
    (source / "tokenizer.json").write_text('{"model": 3}')
    says("no tokenizer of Hugging Face's")
    tokenizer(source, 90)
    assert convert("from_hf", source, tmp_path / "ours") == 0
    tokenizer(tmp_path / "large", 200)
    says("has ids up to 199", argv=("to_hf", tmp_path / "ours", target, f"--tokenizer={tmp_path / 'large'}"))
    says("There is no tokenizer.json in", argv=("to_hf", tmp_path / "ours", target, f"--tokenizer={tmp_path}"))
    assert convert("to_hf", tmp_path / "ours", target) == 0
    assert (target / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert json.loads((target / "generation_config.json").read_text()) == {"eos_token_id": [88, 89]}
    assert json.loads((target / "tokenizer_config.json").read_text())["eos_token"] == "<|endoftext|>"
    assert "<|userprompt|>" in (target / "chat_template.jinja").read_text()
    # Template and generation config that came with the tokenizer stay as they are.
    tokenizer(tmp_path / "own", 90)
    (tmp_path / "own" / "chat_template.jinja").write_text("own")
    (tmp_path / "own" / "generation_config.json").write_text('{"top_p": 0.5}')
    assert convert("to_hf", tmp_path / "ours", tmp_path / "b", f"--tokenizer={tmp_path / 'own'}") == 0
    assert (tmp_path / "b" / "chat_template.jinja").read_text() == "own"
    assert (tmp_path / "b" / "generation_config.json").read_text() == '{"top_p": 0.5}'


def test_targets_that_are_taken(folders, tensors, tmp_path, capfd):
    source, target, _ = folders
    write(source, tensors, hf_config(CONFIG))
    run = tmp_path / "run" / "checkpoints" / "100"
    run.mkdir(parents=True)
    assert convert("from_hf", source, tmp_path / "run") == 2
    assert "holds a training run's checkpoints: choose another folder" in capfd.readouterr().err
    assert convert("from_hf", source, target) == 0
    save_file({"other": np.zeros(1, np.float32)}, tmp_path / "kept.safetensors")
    assert convert("to_hf", target, tmp_path) == 2
    assert "exists and is not empty" in capfd.readouterr().err
    write(tmp_path / "hf2", random_tensors(dtype="float32"), hf_config(CONFIG))
    assert convert("from_hf", tmp_path / "hf2", target) == 2
    assert "holds another checkpoint already" in capfd.readouterr().err
    (tmp_path / "file").write_text("")
    assert convert("from_hf", source, tmp_path / "file" / "dst") == 2
    assert "cannot be written" in capfd.readouterr().err
