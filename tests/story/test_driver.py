"""The driver of `make story`: it goes on where it stopped, refuses a second run, and says what is missing."""

import errno
import json
import os

import pytest

from benchmarks.story import driver
from benchmarks.story.driver import run
from benchmarks.story.steps import Step
from dots_jax.config import UserError
from dots_jax.locks import owned


def step(name, marks="1", needs=(), left_out=""):
    """It adds marks to NAME.txt each time it runs, and fails where the folder has a file `bad`."""

    def command(at):
        code = f"p = __import__('pathlib').Path({str(at)!r}); (p / '{name}.txt').open('a').write('{marks}')"
        return ["timeit", "-n1", "-r1", f"{code}; (p / 'bad').exists() and 1 / 0"]

    return Step(name, name, command, (f"{name}.txt",), (), needs, left_out)


def test_a_failed_step_is_one_sentence_and_the_next_start_goes_on_there(tmp_path, capsys):
    """Claim: a story that stopped goes on with the step at which it was; what is done is not done again."""
    steps = [step("first"), step("second")]
    run(steps[:1], tmp_path)
    (tmp_path / "bad").touch()
    with pytest.raises(UserError, match="The step second ended with status 1; its last words are in .*second.log"):
        run(steps, tmp_path)
    (tmp_path / "bad").unlink()
    run(steps, tmp_path)
    assert (tmp_path / "first.txt").read_text() == "1"  # ran once
    assert (tmp_path / "second.txt").read_text() == "11"  # goes on with what it has
    marker = json.loads((tmp_path / "steps" / "second.json").read_text())
    assert marker["finished"] and marker["cost"]["starts"] == 2
    run(steps, tmp_path)
    assert (tmp_path / "second.txt").read_text() == "11" and "second: done before" in capsys.readouterr().out


def test_changed_inputs_make_a_step_and_all_after_it_anew(tmp_path, capsys):
    run([step("first"), step("second")], tmp_path)
    run([step("first", marks="2"), step("second")], tmp_path)
    assert (tmp_path / "first.txt").read_text() == "2" and (tmp_path / "second.txt").read_text() == "1"
    assert "second: its inputs changed, so what it made is removed" in capsys.readouterr().out


def test_a_second_run_at_once_is_refused(tmp_path):
    with owned(tmp_path, "the story"), pytest.raises(UserError, match="the story"):
        run([step("first")], tmp_path)
    assert not (tmp_path / "first.txt").exists()


def test_a_missing_package_leaves_its_step_out_by_name(tmp_path, capsys):
    run([step("first", needs=("json", "no_such_package")), step("second")], tmp_path)
    said = "first: left out, the optional package no_such_package is not installed: pip install no_such_package"
    assert said in capsys.readouterr().out
    assert "skipped" in json.loads((tmp_path / "steps" / "first.json").read_text())
    assert (tmp_path / "second.txt").exists() and not (tmp_path / "first.txt").exists()


def test_a_form_of_the_story_names_what_it_leaves_out(tmp_path, capsys):
    """The short form has no time for a step: it says so, and the complete story runs it afterwards."""
    run([step("first", left_out="the short form has no time for it")], tmp_path)
    assert "first: left out, the short form has no time for it" in capsys.readouterr().out
    assert not (tmp_path / "first.txt").exists()
    run([step("first")], tmp_path)
    assert (tmp_path / "first.txt").read_text() == "1"


def test_a_full_disk_is_said_before_a_step_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "LEAST_FREE", 1 << 60)
    with pytest.raises(UserError, match="MiB are free on its disk.*it goes on here"):
        run([step("first")], tmp_path)
    assert not (tmp_path / "first.txt").exists()


def test_a_step_that_fills_the_disk_is_one_sentence_and_is_taken_up_again(tmp_path, monkeypatch):
    (tmp_path / "bad").touch()
    monkeypatch.setattr(driver, "LEAST_FREE", 0)
    monkeypatch.setattr(driver, "NO_ROOM", 1 << 60)
    with pytest.raises(
        UserError, match="The step first ended with status 1. .*MiB are free on its disk.*it goes on here"
    ):
        run([step("first")], tmp_path)
    monkeypatch.undo()
    (tmp_path / "bad").unlink()
    run([step("first")], tmp_path)
    assert (tmp_path / "first.txt").read_text() == "11"


def test_a_disk_that_refuses_the_drivers_own_files_is_one_sentence(tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(driver, "write_text", no_space)
    with pytest.raises(UserError, match="No space left on device. Start the story again, and it goes on here."):
        run([step("first")], tmp_path)
