"""What a user may get wrong: one sentence that says what to do, exit status 2, before anything is compiled or lost."""

import os
import shutil
import types

import jax
import pytest
import seqio
from small_run import NUM_STEPS

from dots_jax.data.sources.text_task import register_text_task
from dots_jax.training import loop, preflight, resume

PROFILE = "TrainConfig.profile = @ProfileConfig()"


@pytest.fixture
def refusal(workdir, capfd, monkeypatch):
    """Runs a command that must be refused; returns its one line."""

    def must_not_compile(*_, **__):
        raise AssertionError("it came to a compilation")

    monkeypatch.setattr(loop, "jit_train_step", must_not_compile)
    monkeypatch.setattr(resume, "first_state", must_not_compile)

    def run(*bindings, flags=(), command=workdir.train):
        capfd.readouterr()
        assert command(*bindings, flags=flags) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert (
            line.startswith("error: ")
            and line.endswith((".", "?"))
            and "Error" not in line
            and "compilation" not in line
        )
        return line.removeprefix("error: ")

    return run


@pytest.fixture(scope="module", autouse=True)
def odd_tasks():
    register_text_task("small_empty", {"train": [], "validation": ["some text"]})
    register_text_task("small_blank", {"train": ["", ""], "validation": []})
    register_text_task("small_wide", {"train": ["text"], "validation": ["text"]}, seqio.ByteVocabulary(extra_ids=100))
    if "small_with_empty" not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add("small_with_empty", [("small_prose", 0.5), ("small_empty", 0.5)])
    yield


@pytest.mark.parametrize(
    "bindings, words",
    [
        # data
        (["stable/Stage.mixture = 'small_plane'"], "No seqio mixture or task is named 'small_plane': known mixtures are"),
        (["long/Stage.mixture = 'nothing'"], "No seqio mixture or task is named 'nothing'"),  # the last stage, at once
        (["stable/Stage.mixture = 'small_empty'"], "Task 'small_empty' has no documents in its split 'train'"),
        (["stable/Stage.mixture = 'small_blank'"], "has only empty documents in its split 'train'"),
        (["long/Stage.mixture = 'small_with_empty'"], "Task 'small_empty' has no documents"),
        (["stable/Stage.mixture = 'small_wide'"], "has 359 ids, but ModelConfig.vocab_size is 259: raise it,"),
        (["TrainConfig.validation = ('small_pros',)"], "No seqio task is named 'small_pros'"),
        (["TrainConfig.validation = ('small_blank',)"], "has no documents in its split 'validation'"),
        (["TrainConfig.validation = ('small_wide',)"], "TrainConfig.validation: the vocabulary of small_wide has 359 ids"),
        (["DataConfig.tasks_modules = ('no_such_module',)"], "names 'no_such_module', which is no Python module here."),
        (["DataConfig.cache_dir = '/dev/null/cache'"], "cannot be written under /dev/null/cache"),
        # devices
        (["MeshConfig.fsdp = 16"], "needs 16 devices, but there are 8: make an axis smaller"),
        (["MeshConfig.data = 3", "MeshConfig.fsdp = -1"], "cannot use 8 devices: 8 is not a multiple of 3."),
        (["MeshConfig.context = 3"], "sequences of 32 tokens cannot be split over MeshConfig.context = 3"),
        (["MeshConfig.expert = 8", "ModelConfig.num_experts = 12"], "num_experts (12) must be a multiple of"),
        (["MeshConfig.fsdp = 3"], "8 sequences of 32, which cannot be split over 3 of the devices"),
        (["MeshConfig.fsdp = 8", "stable/Stage.microbatch_tokens = 128"], "4 sequences of 32, which cannot be split over"),
        # shapes
        (["long/Stage.seq_len = 128"], "seq_len 128 is longer than ModelConfig.max_seq_len 64"),
        (["stable/Stage.batch_tokens = ((0, 100),)"], "a batch of 100 tokens is not a multiple of seq_len (32)."),
        (["stable/Stage.tokens = 0"], "tokens or epochs must be above 0, to say how long the stage is."),
        (["stable/Stage.warmup_steps = 2000.5"], "must be an integer, but is 2000.5"),
        (["ModelConfig.num_layers = 'three'"], "must be an integer, but is 'three'"),
        (["TrainConfig.stages = ()"], "must hold at least one Stage."),
        # periodic work
        (["TrainConfig.validate_every = 5"], "validate_every is 5, but TrainConfig.validation names no task"),
        (["TrainConfig.validate_every = -1"], "TrainConfig.validate_every must not be negative, but is -1."),
        ([PROFILE, "ProfileConfig.num_steps = -1"], "ProfileConfig.num_steps must not be negative, but is -1."),
        ([PROFILE, "ProfileConfig.first_step = 0"], "ProfileConfig.first_step must be above 0, but is 0."),
        ([PROFILE, "ProfileConfig.num_steps = 2", "ProfileConfig.first_step = 41"], "41, but the run has 40 steps"),
    ],
)  # fmt: skip
def test_refused_before_anything_is_compiled(refusal, workdir, bindings, words):
    assert words in refusal(*bindings)
    left = os.listdir(workdir.path) if workdir.path.exists() else []
    assert left == []


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--max_steps=0"], "max_steps"),
        (["--max_steps=-5"], "max_steps"),
        (["--max_steps=ten"], "max_steps"),
        (["--max_step=10"], "did you mean --max_steps?"),
        (["--distributed=here"], "--distributed must be auto or ADDRESS:PORT,PROCESS,PROCESSES"),
        (["--distributed=127.0.0.1:1,two,2"], "--distributed must be auto or ADDRESS:PORT,PROCESS,PROCESSES"),
        (["--distributed=127.0.0.1:1,2,2"], "--distributed"),
        (["--distributed=nowhere,0,1"], "--distributed must be auto or ADDRESS:PORT,PROCESS,PROCESSES"),
        (["--devices=8"], "--devices must be PLATFORM:NUMBER, as in tpu:128, but is 8."),
        (["--devices=tpu:8"], "--devices=tpu:8, but this run has 8 cpu device(s), of 1 process(es)"),
        (["--devices=cpu:4", "--exit_codes"], "--devices=cpu:4, but this run has 8 cpu device(s)"),
    ],
)
def test_flags_that_cannot_be(refusal, flags, words):
    assert words in refusal(flags=flags)


