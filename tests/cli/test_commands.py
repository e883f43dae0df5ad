"""The commands: their flags, their help, and what a wrong command line is told."""

import dataclasses
import subprocess
import sys

import pytest

from dots_jax.cli import eval as eval_command
from dots_jax.cli import generate, options, score
from dots_jax.cli.arguments import parse
from dots_jax.cli.execute import execute
from dots_jax.cli.main import COMMANDS, main
from dots_jax.config import UserError

RUN = """
TrainConfig.model = @ModelConfig()
TrainConfig.stages = (@Stage(),)
Stage.name = 'only'
Stage.mixture = 'text'
Stage.seq_len = 256
Stage.tokens = 4096
Stage.learning_rate_start = 1e-3
Stage.learning_rate_end = 1e-3
Stage.batch_tokens = ((0, 1024),)
"""


@pytest.fixture
def run_gin(tmp_path):
    path = tmp_path / "run.gin"
    path.write_text(RUN)
    return path


def refusal(capfd, *words: str) -> str:
    """The one line of a command that must be refused, with status 2 and nothing on stdout."""
    assert main(list(words)) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and err.rstrip()[-1] in ".?"
    return err.removeprefix("error: ").rstrip()


# --- flags ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "--gin_file=a --gin_file=b --workdir=w --max_steps=12 --dry_run --gin_bindings=A.b=-1",
        "--gin_file a --gin_file b --workdir w --max_steps 12 --dry_run=true --gin_bindings A.b=-1",
        "--debug --nodebug --dry_run=1 --workdir=other --gin_file a --gin_file=b --workdir=w --max_steps=12 --gin_bindings A.b=-1",
    ],
)
def test_flags_with_and_without_the_equals_sign(words):
    found = parse(options.RunOptions, "", words.split())
    assert found == options.RunOptions(
        gin_file=("a", "b"), gin_bindings=("A.b=-1",), workdir="w", max_steps=12, dry_run=True
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.workdir = "other"


def test_values_are_not_flags(monkeypatch):
    found = parse(options.EvalOptions, "", ["--workdir", "checkpoints/run", "--gin_file", "scores"])
    assert (found.workdir, found.gin_file, found.checkpoint) == ("checkpoints/run", ("scores",), None)
    found = parse(
        options.GenerateOptions, "", ["--prompt", "--- a list", "--stop=", "--stop", "-", "--temperature", "0"]
    )
    assert (found.prompt, found.stop, found.temperature) == ("--- a list", ("", "-"), 0.0)
    with pytest.raises(
        UserError, match="--prompt needs a value, but --chat follows: if that is meant, write --prompt=--chat"
    ):
        parse(options.GenerateOptions, "", ["--prompt", "--chat"])
    assert parse(options.GenerateOptions, "", ["--prompt=--chat"]).prompt == "--chat"


def test_words_stand_anywhere():
    expected = options.ConvertOptions(direction="to_hf", src="a", dst="b", dtype="float32")
    for words in ("to_hf a b --dtype=float32", "--dtype float32 to_hf a b", "to_hf --dtype=float32 a --nodebug b"):
        assert parse(options.ConvertOptions, "", words.split()) == expected


def test_a_tilde_is_the_home_folder(monkeypatch, capfd):
    monkeypatch.setenv("HOME", "/home/me")
    found = parse(options.RunOptions, "", ["--workdir=~/runs/x", "--gin_file", "~/a.gin", "--gin_bindings=A.b = '~'"])
    assert (found.workdir, found.gin_file) == ("/home/me/runs/x", ("/home/me/a.gin",))
    assert found.gin_bindings == ("A.b = '~'",)
    assert parse(options.ConvertOptions, "", ["from_hf", "~", "gs://b/~"]).src == "/home/me"
    assert parse(options.GenerateOptions, "", ["--prompt=~/x"]).prompt == "~/x"
    assert "no home folder ~nowhere-user" in refusal(capfd, "train", "--workdir=~nowhere-user/x")


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("train --max_step=3", "This command has no flag --max_step; did you mean --max_steps?"),
        ("train -max_steps=3", "This command has no flag -max_steps; did you mean --max_steps?"),
        ("train --zebra", "This command has no flag --zebra; --help lists them."),
        ("train --supervised", "--supervised is now --exit_codes."),
        ("plan --supervised", "This command has no flag --supervised; --help lists them."),
        ("train --max_steps=0", "--max_steps must be an integer of at least 1, but is '0'; --help lists the flags."),
        ("train --max_steps -5", "--max_steps must be an integer of at least 1, but is '-5'; --help lists the flags."),
        ("train --max_steps=ten", "--max_steps must be an integer of at least 1, but is 'ten'; --help lists the flags."),
        ("generate --temperature=warm", "--temperature must be a number, but is 'warm'; --help lists the flags."),
        ("generate --top_p=nan", "--top_p must be a number, but is 'nan'; --help lists the flags."),
        ("train --dry_run=maybe", "--dry_run is true or false, but is 'maybe'; --help lists the flags."),
        ("train --workdir", "--workdir needs a value, as in --workdir=...; --help lists the flags."),
        ("train run.gin", "Flags begin with --, but there is 'run.gin' (--help lists them)."),
        ("train", "Missing --workdir: say where the run lives, as in --workdir=runs/tiny."),
        ("train --dry_run", "Missing --gin_file: say what to run, as in --gin_file=gin/tiny.gin."),
        ("eval", "Missing --workdir: say where the run lives, as in --workdir=runs/tiny."),
        ("convert from_hf a", "This command takes DIRECTION SRC DST, but got from_hf a (--help shows more)."),
        ("plan pod --gin_file=gin/tiny.gin", "Missing --topology: say which TPU pod, as in --topology=v5p:8x8x8."),
        ("plan hlo f --topology=v5p:2", "Missing --mesh: it says where the module runs, as in --mesh=data=1,fsdp=16,expert=8."),
        ("plan hlo f --topology=v5p:2 --mesh=data", "--mesh must be axes and sizes, as in data=1,fsdp=16,expert=8, but is data."),
        ("classifier --output=x", "Missing --labels: as in --labels=labels.jsonl."),
        ("classifier --labels=x", "Missing --output: as in --output=runs/quality."),
        ("plan hol f", "dots plan has no subcommand hol; did you mean hlo?"),
        ("trian", "dots has no command trian; did you mean train?"),
        ("zebra", "dots has no command zebra; there are train, eval, evaluate, expert_load, score, generate, rft, convert, curate, "
         "classifier, cache, takedown, inspect_source, fetch_source, tokenizer, plan."),
    ],
)  # fmt: skip
def test_wrong_command_lines(capfd, words, sentence):
    assert refusal(capfd, *words.split()) == sentence


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen_and_shows_an_example(capfd, name):
    assert main([*name.split(), "--help"]) == 0
    out = capfd.readouterr().out
    assert f"    dots {name} " in out and "  --debug" in out
    assert len(out.splitlines()) <= 40 and max(map(len, out.splitlines())) <= 100


