"""The commands generate and eval --score: files in, files out; text that streams; one sentence for what is wrong."""

import dataclasses
import json
import os
import sys

import jax
import numpy as np
import pytest
from etils import epath
from golden import make_chat

from dots_jax.checkpoint.metadata import CheckpointMetadata
from dots_jax.checkpoint.open import open_checkpoint
from dots_jax.checkpoint.store import Checkpoints
from dots_jax.cli.main import main
from dots_jax.config import ComputeConfig, MeshConfig, OptimizerConfig, tiny
from dots_jax.data.tokenizers.tokenizer_file import TokenizerFile
from dots_jax.inference import weights as serving
from dots_jax.inference.prompts import chat_tokens
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.mesh import make_mesh
from dots_jax.storage import tokenizer_file
from dots_jax.training.optimizer import make_optimizer
from dots_jax.training.state import init_state, state_shardings, to_items

MODEL = tiny()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """What a training run of a byte model leaves behind, but for the training."""
    return save_run(tmp_path_factory.mktemp("run"), MODEL, steps=(2, 3))


@pytest.fixture(scope="module")
def chat_checkpoint(tmp_path_factory):
    """The same of a model with the tokens of conversations."""
    workdir = tmp_path_factory.mktemp("chat")
    tokenizer = make_chat.tokenizer_json()
    (workdir / "tokenizer").mkdir()
    (workdir / "tokenizer" / "tokenizer.json").write_text(tokenizer)
    return save_run(workdir, dataclasses.replace(MODEL, vocab_size=320), steps=(1,))


def save_run(workdir, model, steps: tuple[int, ...]):
    definition = ModelDef(model, ComputeConfig(), make_mesh(MeshConfig(fsdp=1)), 0.3)
    optimizer = make_optimizer(OptimizerConfig(), definition.weight_decays())
    shardings = state_shardings(definition, optimizer)
    metadata = CheckpointMetadata(
        step=3, model=model, config={"data": {"tokenizer": ""}, "compute": {"dtype": "float32"}}
    )
    checkpoints = Checkpoints(str(workdir), is_milestone=lambda step: False)
    for step in steps:
        state = jax.jit(lambda: init_state(definition, optimizer, step), out_shardings=shardings)()  # noqa: B023
        checkpoints.save(step, to_items(state), dataclasses.replace(metadata, step=step), definition.stack_axes())
    checkpoints.wait()
    checkpoints.close()
    return workdir


def run_generate(*flags: str) -> int:
    return main(["generate", *flags])


def run_score(*flags: str) -> int:
    return main(["eval", *flags])


def write(path, *rows) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- what it does -----------------------------------------------------------------------------------------------------


def test_rows_come_back_with_what_follows(checkpoint, tmp_path, capfd):
    rows = [{"prompt": "def f(", "id": "é"}, {"tokens": [70, 0, 71]}, {"prompt": "x"}]
    flags = (f"--checkpoint={checkpoint}", f"--input={write(tmp_path / 'in', *rows)}", "--max_new_tokens=6")
    for out, more in (("one", ["--batch_size=2"]), ("all", []), ("other", ["--step=2"])):
        assert run_generate(*flags, f"--output={tmp_path / out}", "--temperature=0", *more) == 0
    one, everything, other = (read(tmp_path / out) for out in ("one", "all", "other"))
    assert [row.pop("logprobs") for row in one] and [row.pop("logprobs") for row in everything]
    assert one == everything != other
    assert [{k: row[k] for k in given} for row, given in zip(one, rows)] == rows
    for row in one:
        assert 1 <= len(row["new_tokens"]) <= 6 and all(0 <= t < 259 for t in row["new_tokens"])
        shown = bytes(t - 3 for t in row["new_tokens"] if t >= 3).decode("utf-8", "replace")
        assert row["text"] == shown
    assert sorted(os.listdir(tmp_path)) == ["all", "in", "one", "other"]  # no temporary file stays


