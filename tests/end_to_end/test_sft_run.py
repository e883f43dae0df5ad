"""Fine-tuning from weights to an export: the model read from the weights, figures, samples, template, ids that end an answer."""

import json

import numpy as np
import pytest
from golden import make_chat
from hf_checkpoint import convert, hf_config, random_tensors, write

from dots_jax.cli.main import main
from dots_jax.config import ModelConfig

HELPFUL = "You are a helpful assistant."
MODEL = ModelConfig(
    vocab_size=320, num_layers=3, hidden_size=16, num_heads=2, head_dim=8, dense_ffn_size=32, num_experts=8,
    experts_per_token=2, expert_ffn_size=16, num_shared_experts=1, rope_theta=10_000.0, max_seq_len=64,
)  # fmt: skip
GIN = """
TrainConfig.initial_checkpoint = '{folder}/weights'
TrainConfig.compute = @ComputeConfig()
TrainConfig.optimizer = @OptimizerConfig()
TrainConfig.data = @DataConfig()
TrainConfig.samples = @SamplesConfig()
TrainConfig.mesh = @MeshConfig()
MeshConfig.fsdp = 1
ComputeConfig.dtype = 'float32'
OptimizerConfig.weight_decay = 0.0
TrainConfig.log_every = 1
TrainConfig.stages = (@sft/Stage(),)
sft/Stage.name = 'sft'
sft/Stage.epochs = 2.0
sft/Stage.mixture = 'talk'
sft/Stage.seq_len = 64
sft/Stage.batch_tokens = ((0, 512),)
sft/Stage.learning_rate_start = 2e-2
sft/Stage.learning_rate_end = 2e-3
sft/Stage.learning_rate_shape = 'cosine'
DataConfig.cache_dir = '{folder}/cache'
DataConfig.tasks_modules = ()
DataConfig.sources = (@talk/Source(),)
talk/Source.name = 'talk'
talk/Source.files = (('train', '{folder}/talk.jsonl'),)
talk/Source.format = 'messages'
SamplesConfig.prompts = ('Hi?', 'How are you?')
SamplesConfig.every_steps = 10
SamplesConfig.max_new_tokens = 8
"""
DEFAULT = (
    "{%- if messages[0]['role'] == 'system' -%}<|system|>{{ messages[0]['content'] }}<|endofsystem|>{%- else -%}"
    "<|system|>" + HELPFUL + "<|endofsystem|>{%- endif -%}{%- for m in messages -%}"
    "{%- if m['role'] == 'user' -%}<|userprompt|>{{ m['content'] }}<|endofuserprompt|>"
    "{%- elif m['role'] == 'assistant' -%}<|response|>{{ m['content'] }}<|endofresponse|>{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|response|>{%- endif -%}"
)


@pytest.fixture(scope="module")
def sft(tmp_path_factory):
    """A base model with its tokenizer, template and generation config, and conversations."""
    folder = tmp_path_factory.mktemp("sft")
    rng = np.random.default_rng(3)
    tensors = {name: (0.1 * rng.normal(size=t.shape)).astype(t.dtype) for name, t in random_tensors(MODEL).items()}
    write(folder / "hf", tensors, hf_config(MODEL))
    (folder / "hf" / "tokenizer.json").write_text(make_chat.tokenizer_json())
    (folder / "hf" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": DEFAULT})
    )
    (folder / "hf" / "generation_config.json").write_text(json.dumps({"eos_token_id": ids(folder / "hf")[0]}))
    assert convert("from_hf", folder / "hf", folder / "weights") == 0
    talk = lambda question, answer: json.dumps(
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
    )
    rows = [talk(f"Hi{'?' * (n % 5)}", "the") for n in range(320)]
    rows += [
        talk("long " * 60, "the"),
        talk("", ""),
        '{"messages": 3}',
    ]  # too long, and two that cannot be learned from
    (folder / "talk.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "run.gin").write_text(GIN.format(folder=folder))
    return folder


def ids(folder) -> list[int]:
    """That end a text and an answer."""
    added = {
        token["content"]: token["id"] for token in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    }
    return [added["<|endoftext|>"], added["<|endofresponse|>"]]


def train(folder, *flags: str) -> int:
    return main(["train", f"--gin_file={folder / 'run.gin'}", *flags])


SYSTEM = f'--gin_bindings=DataConfig.default_system = "{HELPFUL}"'


def test_a_dry_run_says_what_is_learned(sft, capfd):
    assert train(sft, "--dry_run") == 0
    out = capfd.readouterr().out
    assert f"it gives the system message '{HELPFUL}' to conversations without one" in out
    assert f"DataConfig.default_system = '{HELPFUL}' does so too" in out
    head, line = (line for line in out.splitlines() if line.startswith("learned ") or "sft: talk" in line)
    assert head.split()[1:] == ["conversations", "text", "tokens", "longest", "learned", "left", "out"]
    assert "321" in line.split() and "1 longer than a sequence" in line and "every answer is empty" in line
    assert "2.00" in out  # epochs
    assert train(sft, "--dry_run", SYSTEM) == 0
    assert "warning     the chat template" not in capfd.readouterr().out


@pytest.mark.parametrize(
    "binding, words",
    [
        (
            f"SamplesConfig.prompts = ('{'x' * 200}',)",
            "tokens, but the model's context is 64, and what follows must fit too",
        ),
        (
            "SamplesConfig.prompts = ('Hi?', '')",
            "SamplesConfig.prompts holds an empty text: say what the model is asked.",
        ),
        ("SamplesConfig.prompts = ()", "SamplesConfig.every_steps is 10, but SamplesConfig.prompts is empty"),
        ("ModelConfig.num_heads = 4", "Set ModelConfig to that model, or start from another checkpoint."),
    ],
)
def test_settings_that_cannot_work(sft, capfd, binding, words):
    assert train(sft, "--dry_run", f"--gin_bindings={binding}") == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert words in line


@pytest.fixture(scope="module")
def trained(sft):
    assert train(sft, f"--workdir={sft / 'run'}", SYSTEM) == 0
    return sft


def samples(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "samples.jsonl").read_text().splitlines()]


