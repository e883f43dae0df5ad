"""`dots fetch_source` against a loopback hub: pinned, checked, resumed, and one sentence for what is wrong."""

import json

import pytest

pytest.importorskip("huggingface_hub", reason="huggingface_hub, which `dots fetch_source` needs, is not installed")

from fake_hub import COMMIT, REPO, FakeHub

from dots_jax.cli.main import main
from dots_jax.data.sources import fetch

FILES = {
    "README.md": b"a card",
    "data/zh/0.jsonl": b'{"text": "one"}\n' * 5_000,
    "data/zh/1.jsonl": b'{"text": "two"}\n' * 5_000,
    "data/en/0.jsonl": b'{"text": "three"}\n' * 100,
}


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    with FakeHub(FILES) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def command(output, *flags, revision=COMMIT):
    return main(["fetch_source", f"--repo={REPO}", f"--revision={revision}", f"--output={output}", *flags])


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name[0] != "."}


def test_brings_what_the_globs_name_once(hub, tmp_path):
    assert command(tmp_path / "c", "--include=data/zh/*") == 0
    found = files_of(tmp_path / "c")
    manifest = json.loads(found.pop("fetched.json"))
    assert found == {name: FILES[name] for name in ("data/zh/0.jsonl", "data/zh/1.jsonl")}
    assert manifest["repo"] == REPO and manifest["revision"] == COMMIT and len(manifest["files"]) == 2
    served = len(hub.served)
    assert command(tmp_path / "c") == 0  # the rest, files in git and not in LFS among them
    found = files_of(tmp_path / "c")
    found.pop("fetched.json")
    assert found == FILES and {name for name, _ in hub.served[served:]} == {"README.md", "data/en/0.jsonl"}


def test_faults_on_the_way(hub, tmp_path):
    hub.faults = {"data/zh/0.jsonl": ["reset"], "data/zh/1.jsonl": [429, "wrong"], "README.md": ["wrong"]}
    assert command(tmp_path / "c") == 0
    found = files_of(tmp_path / "c")
    found.pop("fetched.json")
    assert found == FILES
    assert any(name == "data/zh/0.jsonl" and begin > 0 for name, begin in hub.served)  # goes on in mid-file


def test_a_file_that_never_fits_its_checksum(hub, tmp_path, capsys):
    hub.faults = {"data/zh/0.jsonl": ["wrong"] * 20}
    assert command(tmp_path / "c") == 2
    said = capsys.readouterr().err
    assert "data/zh/0.jsonl cannot be brought from the hub (its checksum is" in said
    assert not (tmp_path / "c" / "data/zh/0.jsonl").exists()
    hub.faults = {}
    assert command(tmp_path / "c") == 0
    assert files_of(tmp_path / "c").keys() == {*FILES, "fetched.json"}


def test_dry_run(hub, tmp_path, capsys):
    assert command(tmp_path / "c", "--dry_run") == 0
    assert "4 files" in capsys.readouterr().out and not (tmp_path / "c").exists() and not hub.served


@pytest.mark.parametrize(
    "flags, revision, message",
    [
        ((), "main", f"--revision=main is no commit and may move: it is {COMMIT} now"),
        ((), "f" * 40, "The hub does not list someone/corpus"),
        (("--include=data/fr/*",), COMMIT, "--include=data/fr/* names none of the 4 files"),
    ],
)
def test_what_is_wrong_is_one_sentence(hub, tmp_path, capsys, flags, revision, message):
    assert command(tmp_path / "c", *flags, revision=revision) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0] and not hub.served


def test_another_revision_in_the_same_folder(hub, tmp_path, capsys):
    assert command(tmp_path / "c", "--include=README.md") == 0
    place = tmp_path / "c" / "fetched.json"
    place.write_text(place.read_text().replace(COMMIT, "a" * 40))
    assert command(tmp_path / "c") == 2
    assert "choose another --output" in capsys.readouterr().err