def test_sampling_flags_and_stops(checkpoint, tmp_path):
    def tokens(name: str, *more: str) -> list[list[int]]:
        prompts = write(tmp_path / "in", {"prompt": "a"}, {"prompt": "a"})
        flags = f"--checkpoint={checkpoint}", f"--input={prompts}", f"--output={tmp_path / name}"
        assert run_generate(*flags, "--max_new_tokens=24", *more) == 0
        return [row["new_tokens"] for row in read(tmp_path / name)]

    drawn = tokens("drawn", "--seed=5", "--stop_ids=")
    assert drawn == tokens("again", "--seed=5", "--stop_ids=") != tokens("other", "--seed=6", "--stop_ids=")
    assert drawn[0] != drawn[1] and list(map(len, drawn)) == [24, 24]
    greedy = tokens("greedy", "--temperature=0", "--stop_ids=")
    assert greedy == tokens("narrow", "--top_k=1", "--stop_ids=") == tokens("thin", "--top_p=0.000001", "--stop_ids=")
    stop = drawn[0][7]
    cut = tokens("cut", "--seed=5", f"--stop_ids={stop},258")
    assert cut[0] == drawn[0][: min(drawn[0].index(i) for i in (stop, 258) if i in drawn[0]) + 1]


def test_samples_of_a_prompt(checkpoint, tmp_path):
    """Each is the row that it would be alone; logprobs are those of `score`."""
    prompts = write(tmp_path / "in", {"prompt": "ab", "id": 1}, {"prompt": "c"})
    flags = (f"--checkpoint={checkpoint}", f"--input={prompts}", "--max_new_tokens=9", "--seed=2")
    assert run_generate(*flags, f"--output={tmp_path / 'four'}", "--samples=4", "--batch_size=3") == 0
    assert run_generate(*flags, f"--output={tmp_path / 'one'}") == 0
    four, one = read(tmp_path / "four"), read(tmp_path / "one")
    assert [(row["prompt"], row["sample"]) for row in four] == [(p, n) for p in ("ab", "c") for n in range(4)]
    assert "sample" not in one[0] and [row["text"] for row in one] == [four[0]["text"], four[4]["text"]]
    assert len({tuple(row["new_tokens"]) for row in four}) > 4
    scored = [{"tokens": [ord(c) + 3 for c in row["prompt"]] + row["new_tokens"]} for row in four]
    out = f"--output={tmp_path / 'scores'}"
    assert run_score(f"--checkpoint={checkpoint}", f"--score={write(tmp_path / 'texts', *scored)}", out) == 0
    for row, score in zip(four, read(tmp_path / "scores")):
        np.testing.assert_allclose(row["logprobs"], score["logprobs"][len(row["prompt"]) - 1 :], atol=2e-5)


def test_why_a_row_ended(checkpoint, tmp_path):
    def ended(*flags: str) -> dict:
        prompts = write(tmp_path / "in", {"prompt": "a"})
        out = f"--output={tmp_path / 'out'}"
        assert run_generate(f"--checkpoint={checkpoint}", f"--input={prompts}", out, "--seed=1", *flags) == 0
        return read(tmp_path / "out")[0]

    free = ended("--max_new_tokens=40", "--stop_ids=")
    assert (free["finish_reason"], free["stop_reason"]) == ("length", None) and len(free["new_tokens"]) == 40
    stop_id = free["new_tokens"][5]
    by_id = ended("--max_new_tokens=40", f"--stop_ids={stop_id}")
    assert (by_id["finish_reason"], by_id["stop_reason"]) == ("stop", stop_id)
    letter = next(c for c in free["text"] if c.isascii())
    by_text = ended("--max_new_tokens=40", "--stop_ids=", "--stop=never", f"--stop={letter}")
    assert (by_text["finish_reason"], by_text["stop_reason"]) == ("stop", letter)
    assert len(by_text["logprobs"]) == len(by_text["new_tokens"])


def test_rows_of_messages(chat_checkpoint, tmp_path, capfd):
    """The same as the template's text, special tokens and all; what has no place in it is counted."""
    question = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "capital of France?"}]
    parts = [{"type": "text", "text": "capital of "}, {"type": "text", "text": "France?"}]
    rows = [
        {"messages": question, "answer": "Paris"},
        {"messages": [question[0], {"role": "user", "content": parts, "name": "Ann"}]},
        {"messages": [*question, {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "Why?"}]},
        {"prompt": "capital of France?"},
    ]
    flags = (f"--checkpoint={chat_checkpoint}", "--max_new_tokens=5", "--temperature=0")
    out = f"--output={tmp_path / 'out'}"
    assert run_generate(*flags, f"--input={write(tmp_path / 'in', *rows)}", out) == 0
    assert "1 of 4 rows: name of a message is not in the template" in capfd.readouterr().err
    found = read(tmp_path / "out")
    assert [{k: row[k] for k in given} for row, given in zip(found, rows)] == rows
    vocabulary = TokenizerFile(str(chat_checkpoint / "tokenizer" / "tokenizer.json"))
    tokens = [{"tokens": chat_tokens(messages, vocabulary)} for messages in (question, question, rows[2]["messages"])]
    assert run_generate(*flags, f"--input={write(tmp_path / 'ids', *tokens)}", f"--output={tmp_path / 'same'}") == 0
    assert [row["new_tokens"] for row in found[:3]] == [row["new_tokens"] for row in read(tmp_path / "same")]
    assert run_generate(*flags, f"--input={write(tmp_path / 'in', rows[3])}", out, "--chat") == 0
    alone = write(tmp_path / "in", {"messages": question[1:]})
    assert run_generate(*flags, f"--input={alone}", f"--output={tmp_path / 'same'}") == 0
    assert read(tmp_path / "out")[0]["new_tokens"] == read(tmp_path / "same")[0]["new_tokens"]


