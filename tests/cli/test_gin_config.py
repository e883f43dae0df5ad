"""Gin files: what is accepted, what is refused, and in which words."""

import dataclasses
import re

import pytest

from dots_jax import config
from dots_jax.cli import gin_config
from dots_jax.cli.execute import execute
from dots_jax.cli.options import RunOptions
from dots_jax.config import EvalConfig, ModelConfig, TrainConfig, UserError

RUN = """
TrainConfig.model = @ModelConfig()
TrainConfig.stages = (@first/Stage(), @second/Stage())
TrainConfig.optimizer = @OptimizerConfig()
LR = 3e-4
MODEL_SIZE = 32
ModelConfig.hidden_size = %MODEL_SIZE
ModelConfig.num_layers = 4
Stage.mixture = 'text'
Stage.seq_len = 256
Stage.tokens = 2_048_000
Stage.learning_rate_start = %LR
Stage.learning_rate_end = %LR
Stage.batch_tokens = ((0, 1024), (4096, 2048))
first/Stage.name = 'first'
second/Stage:
    name = 'second'
    tokens = 4096
    batch_tokens = [[0, 1024]]
"""


@pytest.fixture
def run_gin(tmp_path):
    path = tmp_path / "run.gin"
    path.write_text(RUN)
    return path


def error_of(capsys, *arguments) -> str:
    """Runs a command that must fail as the user should see it: status 2, one line on stderr, nothing on stdout."""

    def load(options):
        gin_config.load(TrainConfig, options)
        raise AssertionError("the command ran")

    status = execute(RunOptions, load, "", list(map(str, arguments)))
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert "the command ran" not in err
    return err.removeprefix("error: ").rstrip()


# --- what is accepted ---------------------------------------------------------------------------------------------


def test_builds_the_config(run_gin):
    built, _, _ = gin_config.build(TrainConfig, [str(run_gin)], ["ModelConfig.num_layers = 3", "TrainConfig.seed = 7"])
    assert type(built) is TrainConfig
    assert built.model == ModelConfig(num_layers=3, hidden_size=32)  # the command line wins
    assert built.seed == 7
    assert [stage.name for stage in built.stages] == ["first", "second"]
    assert built.stages[0].tokens == 2_048_000
    assert built.stages[1].batch_tokens == ((0, 1024),)  # a scope wins over none, and lists become tuples
    assert built.stages[1].learning_rate_start == 3e-4
    assert built.compute == config.ComputeConfig()


@pytest.mark.parametrize("overrides", [[], ["TrainConfig.seed = 7", "second/Stage.tokens = 8192"]])
def test_both_saved_texts_build_the_same_config(run_gin, tmp_path, overrides):
    (tmp_path / "more.gin").write_text("include 'run.gin'\nMODEL = @small/ModelConfig()\n"
                                       "TrainConfig.model = %MODEL\nsmall/ModelConfig.num_heads = 2\n"
                                       "TrainConfig.data = @DataConfig()\n"
                                       f"DataConfig.cache_dir = '{'long ' * 60}'\n")  # fmt: skip
    built, gin_text, operative_text = gin_config.build(TrainConfig, [str(tmp_path / "more.gin")], overrides)
    assert built.model == ModelConfig(num_layers=4, hidden_size=32, num_heads=2)
    for text in (gin_text, operative_text):
        saved = tmp_path / "elsewhere" / "saved.gin"
        saved.parent.mkdir(exist_ok=True)
        saved.write_text(text)
        again, gin_text_again, operative_text_again = gin_config.build(TrainConfig, [str(saved)])
        assert again == built
        assert operative_text_again == operative_text
        assert gin_config.build(TrainConfig, [str(saved)], ["TrainConfig.seed = 99"])[0].seed == 99
    assert "ModelConfig.rope_theta = 10000000.0" in operative_text  # defaults too