def test_samples_are_written_while_it_learns(trained):
    rows = samples(trained / "run")
    last = max(row["step"] for row in rows)
    steps = sorted({*range(0, last + 1, 10), last})
    assert [(row["step"], row["prompt"]) for row in rows] == [(s, p) for s in steps for p in ("Hi?", "How are you?")]
    assert rows[0]["text"] != rows[-2]["text"] == "the" and rows[-2]["finish_reason"] == "stop"


@pytest.mark.slow
def test_a_run_that_is_stopped_writes_the_same_samples(trained):
    rows, workdir = samples(trained / "run"), trained / "again"
    assert train(trained, f"--workdir={workdir}", SYSTEM, "--max_steps=12") == 0
    assert {row["step"] for row in samples(workdir)} == {0, 10}
    (workdir / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    assert train(trained, f"--workdir={workdir}", SYSTEM) == 0
    assert samples(workdir)[-2:] == rows[-2:]


def test_what_is_exported_stops_and_speaks_its_template(trained, tmp_path, capfd):
    assert convert("to_hf", trained / "run", tmp_path / "out") == 0
    assert "warning" not in capfd.readouterr().out
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {
        "eos_token_id": ids(tmp_path / "out")
    }
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["chat_template"] == DEFAULT


def test_a_conversation_gets_the_system_message_of_the_run(trained, tmp_path, capfd):
    """Of the run, or as the flag says; another template next to the tokenizer is named."""
    rows = tmp_path / "in.jsonl"
    rows.write_text(json.dumps({"messages": [{"role": "user", "content": "Hi?"}]}) + "\n")

    def said(*flags: str) -> tuple[str, str]:
        out = tmp_path / "out.jsonl"
        command = [
            "generate",
            f"--checkpoint={trained / 'run'}",
            f"--input={rows}",
            f"--output={out}",
            "--temperature=0",
        ]
        assert main([*command, "--max_new_tokens=8", *flags]) == 0
        return json.loads(out.read_text())["text"], capfd.readouterr().err

    text, err = said()
    assert text == "the" and "warning: the chat template" not in err
    _, err = said("--default_system=")
    assert f"--default_system='{HELPFUL}' does so too" in err


@pytest.mark.slow
def test_transformers_stops_after_the_answer(trained, tmp_path):
    """Claim: transformers' generate of a fine-tuned export stops after the answer without any flag."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    assert convert("to_hf", trained / "run", tmp_path / "out", "--dtype=float32") == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    question = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    new = model.generate(**question, do_sample=False, max_new_tokens=30)[0, question["input_ids"].shape[1] :].tolist()
    assert new[-1] == ids(tmp_path / "out")[1] and len(new) < 30
    assert tokenizer.decode(new, skip_special_tokens=True) == "the"