def test_help_of_dots(capfd):
    assert main(["--help"]) == 0
    out, _ = capfd.readouterr()
    assert all(f"  {name} " in out for name in COMMANDS) and len(out.splitlines()) <= 40
    assert main([]) == 2 and capfd.readouterr().out == out


# --- old ways to start them -------------------------------------------------------------------------------------------

MODULES = (
    "",
    ".train",
    ".eval",
    ".evaluate",
    ".generate",
    ".convert",
    ".cache",
    ".curate",
    ".plan",
    ".train_tokenizer",
    ".train_classifier",
    ".planning",
    ".fetch_source",
    ".inspect_source",
)


def test_every_module_that_python_runs(monkeypatch, capfd):
    import runpy

    for module in MODULES:
        monkeypatch.setattr(sys, "argv", ["command", "--help"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(f"dots_jax{module or '.__main__'}", run_name="__main__")
        assert ended.value.code == 0 and "    dots " in capfd.readouterr().out


def test_plan_is_chosen_by_its_flags(repo_root, monkeypatch, capfd):
    monkeypatch.chdir(repo_root)
    gin = "--gin_file=gin/tiny.gin"
    for flags, words in (
        (["plan", gin], ["plan", "curriculum", gin]),
        (["plan", gin, "--inference"], ["plan", "serving", gin]),
    ):
        assert main(flags) == 0
        out = capfd.readouterr().out
        assert main(words) == 0 and capfd.readouterr().out == out != ""


# --- two uses of eval, stop strings -------------------------------------------------------------------------------------


def test_eval_of_texts_is_score(monkeypatch, capfd):
    seen = []
    monkeypatch.setattr(score, "main", seen.append)
    assert main("eval --checkpoint=c --score=in --output=out --step=3".split()) == 0
    assert seen == [options.ScoreOptions(checkpoint="c", input="in", output="out", step=3)]
    assert seen[0].batch_size == 16 and eval_command.SCORE_FLAGS
    assert "--gin_file is for tasks and --score for texts" in refusal(capfd, "eval", "--score=in", "--gin_file=a")
    assert "Missing --score" in refusal(capfd, "eval", "--checkpoint=c")


def test_stop_strings():
    for given, meant in (
        (r"\n\n", "\n\n"),
        (r"a\tb", "a\tb"),
        (r"\\n", r"\n"),
        ("a\n", "a\n"),
        ("END", "END"),
        (r"\\\n", "\\\n"),
    ):
        assert generate.unescape(given) == meant
    for wrong, sentence in (("", "--stop is empty"), (r"\d", r"unknown escape \d"), ("end\\", "unknown escape \\")):
        with pytest.raises(UserError) as error:
            generate.unescape(wrong)
        assert sentence in str(error.value)


# --- what goes wrong later ----------------------------------------------------------------------------------------------


def test_status_and_errors_of_the_command_itself(capfd):
    def status_of(result, *words) -> int:
        def command(_):
            if isinstance(result, BaseException):
                raise result
            return result

        return execute(options.RunOptions, command, "", words)

    class RetryableError(UserError):
        retryable = True

    assert status_of(None) == 0 and status_of(5) == 5
    for error, status, sentence in (
        (UserError("The disk is full: free some."), 2, "The disk is full: free some."),
        (RetryableError("They did not meet."), 1, "They did not meet."),
        (ValueError("first line\n  second line"), 1, "ValueError: first line second line (add --debug to see where)"),
        (AssertionError(), 1, "AssertionError (add --debug to see where)"),
    ):
        assert status_of(error) == 2 and status_of(error, "--exit_codes") == status
        assert capfd.readouterr().err == f"error: {sentence}\n" * 2
    assert status_of(KeyboardInterrupt()) == 130 and capfd.readouterr().err == "interrupted\n"
    assert status_of(ValueError("deep"), "--debug") == 2
    err = capfd.readouterr().err
    assert "Traceback" in err and err.rstrip().split("\n")[-1].startswith("error: ValueError: deep")


COMMAND = """
import sys
from dots_jax.cli.execute import execute, load_tensorflow
from dots_jax.cli.gin_config import load
from dots_jax.cli.options import RunOptions
from dots_jax.config import TrainConfig

def main(options):
    config, options = load(TrainConfig, options)
    load_tensorflow(options.debug)  # whose greeting must not reach the user
    import tensorflow
    print(f"seed {config.seed}, {len(options.gin_text) > 100}")

sys.exit(execute(RunOptions, main, "", sys.argv[1:]))
"""


@pytest.mark.subprocess
@pytest.mark.parametrize("binding, status, out, err", [
    ("TrainConfig.seed = 3", 0, "seed 3, True\n", ""),
    ("TrainConfig.sed = 3", 2, "", "error: --gin_bindings: TrainConfig has no setting sed; did you mean seed?\n"),
])  # fmt: skip
def test_as_a_process(run_gin, tmp_path, process_env, binding, status, out, err):
    (tmp_path / "command.py").write_text(COMMAND)
    done = subprocess.run(
        [sys.executable, "command.py", f"--gin_file={run_gin}", "--workdir=w", "--gin_bindings", binding],
        cwd=tmp_path, capture_output=True, text=True, env=process_env,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (status, out, err)


@pytest.mark.subprocess
def test_help_without_docstrings(process_env):
    command = [sys.executable, "-OO", "-m", "dots_jax", "plan", "curriculum", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=process_env)
    assert done.returncode == 0 and "    dots plan curriculum " in done.stdout, done.stderr


@pytest.mark.subprocess
def test_a_reader_that_closes_the_pipe(process_env, repo_root):
    command = [sys.executable, "-m", "dots_jax", "plan", "--gin_file=gin/tiny.gin"]
    process = subprocess.Popen(command, cwd=repo_root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=process_env)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141
    process.stderr.close()


@pytest.mark.subprocess
@pytest.mark.parametrize("flags", [[], ["-OO"]])
def test_a_platform_that_this_machine_lacks(process_env, flags):
    code = "from dots_jax.parallel.distributed import initialize; initialize(None)"
    environment = {**process_env, "JAX_PLATFORMS": "cuda"}
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, env=environment)
    assert "UserError: JAX finds no device with JAX_PLATFORMS=cuda (" in done.stderr


@pytest.mark.subprocess
def test_a_limit_of_addresses_is_named(process_env, repo_root):
    command = f"ulimit -v 4000000; {sys.executable} -m dots_jax plan --gin_file=gin/tiny.gin"
    done = subprocess.run(["bash", "-c", command], cwd=repo_root, capture_output=True, text=True, env=process_env)
    assert done.stderr.startswith("note: ulimit -v allows this process 3.8 GiB of addresses,"), done
    assert done.returncode == 0 and done.stdout.startswith("tokens ")