def test_full_disk(refusal, workdir, monkeypatch):
    usage = types.SimpleNamespace(total=2**30, used=2**30 - 1000, free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    line = refusal()
    assert f"the disk of {workdir.path} has 1,000 B left" in line and "free some space" in line


@pytest.mark.parametrize("where", ["file", "below a file", "/proc"])
def test_workdir_that_cannot_be_written(refusal, workdir, tmp_path, where):
    (tmp_path / "file").write_text("mine")
    workdir.path = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "run", "/proc": "/proc/run"}[where]
    assert "cannot be written (" in refusal()
    assert (tmp_path / "file").read_text() == "mine"


def test_nothing_in_the_workdir_is_lost(workdir, monkeypatch, capfd):
    assert workdir.train(flags=("--max_steps=5",)) == 0
    files = {path: path.read_bytes() for path in workdir.path.rglob("*") if path.is_file()}
    wrong = (
        "ModelConfig.hidden_size = 32", "stable/Stage.mixture = 'nothing'", "stable/Stage.seq_len = 16",
        "MeshConfig.fsdp = 16", "stable/Stage.mixture = 'small_mixed'",
        "TrainConfig.seed = 1",
    )  # fmt: skip
    for binding in wrong:
        assert workdir.train(binding) == 2
        assert {path: path.read_bytes() for path in workdir.path.rglob("*") if path.is_file()} == files, binding
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=0))
    assert workdir.train() == 2
    assert {path: path.read_bytes() for path in workdir.path.rglob("*") if path.is_file()} == files


def test_dry_run_says_all_and_writes_nothing(workdir, capfd, monkeypatch):
    monkeypatch.setattr(preflight, "Checkpoints", None)
    assert workdir.train(flags=("--dry_run",)) == 0
    out, err = capfd.readouterr()
    assert err == ""
    for words in (
        "parameters  27,136, 17,920 active per token",
        "mesh        data 1 x fsdp 1 x expert 1 x context 1: 1 cpu device(s)",
        f"{NUM_STEPS} steps",
    ):
        assert words in out
    for name in ("stable", "anneal", "long"):
        assert any(line.split()[:1] == [name] for line in out.replace("stages", "").splitlines())
    assert not workdir.path.exists()


@pytest.mark.parametrize(
    "binding, words",
    [
        ("stable/Stage.mixture = 'nowhere'", "No seqio mixture or task is named 'nowhere'"),
        ("TrainConfig.validation = ('nowhere',)", "No seqio task is named 'nowhere'"),
        ("ModelConfig.vocab_size = 100", "has 259 ids, but ModelConfig.vocab_size is 100"),
    ],
)
def test_a_dry_run_checks_the_names(workdir, capfd, binding, words):
    assert workdir.train(binding, flags=("--dry_run",)) == 2
    assert words in capfd.readouterr().err
    assert not workdir.path.exists()


def test_a_bug_is_one_line_too_and_debug_shows_where(workdir, capfd, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a bug\nof ours")

    monkeypatch.setattr(preflight, "check_disk", broken)
    assert workdir.train() == 2
    assert capfd.readouterr().err.splitlines() == ["error: ZeroDivisionError: a bug of ours (add --debug to see where)"]
    assert workdir.train(flags=("--debug",)) == 2
    err = capfd.readouterr().err
    assert "Traceback" in err and "in broken" in err
    assert workdir.train(flags=("--exit_codes",)) == 1  # whatever starts it again may try: not every bug hits twice
    assert jax.process_count() == 1


# --- the eval command -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bindings, words",
    [
        ([], "There is no folder"),
        (["EvalConfig.checkpoint = 'newest'"], "must be 'latest', 'all' or a step number, but is 'newest'."),
        (["EvalConfig.tasks = ()"], "must name at least one task."),
        (["EvalConfig.batch_tokens = 100"], "is not a multiple of seq_len (32)."),
    ],
)
def test_eval_without_a_run(refusal, workdir, bindings, words):
    assert words in refusal(*bindings, command=workdir.evaluate)
    assert not workdir.path.exists()