def test_a_stop_string_ends_the_text_before_it(checkpoint, tmp_path):
    flags = (f"--checkpoint={checkpoint}", "--max_new_tokens=40", "--seed=1", "--stop_ids=")
    prompts = write(tmp_path / "in", {"prompt": "a"})
    assert run_generate(*flags, f"--input={prompts}", f"--output={tmp_path / 'free'}") == 0
    (free,) = read(tmp_path / "free")
    letters = [c for c in free["text"] if c.isascii()]
    stop = letters[3]
    stops = "--stop=nothing", f"--stop={stop}"
    assert run_generate(*flags, f"--input={prompts}", f"--output={tmp_path / 'cut'}", *stops) == 0
    (cut,) = read(tmp_path / "cut")
    assert cut["text"] == free["text"][: free["text"].index(stop)]
    assert cut["new_tokens"] == free["new_tokens"][: len(cut["new_tokens"])]
    assert cut["new_tokens"][-1] == ord(stop) + 3


def test_a_prompt_streams_what_a_file_would_get(checkpoint, tmp_path, capfd):
    flags = (f"--checkpoint={checkpoint}", "--max_new_tokens=20", "--temperature=0")
    prompts = write(tmp_path / "in", {"prompt": "if"})
    assert run_generate(*flags, f"--input={prompts}", f"--output={tmp_path / 'out'}") == 0
    capfd.readouterr()
    assert run_generate(*flags, "--prompt=if") == 0
    assert capfd.readouterr().out == read(tmp_path / "out")[0]["text"] + "\n"


def test_scores_of_texts_and_tokens(checkpoint, tmp_path):
    rows = [{"text": "abc", "id": 1}, {"tokens": [100, 101, 102]}, {"tokens": [9]}]
    rows.append({"text": "a longer text than the others"})
    flags = (f"--checkpoint={checkpoint}", f"--score={write(tmp_path / 'in', *rows)}")
    assert run_score(*flags, f"--output={tmp_path / 'out'}", "--batch_size=3") == 0
    found = read(tmp_path / "out")
    assert [{k: v for k, v in row.items() if k != "logprobs"} for row in found] == rows
    assert [len(row["logprobs"]) for row in found] == [2, 2, 0, 28]
    assert found[0]["logprobs"] == found[1]["logprobs"] and max(found[3]["logprobs"]) < 0
    assert run_score(*flags, f"--output={tmp_path / 'rounded'}", "--dtype=bfloat16") == 0
    rounded = read(tmp_path / "rounded")[3]["logprobs"]
    assert rounded != found[3]["logprobs"]
    # Of most tokens: the scores of some are so near each other that rounding sends them to another expert.
    assert np.median(np.abs(np.subtract(rounded, found[3]["logprobs"]))) < 0.1


def test_weights_are_held_in_the_dtype_of_the_computation(checkpoint):
    opened = open_checkpoint(str(checkpoint))
    definition = serving.define(opened.model, "bfloat16")
    weights = serving.load_weights(opened, definition, serving.serving_mesh(opened.model))
    dtypes = {str(path[-2:]): leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(weights)}
    assert weights.experts["w_down_EFD"].dtype == weights.outer["head"]["w_DV"].dtype == "bfloat16"
    assert weights.outer["final_norm"]["scale"].dtype == weights.biases[0].dtype == "float32"
    assert set(dtypes.values()) == {jax.numpy.dtype("bfloat16"), jax.numpy.dtype("float32")}


# --- what may be wrong ------------------------------------------------------------------------------------------------


