"""`pip install .` into a new environment, and a run from a folder that is not the checkout."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.subprocess]
SITE_PACKAGES = next(path for path in map(Path, sys.path) if path.name == "site-packages")


def run(*command, cwd, **env):
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env={**variables, **env}, capture_output=True, text=True, timeout=580
    )  # fmt: skip


@pytest.fixture(scope="module")
def installed(pytestconfig, tmp_path_factory):
    """bin/ of an environment with dots_jax in it. The dependencies are those of the environment of the tests, by a .pth
    file, so that nothing is downloaded; build/ is written into a copy of the sources."""
    folder = tmp_path_factory.mktemp("installed")
    sources = folder / "sources"
    sources.mkdir()
    for name in ("dots_jax", "gin"):
        shutil.copytree(pytestconfig.rootpath / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(pytestconfig.rootpath / name, sources)
    venv.create(folder / "env", with_pip=False, symlinks=True)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{SITE_PACKAGES}\n")
    python = folder / "env" / "bin" / "python"
    done = run(python, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", sources, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(sources)
    return python.parent


def test_train_from_another_folder(installed, tmp_path):
    done = run(installed / "dots", "train", "--gin_file=tiny.gin", "--max_steps=1", "--workdir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "checkpoints" / "1").is_dir()


def test_every_run_file_is_installed(installed, tmp_path, pytestconfig):
    """And the package that answers is the installed one."""
    code = "import dots_jax.gin_files as g; print(g.__file__, *g.packaged_gin_files(), sep='\\n')"
    file, *names = run(installed / "python", "-c", code, cwd=tmp_path).stdout.splitlines()
    folder = pytestconfig.rootpath / "gin"
    assert names == sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.gin")) and len(names) > 20
    assert Path(file).is_relative_to(installed.parent)


def test_a_run_file_of_ones_own_includes_the_packages(installed, tmp_path):
    (tmp_path / "mine.gin").write_text("include 'tiny.gin'\nTrainConfig.seed = 7\n")
    done = run(installed / "dots", "train", "--gin_file=mine.gin", "--dry_run", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