def test_include_looks_beside_the_file_and_then_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "run.gin").write_text(RUN + "include 'b/more.gin'  # comment\nTrainConfig.log_every = 5\n")
    (tmp_path / "a" / "b" / "more.gin").write_text("include 'a/b/seed.gin'\nTrainConfig.log_every = 3\n")
    (tmp_path / "a" / "b" / "seed.gin").write_text("TrainConfig.seed = 3")
    monkeypatch.chdir(tmp_path)
    built, text, _ = gin_config.build(TrainConfig, ["a/run.gin"])
    assert (built.seed, built.log_every) == (3, 5)
    assert "include" not in text


def test_files_of_the_package_are_found_by_name(tmp_path, monkeypatch, repo_root, capsys):
    """From any folder, in includes too; a file of that name where the command runs comes first."""
    monkeypatch.chdir(tmp_path)
    expected, _, _ = gin_config.build(TrainConfig, [str(repo_root / "gin" / "tiny.gin")])
    assert gin_config.build(TrainConfig, ["tiny.gin"])[0] == expected
    (tmp_path / "mine.gin").write_text("include 'tiny.gin'\nTrainConfig.seed = 7\n")
    assert gin_config.build(TrainConfig, ["mine.gin"])[0] == dataclasses.replace(expected, seed=7)
    (tmp_path / "tiny.gin").write_text(RUN)
    assert gin_config.build(TrainConfig, ["tiny.gin"])[0] != expected
    assert error_of(capsys, "--gin_file=tinny_bpe.gin", "--workdir=w").endswith("did you mean tiny_bpe.gin?")


def test_files_of_other_editors_and_in_the_home_folder(run_gin, tmp_path, monkeypatch):
    expected = gin_config.build(TrainConfig, [str(run_gin)])[0]
    (tmp_path / "bom.gin").write_bytes(b"\xef\xbb\xbf" + RUN.replace("\n", "\r\n").encode())
    built, text, _ = gin_config.build(TrainConfig, [str(tmp_path / "bom.gin")])
    assert built == expected and "\ufeff" not in text
    monkeypatch.setenv("HOME", str(tmp_path))
    assert gin_config.build(TrainConfig, [], ["include '~/bom.gin'"])[0] == expected


def test_files_in_order_then_bindings(run_gin, tmp_path):
    (tmp_path / "two.gin").write_text("TrainConfig.seed = 2\nTrainConfig.log_every = 2")
    built, _, _ = gin_config.build(TrainConfig, [str(run_gin), str(tmp_path / "two.gin")], ["TrainConfig.seed = 3"])
    assert (built.seed, built.log_every) == (3, 2)


def test_an_override_may_leave_settings_of_the_file_unread(run_gin):
    """A list of stages made shorter, a macro replaced by a number: the file's own settings are no mistakes."""
    overrides = ["TrainConfig.stages = (@first/Stage(),)", "ModelConfig.hidden_size = 64"]
    built, text, operative_text = gin_config.build(TrainConfig, [str(run_gin)], overrides)
    assert [stage.name for stage in built.stages] == ["first"] and built.model.hidden_size == 64
    for saved in (text, operative_text):
        assert gin_config.build(TrainConfig, [], [saved])[0] == built


def test_gin_holds_nothing_afterwards(run_gin):
    gin_config.build(TrainConfig, [str(run_gin)], ["TrainConfig.seed = 7"])
    assert gin_config.build(TrainConfig, [str(run_gin)])[0].seed == 0
    assert config.OptimizerConfig() == config.OptimizerConfig(beta1=0.9)


@pytest.mark.parametrize("name", ["tiny", "tiny_bpe", "eval_tiny"])
def test_shipped_run_files(repo_root, name):
    path = repo_root / "gin" / f"{name}.gin"
    built, _, _ = gin_config.build(EvalConfig if name.startswith("eval") else TrainConfig, [str(path)])
    header = path.read_text().split("\n\n")[0]
    assert re.search(r"python -m dots_jax\.\w+ --gin_file=gin/" + name, header) and "Hardware:" in header
    if name == "tiny":
        shapes = [stage.learning_rate_shape for stage in built.stages]
        assert shapes[0] == shapes[-1] == "constant" and len(set(s.mixture for s in built.stages)) > 1
        assert len(built.stages[0].batch_tokens) > 1 and built.stages[0].warmup_steps > 0
        assert built.stages[-1].seq_len > built.stages[0].seq_len
        assert built.log_every == 1


