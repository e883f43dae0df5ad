"""The documentation as a reader meets it: the site is built, and the commands of the pages are run, in one folder, in order."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from shell_blocks import ROOT, blocks, commands
from web_pages import page, response, write_warc

pytestmark = pytest.mark.slow

MKDOCS = ROOT / ".venv-docs" / "bin" / "mkdocs"  # `make test-slow` installs it
OFFLINE = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}

# --- the site ---------------------------------------------------------------------------------------------------------


@pytest.mark.subprocess
def test_the_site_builds_offline_without_a_warning(tmp_path):
    """Claim: the documentation builds without the network and without a warning, and its pages load nothing from another host."""
    assert MKDOCS.exists(), "run `make docs` once"
    done = subprocess.run(
        [MKDOCS, "build", "--strict", "--site-dir", tmp_path], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, **OFFLINE, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) > 25 and (tmp_path / "search" / "search_index.json").exists()
    for path in pages:
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*?src=\"?([^\" >]+)", path.read_text())
        loaded += re.findall(r"<link[^>]*rel=\"?(?:stylesheet|preload|icon)[^>]*?href=\"?([^\" >]+)", path.read_text())
        assert loaded and not [address for address in loaded if re.match(r"(https?:)?//", address)], path


# --- the commands -----------------------------------------------------------------------------------------------------

# What a command of a page becomes here: a shorter run, the files of this folder in place of a reader's. None: it is not run,
# because it needs what a laptop has not; test_docs.py checks its options.
CHANGES = {
    "train --gin_file=gin/tiny.gin --workdir=runs/tiny": [
        "--max_steps=12",
        "--gin_bindings=CheckpointConfig.every_steps = 4",
    ],
    "train --gin_file=gin/tiny_bpe.gin --workdir=runs/tiny_bpe": ["--dry_run"],
    "train_tokenizer": [],
    "eval --gin_file": ["--gin_bindings=EvalConfig.max_sequences = 32"],
    "generate --checkpoint=runs/tiny --prompt": ["--max_new_tokens=8"],
    "generate --checkpoint=DIR --input": [],
    "eval --checkpoint=DIR --score": [],
    "convert to_hf": [],
    "convert from_hf": [],
    "cache --gin_file": ["--dry_run"],
    "plan --inference": [],
    "plan --gin_file=gin/tiny.gin": [],
    "plan --gin_file=gin/dots142b.gin --picture": [],
    "generate --checkpoint=DIR --chat": None,  # the demo's tokens are bytes, which have no chat template
    "evaluate --suite=table3": None,  # RULER's prompts are longer than the demo's context
    "evaluate --suite=figure4": None,  # the milestones of a run of 12 steps; tests/evaluation/ has some
    "evaluate --suite=table5": None,  # needs a judge
    "plan --gin_file=gin/dots142b.gin --topology": None,  # compiles the 142B model; tests/planning/ has a small one
}
PLACES = {
    "DIR": "runs/tiny", "IN.jsonl": "in.jsonl", "OUT.jsonl": "out.jsonl", "runs/mine": "runs/tiny", "path/to/export": "export",
    "path/to/dots.llm1.inst": "export", "DATA": "benchmarks/evaluation_demo", "OUT": "out", "code.jsonl": "in.jsonl",
}  # fmt: skip


def all_commands() -> list[list[str]]:
    """The words after `python -m dots_jax.` of every different command of the pages."""
    found = []
    for block in blocks("bash"):
        for words in commands(block.text):
            if words[:2] == ["python", "-m"] and words[2].startswith("dots_jax."):
                found.append([words[2].removeprefix("dots_jax."), *words[3:]])
    return [list(words) for words in dict.fromkeys(map(tuple, found))]


def change_of(words: list[str]) -> list[str] | None:
    """The most specific entry of CHANGES."""
    fitting = [prefix for prefix in CHANGES if " ".join(words).startswith(prefix)]
    return CHANGES[max(fitting, key=len)] if fitting else []


def placed(word: str) -> str:
    name, equals, value = word.rpartition("=")
    return name + equals + PLACES.get(value, value)


def order(words: list[str]) -> int:
    """What makes a file comes before what reads it."""
    first = ("train_tokenizer", "train", "eval --gin_file", "generate", "eval", "convert to_hf", "convert from_hf")
    return next((i for i, prefix in enumerate(first) if " ".join(words).startswith(prefix)), len(first))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as a checkout, in which the commands run."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("gin", "docs", "dots_jax", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "in.jsonl").write_text(json.dumps({"text": "import os\n"}) + "\n")
    (folder / "prompts.jsonl").write_text(json.dumps({"prompt": "import "}) + "\n")
    (folder / "verdicts.jsonl").write_text(json.dumps({"id": 1, "prediction": "#### 4", "gold": "#### 4"}) + "\n")
    (folder / "prose.txt").write_text("The river was quiet.\n" * 200)
    (folder / "takedown.txt").write_text("http://site.example/1\n")
    for name in ("crawl", "next", "pages"):
        (folder / name).mkdir()
    site = {"url": "http://site.example/page"}
    write_warc(folder / "crawl" / "a.warc.gz", [*(response(n) for n in range(40)), response(40, **site)])
    write_warc(folder / "next" / "b.warc.gz", [response(n) for n in range(30, 60)])
    (folder / "pages" / "one.html").write_text(page(1))
    return folder


@pytest.mark.subprocess
def test_the_commands_of_the_pages_run(folder: Path, process_env):
    """Claim: the commands of the quickstart and of the pages run to their end on two CPU cores, with a shorter training."""
    done = []
    for words in sorted(all_commands(), key=order):
        change = change_of(words)
        if change is None or words[0] == "planning":
            continue
        module, *rest = [placed(word) for word in words]
        for name, other in (("--input", "prompts.jsonl"), ("--verdicts", "verdicts.jsonl")):
            rest = [f"{name}={other}" if word == f"{name}=in.jsonl" else word for word in rest]
        command = [sys.executable, "-m", f"dots_jax.{module}", *rest, *change]
        ran = subprocess.run(command, cwd=folder, env=process_env, capture_output=True, text=True, timeout=1200)
        assert ran.returncode == 0, (command, ran.stderr[-2000:])
        done.append(module)
    assert {"train", "eval", "generate", "convert", "plan", "cache", "train_tokenizer"} <= set(done)
    assert "logprobs" in (folder / "out.jsonl").read_text() + str(done)
    draw = [sys.executable, "docs/demo_picture.py", "runs/tiny", "loss.svg"]
    assert subprocess.run(draw, cwd=folder, env=process_env, timeout=300).returncode == 0
    assert "uniform" in (folder / "loss.svg").read_text()


@pytest.mark.subprocess
def test_the_python_of_the_pages_runs(folder: Path, process_env):
    """After the commands above: the same folder holds a run."""
    if not (folder / "runs" / "tiny").exists():
        test_the_commands_of_the_pages_run(folder, process_env)
    step = max(int(path.name) for path in (folder / "runs" / "tiny" / "checkpoints").iterdir() if path.name.isdigit())
    for block in blocks("python"):
        text = block.text.replace(".at(200)", f".at({step})").replace("experts=[0, 5]", "experts=[0, 1]")
        ran = subprocess.run([sys.executable, "-c", text], cwd=folder, env=process_env, capture_output=True, text=True)
        assert ran.returncode == 0, (str(block), ran.stderr[-2000:])
