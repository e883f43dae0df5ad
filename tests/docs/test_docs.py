"""The README and the pages of docs/: links, words, settings, and every shell block.

Each kind of command has its check, from the weakest to the strongest: `bash -n`; its options are those of the program; it runs
with --dry_run or on a part of the run (`plan` in place of `train`). test_docs_slow.py runs what a laptop can run.
Claim: every shell block of the README and the documentation is accepted by the program that it calls.
"""

import ast
import dataclasses
import functools
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from shell_blocks import PAGES, ROOT, Block, blocks, commands, options

from dots_jax import config
from dots_jax.gin_files import packaged_gin_files

README = ROOT / "README.md"
CLASSES = {name: value for name, value in vars(config).items() if dataclasses.is_dataclass(value)}
NEVER = ("whole", "beside", "mend", "mended", "so many", "nobody's", "what is left", "met no")
# Options as in the reference of gcloud (SDK 528), which is not installed where tests run.
GCLOUD = {
    ("services", "enable"): {"project"},
    ("storage", "buckets", "create"): {"project", "location"},
    ("storage", "buckets", "add-iam-policy-binding"): {"role", "member"},
    ("storage", "rsync"): {"recursive"},
    ("auth", "application-default", "login"): set(),
}


def run(*words: str, **keywords) -> subprocess.CompletedProcess:
    keywords.setdefault("env", {**os.environ, "PYTHONPATH": str(ROOT)})
    return subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=ROOT, **keywords)


# --- commands ---------------------------------------------------------------------------------------------------------


@functools.cache
def known_options(*words: str) -> frozenset[str]:
    """The options that a program's --help names."""
    done = run(*words, "--help")
    assert done.returncode == 0, done.stderr
    return frozenset(re.findall(r"--(\w[\w-]*)", done.stdout))