@pytest.fixture
def refusal(checkpoint, tmp_path, capfd, monkeypatch):
    """Runs a command that must be refused before it reads any weights; returns its one line."""

    def must_not_load(*_):
        raise AssertionError("the weights were read")

    monkeypatch.setattr(serving, "load_weights", must_not_load)

    def run(command, *flags):
        capfd.readouterr()
        assert command(*flags) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("error: ") and line.endswith((".", "?")) and "Error" not in line
        return line.removeprefix("error: ")

    return run


@pytest.mark.parametrize(
    "row, words",
    [
        ("{'tokens': [1]}", "in line 2 is not JSON."),
        ('{"tokens": [1]', "in line 2 is not JSON."),
        ("[1, 2]", 'in line 2 needs one of "tokens"'),
        ({"text": "x", "prompt": "y", "tokens": [1]}, 'in line 2 needs one of "tokens"'),
        ({"tokens": [1, "2"]}, "in line 2 needs one of"),
        ({"tokens": [True]}, "in line 2 needs one of"),
        ({"tokens": None}, "in line 2 needs one of"),
        ({"tokens": []}, "in line 2 is empty: it needs at least one token."),
        ({"text": "", "prompt": ""}, "in line 2 is empty"),
        ('{"text": "\\ud800", "prompt": "\\ud800"}', "in line 2 has half of a surrogate pair"),
        ({"tokens": [1, 259]}, "in line 2 has the token 259, but the model's ids go from 0 to 258."),
        ({"tokens": [-1]}, "in line 2 has the token -1"),
        ({"tokens": [5] * 257}, "in line 2 has 257 tokens, but the model's context is 256"),
    ],
)
def test_rows_that_cannot_be_used_are_named(refusal, checkpoint, tmp_path, row, words):
    path = write(tmp_path / "in", {"tokens": [5] * 200}, row)
    for command, flag in ((run_generate, "input"), (run_score, "score")):
        said = refusal(command, f"--checkpoint={checkpoint}", f"--{flag}={path}", f"--output={tmp_path / 'out'}")
        assert words in said
    assert os.listdir(tmp_path) == ["in"]


def test_fields_that_the_results_would_replace(refusal, checkpoint, tmp_path):
    path = write(tmp_path / "in", {"prompt": "a", "text": "the reference answer"})
    out = f"--output={tmp_path / 'out'}"
    said = refusal(run_generate, f"--checkpoint={checkpoint}", f"--input={path}", out)
    assert 'in line 1 has a field "text" of its own, which the result would replace: rename it.' in said
    path = write(tmp_path / "in", {"text": "a", "logprobs": [1.0]})
    said = refusal(run_score, f"--checkpoint={checkpoint}", f"--score={path}", out)
    assert 'in line 1 has a field "logprobs" of its own' in said


def test_a_text_may_hold_a_line_separator(checkpoint, tmp_path):
    """U+2028 ends a line for str.splitlines, not for JSON."""
    path, out = write(tmp_path / "in", '{"text": "a\u2028b"}'), tmp_path / "out"
    assert run_score(f"--checkpoint={checkpoint}", f"--score={path}", f"--output={out}") == 0
    (row,) = map(json.loads, out.read_text().split("\n")[:-1])
    assert row["text"] == "a\u2028b" and len(row["logprobs"]) == len("a\u2028b".encode()) - 1