def test_shipped_model_file_is_the_preset(repo_root):
    stages = RUN.replace("ModelConfig.hidden_size = %MODEL_SIZE\nModelConfig.num_layers = 4\n", "")
    stages = stages.replace("MODEL_SIZE = 32\n", "")
    built, _, _ = gin_config.build(TrainConfig, [str(repo_root / "gin/models/dots_llm1.gin")], [stages])
    assert built.model == config.dots_llm1()


# --- what is refused ----------------------------------------------------------------------------------------------

BAD_BINDINGS = {
    "unknown parameter": ("ModelConfig.num_layer = 3", "ModelConfig has no setting num_layer; did you mean num_layers?"),
    "unknown class": ("ModlConfig.num_layers = 3", "there is no ModlConfig; did you mean ModelConfig?"),
    "unknown class far off": ("Zebra.stripes = 3", "there is no Zebra; there are BalanceConfig, "),
    "qualified class": ("dots_jax.config.ModelConfig.num_layers = 3", "there is no dots_jax.config.ModelConfig"),
    "undefined macro": ("TrainConfig.seed = %MODEL_SISE", "%MODEL_SISE is not defined; did you mean %MODEL_SIZE?"),
    "macro in a tuple": ("Stage.batch_tokens = ((0, %Zebra),)", "%Zebra is not defined; define it, as in `Zebra = ...`"),
    "unused macro": ("MODEL_SISE = 3", "nothing uses the macro MODEL_SISE: use it as %MODEL_SISE"),
    "unused scope": ("secnd/Stage.tokens = 4096", "nothing uses secnd/Stage.tokens; did you mean second/Stage?"),
    "unused deeper scope": ("second/more/Stage.tokens = 4096", "nothing uses second/more/Stage.tokens"),
    "section not wired": ("MeshConfig.expert = 2", "nothing uses MeshConfig.expert: add `TrainConfig.mesh = @MeshConfig()`"),
    "another command's class": ("EvalConfig.seq_len = 4", "nothing uses EvalConfig.seq_len"),
    "scoped root": ("x/TrainConfig.seed = 4", "nothing uses x/TrainConfig.seed; did you mean TrainConfig?"),
    "string for int": ("ModelConfig.num_layers = 'sixty-two'", "ModelConfig.num_layers must be an integer, but is 'sixty-two'"),
    "float for int": ("Stage.warmup_steps = 2000.5", "Stage.warmup_steps must be an integer, but is 2000.5 (float)"),
    "None for int": ("TrainConfig.seed = None", "TrainConfig.seed must be an integer, but is None"),
    "string for float": ("LR = '3e-4'", "Stage.learning_rate_start must be a number, but is '3e-4'"),
    "wrong class": ("TrainConfig.model = @OptimizerConfig()", "TrainConfig.model must be ModelConfig"),
    "no parentheses": ("TrainConfig.model = @ModelConfig", "@ModelConfig needs parentheses: @ModelConfig()"),
    "unknown reference": ("TrainConfig.model = @Model()", "there is no Model"),
    "missing": ("TrainConfig.stages = (@OptimizerConfig(), @third/Stage())", "third/Stage.name has no default and is not set"),
    "old name": (
        "ComputeConfig.exchange = 'weights'",
        "ComputeConfig.exchange is now ComputeConfig.expert_strategy: write `ComputeConfig.expert_strategy = 'gather_weights'`.",
    ),
    "old name, scope": (
        "a/ComputeConfig.kept_on_host = 'inputs+hidden'",
        "write `a/ComputeConfig.offload_activations = ('layer_input', 'expert_ffn_hidden')`.",
    ),
    "old name, nothing": ("ComputeConfig.kept_on_host = ''", "write `ComputeConfig.offload_activations = ()`."),
    "old name, macro": ("ComputeConfig.expert_buffer = %LR", "expert_buffer is now ComputeConfig.expert_capacity_factor."),
    "circle": ("A = %A\nTrainConfig.seed = %A", "define A by way of itself"),
    "no quotes": ("TrainConfig.validation = (python,)", "python is not a valid value: quote strings, as in 'python'"),
    "number and letter": ("TrainConfig.seed = 3x", "3x"),
    "true": ("ComputeConfig.offload_optimizer = true", "true is not a valid value: use True."),
    "null": ("TrainConfig.seed = null", "null is not a valid value: use None."),
    "no value": ("TrainConfig.seed =", "cannot read `TrainConfig.seed =`"),
    "no equals": ("TrainConfig.seed", "expected ':' or '='"),
    "arithmetic": ("TrainConfig.seed = 2 ** 3", "cannot read `TrainConfig.seed = 2 ** 3`"),
    "open bracket": ("TrainConfig.stages = (@first/Stage(),", "a bracket or quote is never closed"),
    "import": ("import os", "gin files hold settings, not imports"),
    "python module": ("from __gin__ import dynamic_registration", "gin files hold settings, not imports"),
    "constructor check": ("ModelConfig.num_layers = 1", "ModelConfig.num_layers must be at least 2"),
    "batch": ("Stage.batch_tokens = ((0, 1000),)", "a batch of 1000 tokens is not a multiple of seq_len (256)"),
    "missing include": ("include 'nowhere.gin'", "There is no gin file nowhere.gin."),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_BINDINGS)