@functools.cache
def plan_of(*gin_options: str) -> str:
    done = run(sys.executable, "-m", "dots_jax.plan", *gin_options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_dots(module: str, words: list[str]) -> None:
    """Options by --help; the run files of `train` and `plan` are read, checked and laid out as steps."""
    assert options(words) <= known_options(sys.executable, "-m", module), words
    if module in ("dots_jax.train", "dots_jax.plan"):
        gin = [word for word in words if word.startswith("--gin_")]
        assert gin and plan_of(*gin).startswith("tokens ")


def check_python(words: list[str]) -> None:
    if words[1] == "-m":
        module = words[2]
        if module.startswith("dots_jax."):
            return check_dots(module, words[3:])
        assert importlib.util.find_spec(module), module
        if module.startswith("benchmarks."):
            source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
            assert options(words) <= set(re.findall(r'"--([\w-]+)"', source))
    else:
        assert (ROOT / words[1]).exists(), words


def check_dots_command(words: list[str]) -> None:
    """`dots train ...`, `dots plan pod ...`; run files by the name under which the package brings them."""
    command = [word for word in words[1:3] if re.fullmatch(r"[a-z]+", word)]
    assert options(words) <= known_options(sys.executable, "-m", "dots_jax", *command), words
    for word in words:
        if word.startswith("--gin_file="):
            assert word.removeprefix("--gin_file=") in packaged_gin_files(), word


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert [word for word in words[1:] if "=" not in word][0] in targets


def check_pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("optional-dependencies", {})
    for before, word in zip(words, words[1:]):
        if before == "-r":
            assert (ROOT / word).exists(), word
        if word.startswith(".["):
            assert set(word[2:-1].split(",")) <= extras.keys(), word


def check_cp(words: list[str]) -> None:
    assert (ROOT / words[1]).exists(), words


def check_gcloud(words: list[str]) -> None:
    known = next(known for prefix, known in GCLOUD.items() if tuple(words[1 : 1 + len(prefix)]) == prefix)
    assert options(words) <= known, words


def check_tensorboard(words: list[str]) -> None:
    assert words[1] == "--logdir"


def check_pod(words: list[str]) -> None:
    """A dry run, with the example's settings; PATH has no gcloud that could be called."""
    done = run("bash", *words, "--dry_run", "--config=tpu_scripts/pod.env.example", env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0 and "gcloud compute tpus" in done.stdout, done.stderr


CHECKS = {
    "python": check_python, "dots": check_dots_command, "make": check_make, "pip": check_pip, "cp": check_cp,
    "gcloud": check_gcloud, "tensorboard": check_tensorboard, "tpu_scripts/pod": check_pod, "pre-commit": lambda words: None,
    "git": lambda words: None,
}  # fmt: skip


@pytest.mark.subprocess
@pytest.mark.parametrize("block", blocks("bash"), ids=str)
def test_shell_block(block: Block):
    assert subprocess.run(["bash", "-n"], input=block.text, text=True).returncode == 0
    for path in re.findall(r"\bgin/[\w/]+\.gin\b", block.text):
        assert (ROOT / path).exists(), path
    for words in commands(block.text):
        assert words[0] in CHECKS, f"{block}: no check for {words[0]}"
        CHECKS[words[0]](words)


def test_every_command_block_is_marked_as_bash():
    """A block without a language, or of another, would escape the checks."""
    for language in ("", "sh", "shell", "console", "text"):
        for block in blocks(language):
            assert not re.search(r"^(python|dots|make|pip|gcloud|tpu_scripts/pod) ", block.text, re.M), block


@pytest.mark.subprocess
def test_option_tables_name_real_options():
    """The options in the first column of a table, as `--temperature=1`."""
    modules = ("train", "plan", "generate", "eval", "convert", "cache", "curate", "train_tokenizer", "train_classifier")
    known = set().union(*(known_options(sys.executable, "-m", f"dots_jax.{module}") for module in modules))
    for page in PAGES:
        for row in re.findall(r"^\| `--[^|]*", page.read_text(), re.M):
            assert set(re.findall(r"--(\w+)", row)) <= known, (page.name, row)


# --- settings and Python ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("gin"), ids=str)
def test_gin_block(block: Block):
    settings = re.findall(r"^(?:\w+/)*(\w+)\.(\w+) *=", block.text, re.M)
    assert settings
    for name, field in settings:
        assert field in CLASSES[name].__dataclass_fields__, f"{name}.{field}"


def test_settings_in_the_text_exist():
    """`ComputeConfig.remat` in a sentence; the left column of renamed settings is about the past."""
    for page in PAGES:
        for name, field in re.findall(
            r"`(\w+)\.([a-z_]+)", re.sub(r"^\| `[^|]*\| `", "| `", page.read_text(), flags=re.M)
        ):
            if name in CLASSES:
                assert field in CLASSES[name].__dataclass_fields__, f"{page.name}: {name}.{field}"


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_block(block: Block):
    """What it imports exists; test_docs_slow.py runs it."""
    for node in ast.walk(ast.parse(block.text, str(block))):
        if isinstance(node, ast.Import):
            assert all(importlib.util.find_spec(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                path = ROOT / node.module.replace(".", "/") / f"{alias.name}.py"
                assert (
                    path.exists()
                    or f"def {alias.name}(" in Path(importlib.util.find_spec(node.module).origin).read_text()
                )


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "api").glob("*.md")), ids=lambda path: path.stem)
def test_api_pages_name_what_exists(page: Path):
    for name in re.findall(r"^::: ([\w.]+)", page.read_text(), re.M):
        path = ROOT / name.replace(".", "/")
        package = ROOT / "dots_jax" / "__init__.py"
        defined = f"def {name.rpartition('.')[2]}(" in package.read_text() and name.count(".") == 1
        assert path.with_suffix(".py").exists() or (path / "__init__.py").exists() or defined, name


# --- text -------------------------------------------------------------------------------------------------------------


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^( *)```.*?^\1```", "", text, flags=re.S | re.M))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_words(page: Path):
    found = [word for word in NEVER if re.search(rf"\b{word}\b", without_code(page.read_text()), re.I)]
    assert not found, f"{page}: {found}; docs/style.md says what to write"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M), re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(page: Path):
    """Of files and headings; addresses on the web must be complete, and are not visited."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if target.startswith("http"):
            assert re.fullmatch(r"https://[\w.-]+\.\w+(/[\w./#%+-]*)?", target), target
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name) if name else page
        assert path.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(path), f"{page.name}: {target}"


def test_the_front_page():
    text = README.read_text()
    assert len(text.splitlines()) <= 140
    assert "make demo" in text and "make test" in text and "docs/assets/demo_loss.svg" in text
    for section in ("tree", "What works", "Results", "Licence", "Citation"):
        assert re.search(rf"^## .*{section}", text, re.M), section
    assert "compiler estimates" in text and "never run on a TPU" in text


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert re.search(rf"[ :]{re.escape(str(page.relative_to(ROOT / 'docs')))}$", navigation, re.M), page


def test_nothing_comes_from_another_host():
    """Fonts, styles and scripts are bundled; test_docs_slow.py looks at the built pages."""
    text = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in text and "https://" not in text
    for picture in (ROOT / "docs" / "assets").glob("*.svg"):
        assert not re.search(r'(href|src)="http', picture.read_text()), picture
