"""`dots rft sample`, `verify` and `keep`, from questions to conversations that a run learns.

Claim: a killed `dots rft sample` or `verify` that is started again writes the same bytes.
"""

import json

import numpy as np
import pytest
from golden import make_chat
from hf_checkpoint import convert, hf_config, random_tensors, write

from dots_jax.cli.main import main
from dots_jax.config import ModelConfig
from dots_jax.data.sources.conversations import formats
from dots_jax.posttraining import sample as sampling
from dots_jax.posttraining import verify as verifying
from dots_jax.posttraining.verify import find_program

MODEL = ModelConfig(
    vocab_size=320, num_layers=2, hidden_size=16, num_heads=2, head_dim=8, dense_ffn_size=16, num_experts=4,
    experts_per_token=2, expert_ffn_size=8, num_shared_experts=1, rope_theta=10_000.0, max_seq_len=64,
)  # fmt: skip
QUESTIONS = [{"id": n, "prompt": f"{n}+{n}=" + "?" * (n % 3), "answer": str(2 * n)} for n in range(6)]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rft(step, **flags):
    return main(
        ["rft", step, *(f"--{name}" if value is True else f"--{name}={value}" for name, value in flags.items())]
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rft")
    rng = np.random.default_rng(3)
    tensors = {name: (0.1 * rng.normal(size=t.shape)).astype(t.dtype) for name, t in random_tensors(MODEL).items()}
    write(folder / "hf", tensors, hf_config(MODEL))
    (folder / "hf" / "tokenizer.json").write_text(make_chat.tokenizer_json())
    assert convert("from_hf", folder / "hf", folder / "weights") == 0
    return folder / "weights"


def test_samples_of_a_killed_run_are_those_of_one_that_was_not(weights, tmp_path, monkeypatch):
    asked = jsonl(tmp_path / "q.jsonl", QUESTIONS)
    flags = dict(checkpoint=weights, questions=asked, samples=3, batch_size=2, max_new_tokens=5, dtype="float32")
    assert rft("sample", output=tmp_path / "one.jsonl", **flags) == 0
    found = rows(tmp_path / "one.jsonl")
    assert {(row["id"], row["sample"]) for row in found} == {(n, k) for n in range(6) for k in range(3)}
    assert len({row["text"] for row in found}) > 3 and {row["finish_reason"] for row in found} <= {"stop", "length"}

    class Killed(BaseException):
        pass

    monkeypatch.setattr(sampling, "CHUNK", 4)  # as many rows a chunk as above would need more questions
    chunked, add = tmp_path / "chunked.jsonl", sampling.AppendedFile.add
    assert rft("sample", output=chunked, **flags) == 0

    def add_and_die(file, chunk):
        if file.rows:
            raise Killed
        add(file, chunk)

    monkeypatch.setattr(sampling.AppendedFile, "add", add_and_die)
    with pytest.raises(Killed):
        rft("sample", output=tmp_path / "killed.jsonl", **flags)
    monkeypatch.setattr(sampling.AppendedFile, "add", add)
    assert rft("sample", output=tmp_path / "killed.jsonl", **flags) == 0
    assert (tmp_path / "killed.jsonl").read_bytes() == chunked.read_bytes()
    # Chunks decide what is on the disk together, not what is drawn.
    assert chunked.read_bytes() == (tmp_path / "one.jsonl").read_bytes()


def test_bad_flags_come_before_the_weights(weights, tmp_path, capfd):
    asked = jsonl(tmp_path / "q.jsonl", QUESTIONS)
    output = tmp_path / "s.jsonl"
    assert rft("sample", checkpoint=weights, output=output) == 2
    assert "Missing --questions" in capfd.readouterr().err
    long = jsonl(tmp_path / "long.jsonl", [{"id": "x", "prompt": "word " * 200, "answer": "1"}])
    assert rft("sample", checkpoint=weights, questions=long, output=output) == 2
    assert "question 'x'" in capfd.readouterr().err
    assert rft("sample", checkpoint=weights, questions=asked, output=output, temperature=-1) == 2
    assert main(["rft"]) == 2
    assert "dots rft has the steps sample, verify and keep" in capfd.readouterr().err
    assert not output.exists()


# --- verdicts -----------------------------------------------------------------------------------------------------------

TEXTS = ["#### 0", "the answer is 2", "\\boxed{5}", "6 sheep and a goat", "答案是8", "no idea"]
VERDICTS = ["correct", "correct", "wrong", "no_answer", "correct", "no_answer"]


def test_verdicts_of_a_killed_run(tmp_path, monkeypatch, capsys):
    asked = jsonl(tmp_path / "q.jsonl", QUESTIONS)
    drawn = jsonl(
        tmp_path / "s.jsonl",
        [{"id": n, "sample": 0, "text": text, "engine": "another"} for n, text in enumerate(TEXTS)],
    )
    assert rft("verify", questions=asked, samples=drawn, output=tmp_path / "v.jsonl") == 0
    found = rows(tmp_path / "v.jsonl")
    assert [row["verdict"] for row in found] == VERDICTS and found[0]["engine"] == "another"
    assert "3 correct, 1 wrong, 2 no_answer, 0 timeout, 0 error; pass@1 0.5000" in capsys.readouterr().out

    monkeypatch.setattr(verifying, "BATCH", 2)
    (tmp_path / "again.jsonl.partial").write_text("".join((tmp_path / "v.jsonl").read_text().splitlines(True)[:3]))
    about = json.loads((tmp_path / "v.jsonl.run.json").read_text())
    (tmp_path / "again.jsonl.run.json").write_text(json.dumps(about))
    assert rft("verify", questions=asked, samples=drawn, output=tmp_path / "again.jsonl") == 0
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "v.jsonl").read_bytes()
    assert rft("verify", questions=asked, samples=drawn, output=tmp_path / "again.jsonl") == 0
    assert "is complete already" in capsys.readouterr().out