def test_a_converted_tokenizer_is_found(tmp_path):
    assert tokenizer_file(epath.Path(tmp_path)) is None
    for name in ("tokenizer.json", "tokenizer/tokenizer.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
        assert tokenizer_file(epath.Path(tmp_path)) == epath.Path(tmp_path / name)


def test_a_prompt_that_leaves_no_room(refusal, checkpoint, tmp_path):
    flags = f"--checkpoint={checkpoint}", f"--output={tmp_path / 'out'}"
    full = write(tmp_path / "in", {"tokens": [5] * 256})
    assert "256, and what follows must fit too: shorten it." in refusal(run_generate, *flags, f"--input={full}")
    assert "257 tokens" in refusal(run_generate, flags[0], "--prompt=" + "x" * 257)


def test_what_is_no_checkpoint(refusal, checkpoint, tmp_path):
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    for path, words in (
        (tmp_path, "is not a checkpoint: give the workdir of a training run"),
        (tmp_path / "nowhere", "There is no folder"),
        (tmp_path / "hf", "is a Hugging Face folder: `python -m dots_jax.convert from_hf"),
        (tmp_path / "empty", "There is no finished checkpoint in"),
    ):
        assert words in refusal(run_generate, f"--checkpoint={path}", "--prompt=x")
        assert words in refusal(run_score, f"--checkpoint={path}", f"--score={tmp_path}", f"--output={tmp_path}/o")
    said = refusal(run_generate, f"--checkpoint={checkpoint}", "--prompt=x", "--step=9")
    assert "There is no checkpoint of step 9" in said and "it has 2, 3." in said
    said = refusal(run_generate, f"--checkpoint={checkpoint}/checkpoints/3", "--prompt=x", "--step=2")
    assert "is the checkpoint of step 3, not of step 2: give one of the two." in said


def test_tokenizers_that_do_not_fit(refusal, checkpoint, tmp_path):
    from dots_jax.data.tokenizers.training import train_to_file

    path = tmp_path / "tokenizer.json"
    train_to_file(
        str(path), 400, files=str(write(tmp_path / "text.txt", "some words " * 50, "and other words " * 50)), task=None,
        tasks_modules=[], cache_dir=str(tmp_path),
    )  # fmt: skip
    said = refusal(run_generate, f"--checkpoint={checkpoint}", "--prompt=x", f"--tokenizer={path}")
    assert "ids, but the model of" in said and "only 259: give the tokenizer with which it was trained" in said
    said = refusal(run_generate, f"--checkpoint={checkpoint}", "--prompt=x", f"--tokenizer={tmp_path / 'none.json'}")
    assert "There is no tokenizer file" in said
    said = refusal(run_generate, f"--checkpoint={checkpoint}", "--prompt=x", "--chat")
    assert "has no special token '<|userprompt|>'" in said


def test_flags_that_make_no_sense(refusal, checkpoint, tmp_path):
    at = f"--checkpoint={checkpoint}"
    rows = write(tmp_path / "in", {"prompt": "x"})
    for flags, words in (
        (["--prompt=x"], "Missing --checkpoint"),
        ([at], "Give one of --prompt=TEXT"),
        ([at, "--prompt=x", f"--input={rows}", "--output=o"], "Give one of --prompt=TEXT"),
        ([at, f"--input={rows}"], "--input and --output belong together"),
        ([at, "--prompt=x", "--samples=2"], "--samples is for the rows of --input"),
        ([at, f"--input={rows}", "--output=o", "--samples=0"], "samples must be an integer of at least 1"),
        ([at, "--prompt=x", "--temperature=-1"], "--temperature must be 0"),
        ([at, "--prompt=x", "--temperature=warm"], "temperature"),
        ([at, "--prompt=x", "--top_p=0"], "--top_p must be above 0"),
        ([at, "--prompt=x", "--stop_ids=1,259"], "--stop_ids must be ids below 259"),
        ([at, "--prompt=x", "--max_new_tokens=0"], "max_new_tokens"),
        ([at, f"--input={tmp_path / 'none'}", f"--output={tmp_path / 'o'}"], "cannot be read: No such file"),
        ([at, f"--input={rows}", f"--output={tmp_path / 'no' / 'folder'}"], "cannot be written: No such file"),
        ([at, f"--input={rows}", f"--output={tmp_path}"], "cannot be written: it is a folder."),
        ([at, f"--input={write(tmp_path / 'blank', '')}", f"--output={tmp_path / 'o'}"], "has no rows."),
    ):
        assert words in refusal(run_generate, *flags), flags
    assert "Missing --output" in refusal(run_score, at, f"--score={rows}")


def test_a_failure_leaves_what_was_there(checkpoint, tmp_path, monkeypatch, capfd):
    out = tmp_path / "out"
    out.write_text("before")

    def fails(*_, **__):
        raise RuntimeError("in the middle")

    monkeypatch.setattr("dots_jax.inference.generation.Generator.generate", fails)
    rows = write(tmp_path / "in", {"prompt": "x"})
    assert run_generate(f"--checkpoint={checkpoint}", f"--input={rows}", f"--output={out}") == 2
    assert out.read_text() == "before" and sorted(os.listdir(tmp_path)) == ["in", "out"]


def test_a_damaged_checkpoint_is_named(checkpoint, tmp_path, capfd):
    import shutil

    shutil.copytree(checkpoint, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints" / "3" / "model").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-7] + b"garbled")
    assert run_generate(f"--checkpoint={tmp_path / 'run'}", "--prompt=x") == 2
    assert "cannot be read" in capfd.readouterr().err


def test_eval_knows_which_of_its_two_uses_is_meant(monkeypatch, capsys):
    import runpy

    monkeypatch.setattr(sys, "argv", ["eval", "--score=x"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("dots_jax.eval", run_name="__main__")
    assert ended.value.code == 2 and "Missing --checkpoint" in capsys.readouterr().err