def test_bad_bindings(run_gin, capsys, case):
    binding, expected = BAD_BINDINGS[case]
    sentence = error_of(capsys, f"--gin_file={run_gin}", f"--gin_bindings={binding}", "--workdir=w")
    assert expected in sentence


@pytest.mark.parametrize(
    "line, expected",
    [
        ("ModelConfig.num_layer = 3", "ModelConfig has no setting num_layer; did you mean num_layers?"),
        ("TrainConfig.seed = %SEED", "the macro %SEED is not defined"),
        ("third/Stage.tokens = 3", "nothing uses third/Stage.tokens"),
        ("ModelConfig.num_layers = 62.5", "ModelConfig.num_layers must be an integer"),
        ("ModelConfig.num_layers == 62", "cannot read `ModelConfig.num_layers == 62`"),
        ("import os", "gin files hold settings"),
    ],
)
def test_errors_in_a_file_say_where(run_gin, capsys, line, expected):
    lines = RUN.split("\n")
    run_gin.write_text("\n".join([*lines[:7], line, *lines[7:]]) if "num_layers" not in line else RUN + line)
    number = 8 if "num_layers" not in line else RUN.count("\n") + 1
    sentence = error_of(capsys, f"--gin_file={run_gin}", "--workdir=w")
    assert sentence.startswith(f"{run_gin}:{number}: ") and expected in sentence


def test_missing_files(run_gin, capsys):
    assert error_of(capsys, "--workdir=w").startswith("Missing --gin_file")
    near, folder = run_gin.parent / "rum.gin", run_gin.parent
    assert error_of(capsys, f"--gin_file={near}") == f"There is no gin file {near}; did you mean {run_gin}?"
    assert "cannot be read: Is a directory" in error_of(capsys, f"--gin_file={folder}")


def test_files_for_another_command(run_gin, tmp_path, capsys):
    (tmp_path / "eval.gin").write_text("EvalConfig.seq_len = 256")
    sentence = error_of(capsys, f"--gin_file={tmp_path / 'eval.gin'}", "--workdir=w")
    assert "set nothing of TrainConfig" in sentence and "They set EvalConfig" in sentence
    with pytest.raises(UserError, match="set nothing of EvalConfig"):
        gin_config.build(EvalConfig, [str(run_gin)])


def test_include_circle_and_binary(tmp_path, capsys):
    (tmp_path / "a.gin").write_text("include 'b.gin'")
    (tmp_path / "b.gin").write_text("include 'a.gin'")
    assert "includes itself" in error_of(capsys, f"--gin_file={tmp_path / 'a.gin'}", "--workdir=w")
    (tmp_path / "c.gin").write_bytes(b"\xff\xfe\x00")
    assert "it is not UTF-8 text" in error_of(capsys, f"--gin_file={tmp_path / 'c.gin'}", "--workdir=w")