def test_where_a_program_is():
    assert find_program("```python\ndef f(): 1\n```\nand\n```\nx = 2\n```", "f").strip() == "def f(): 1"
    assert find_program("def f():\n    return 1") == "def f():\n    return 1"
    assert find_program("I cannot do that, sorry.") is None and find_program(" ") is None


# --- what is kept ---------------------------------------------------------------------------------------------------------


def verified(tmp_path):
    asked = jsonl(tmp_path / "q.jsonl", QUESTIONS)
    fields = lambda n, k, verdict, text: {
        "id": n,
        "sample": k,
        "text": text,
        "verdict": verdict,
        "finish_reason": "stop",
    }
    judged = [fields(0, 0, "correct", "0+0=0"), fields(0, 1, "wrong", "#### 1")]
    judged += [fields(1, 0, "correct", "1+1=2"), fields(1, 1, "correct", "2")]
    judged += [fields(n, k, "timeout", "x") for n in range(2, 6) for k in range(2)]
    return asked, jsonl(tmp_path / "v.jsonl", judged)


def test_kept_answers_and_the_account_of_the_others(tmp_path, capsys):
    asked, judged = verified(tmp_path)
    mix = jsonl(
        tmp_path / "mix.jsonl",
        [{"instruction": f"say {n}", "input": "", "output": str(n)} for n in range(4)],  # as alpaca has it
    )
    output = tmp_path / "out" / "kept.jsonl"
    assert rft("keep", questions=asked, verified=judged, output=output, mix=mix, mix_share=0.5) == 0
    right, mixed = rows(output)
    assert right["messages"] == [
        {"role": "user", "content": "0+0="}, {"role": "assistant", "content": "0+0=0"},
    ]  # fmt: skip
    assert mixed["messages"][1]["content"] in "0123" and mixed["source"] == str(mix)
    left = rows(tmp_path / "out" / "kept.left_out.jsonl")
    assert {row["reason"] for row in left} == {"wrong", "timeout", "its question is always answered right"}
    assert len(left) + 1 == 12
    report = json.loads((tmp_path / "out" / "kept.report.json").read_text())
    assert (tmp_path / "out" / "kept.png").read_bytes().startswith(b"\x89PNG")
    table = capsys.readouterr().out
    assert "left out: timeout" in table and "12" in table
    assert report["counts"]["left_out"] == {"timeout": 8, "its question is always answered right": 2, "wrong": 1}
    assert formats.detect(right).format == formats.detect(mixed).format == "messages"


def test_decontamination_by_the_questions(tmp_path):
    prompts = ("how many legs have two and a half cows", "how many wings have two geese")
    asked = jsonl(tmp_path / "q.jsonl", [{"id": n, "prompt": prompts[n], "answer": "1"} for n in range(2)])
    judged = jsonl(
        tmp_path / "v.jsonl", [{"id": n, "sample": 0, "text": f"{n}+1=1", "verdict": "correct"} for n in range(2)]
    )
    test = tmp_path / "test.txt"
    test.write_text("It asks: how many legs have two and a half cows?\nshort\n")
    output = tmp_path / "kept.jsonl"
    flags = dict(questions=asked, verified=judged, output=output, always_right=True, decontaminate=test, ngram=6)
    assert rft("keep", **flags) == 0
    assert [row["id"] for row in rows(output)] == [1]
    (left,) = rows(tmp_path / "kept.left_out.jsonl")
    assert left["id"] == 0 and left["reason"] == "its question shares n-grams with an evaluation file"


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ({"mix_share": 0.5}, "--mix_share must be between 0 and 1 and goes with --mix"),
        ({"mix": "none/*.jsonl"}, "No file fits --mix=none/*.jsonl"),
        ({"decontaminate": "x.csv"}, "--decontaminate: x.csv is neither .txt"),
        ({"cap": 0}, "--cap"),
    ],
)
def test_bad_settings_of_keep(tmp_path, capfd, flags, sentence):
    asked, judged = verified(tmp_path)
    output = tmp_path / "kept.jsonl"
    assert rft("keep", questions=asked, verified=judged, output=output, **flags) == 2
    assert sentence in capfd.readouterr().err and not output.exists()


def test_nothing_to_keep(tmp_path, capfd):
    asked = jsonl(tmp_path / "q.jsonl", QUESTIONS[:1])
    judged = jsonl(tmp_path / "v.jsonl", [{"id": 0, "sample": 0, "text": "1", "verdict": "wrong"}])
    assert rft("keep", questions=asked, verified=judged, output=tmp_path / "kept.jsonl") == 2
    assert "None of 1 samples is kept (1 wrong)" in capfd.readouterr().err
    assert not list(tmp_path.glob("kept*"))
