"""The profiler window: which steps are traced, that a trace is always closed, and what is said about it."""

import gzip
import json

import jax

from dots_jax.training import hooks

WINDOW = ("TrainConfig.profile = @ProfileConfig()", "ProfileConfig.first_step = 3", "ProfileConfig.num_steps = 3")


def traces(workdir) -> list[list[int]]:
    """Of each trace, as the profile plugin of TensorBoard finds it: the steps in it."""
    found = []
    for path in sorted(workdir.path.glob("profile/plugins/profile/*/*.xplane.pb")):
        (file,) = path.parent.glob("*.trace.json.gz")
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
        steps = {int(event["args"]["step_num"]) for event in events if "step_num" in event.get("args", {})}
        found.append(sorted(steps))
    return found


def said(capfd) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("profile ")]


def test_a_window_of_steps(workdir, capfd):
    assert workdir.train(*WINDOW, flags=("--max_steps=7",)) == 0
    folder = workdir.path / "profile"
    assert said(capfd) == [f"profile     steps 3 to 5 in {folder}: tensorboard --logdir {folder}"]
    assert traces(workdir) == [[3, 4, 5]]
    plain = workdir.another("plain")
    assert plain.train(flags=("--max_steps=7",)) == 0
    assert plain.history() == workdir.history() and not (plain.path / "profile").exists()
    assert said(capfd) == []


def test_a_window_that_runs_stop_in(workdir, capfd):
    """--max_steps ends before the window does; the run that resumes traces the rest, and the next one says that it does not."""
    assert workdir.train(*WINDOW, flags=("--max_steps=4",)) == 0
    assert "steps 3 to 4 in" in said(capfd)[0]
    assert workdir.train(*WINDOW, flags=("--max_steps=6",)) == 0
    assert "steps 5 to 5 in" in said(capfd)[0]
    assert sorted(traces(workdir)) == [[3, 4], [5]]
    assert workdir.train(*WINDOW, flags=("--max_steps=7",)) == 0
    assert said(capfd) == ["profile     nothing traced: steps 3 to 5 were not among the steps of this process"]


def test_a_run_that_fails_closes_its_trace(workdir, monkeypatch, tmp_path):
    monkeypatch.setattr(hooks.Profile, "after", lambda profile, step: step < 4 or 1 / 0)
    assert workdir.train(*WINDOW) == 2
    assert len(traces(workdir)) == 1
    jax.profiler.start_trace(tmp_path / "another")  # an error if one were open
    jax.profiler.stop_trace()


def test_a_trace_in_a_bucket(tmp_path):
    """The profiler writes local files, which are then copied, folders and all."""
    source, target = tmp_path / "scratch", tmp_path / "bucket" / "profile"
    (source / "plugins" / "profile" / "2026").mkdir(parents=True)
    (source / "plugins" / "profile" / "2026" / "host.xplane.pb").write_bytes(b"trace")
    hooks._copy_files(hooks.folder(str(source)), hooks.folder(str(target)))
    assert (target / "plugins" / "profile" / "2026" / "host.xplane.pb").read_bytes() == b"trace"
