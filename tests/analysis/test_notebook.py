"""The notebook: what is in the file, and that it runs from the first cell to the last on a run of ours."""

import ast
import base64
import json
import os
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

NAME = "restore_checkpoint.ipynb"


@pytest.fixture
def notebook(repo_root) -> dict:
    return json.loads((repo_root / "notebooks" / NAME).read_text())


def test_the_file_holds_no_results(notebook):
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 12
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}


def test_the_file_names_no_machine_and_no_secret(repo_root):
    text = (repo_root / "notebooks" / NAME).read_text()
    for pattern in (
        r"/(home|root|Users|work|tmp|content|mnt)/",
        r"(?i)(token|key|password|secret)\s*=\s*\\?[\"']\w",
        r"ghp_|hf_\w{8}|AIza",
    ):
        assert not re.search(pattern, text), pattern


def test_cells_are_short_python(notebook):
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            ast.parse(source)  # no shell lines: the cells run anywhere
            assert len(source.splitlines()) <= 20 and max(map(len, source.splitlines())) <= 120


@pytest.mark.subprocess
def test_the_first_cell_runs_again(notebook, tmp_path):
    """After a restart of the session its folder is there already; the code is then the newest of the revision."""
    repository, cells = tmp_path / "repository", tmp_path / "session"
    (repository / "dots_jax").mkdir(parents=True)
    cells.mkdir()
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet", "--initial-branch=main"], check=True)
    code = next("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    code = code.replace('REPOSITORY = ""', f"REPOSITORY = {str(repository)!r}").replace('"HEAD"', '"main"')
    code = code.replace('"pip", "install"', '"pip", "--version"').replace('"-r", pinned', "")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for version in ("one", "two"):
        (repository / "dots_jax" / "__init__.py").write_text(f"VERSION = {version!r}")
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "--quiet", "-m", version], check=True)
        command = [sys.executable, "-c", code + "\nimport dots_jax; print(dots_jax.VERSION)"]
        done = subprocess.run(command, cwd=cells, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.split()[-1] == version, done.stderr


def test_pins_are_those_of_the_project(repo_root):
    def pins(name):
        lines = [line.split("#")[0].strip() for line in (repo_root / name).read_text().splitlines()]
        return {str(Requirement(line)) for line in lines if line and not line.startswith("-")}

    few = pins("requirements-notebook.txt")
    assert few and few <= pins("requirements.txt")


@pytest.mark.slow
def test_the_notebook_runs(workdir, tmp_path, repo_root):
    """On a run with milestones, and on a checkpoint with the shapes of 142B parameters. Pictures go to
    $NOTEBOOK_PICTURES, if that is set."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    from synthetic_checkpoint import write_large

    assert workdir.train("CheckpointConfig.milestone_tokens = 4_000") == 0
    write_large(tmp_path / "large")
    notebook = nbformat.read(repo_root / "notebooks" / NAME, as_version=4)
    nbformat.validate(notebook)
    environment = {
        "DOTS_JAX_CHECKPOINT": str(workdir.path), "DOTS_JAX_LARGE_CHECKPOINT": str(tmp_path / "large"),
        "PYTHONPATH": os.pathsep.join([str(repo_root), *sys.path]), "JAX_PLATFORMS": "cpu", "MPLBACKEND": "",
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }  # fmt: skip
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env={**os.environ, **environment})

    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    printed = "\n".join(out.get("text", "") for cell in code for out in cell.outputs if out.output_type == "stream")
    shown = [out.data for cell in code for out in cell.outputs if "data" in out]
    assert not [out for cell in code for out in cell.outputs if out.get("name") == "stderr"]
    assert any("step        40 of " in data.get("text/plain", "") for data in shown)
    assert "moe_blocks/moe/experts/w_gate_up_EDF" in printed and "stable/Stage.tokens = 8_960" in printed
    read = float(re.search(r"([\d.,]+) MB read of 571,\d\d\d\.\d MB", printed)[1].replace(",", ""))
    assert 200 < read < 300
    assert re.search(r"^def .", printed, re.MULTILINE)
    assert len(re.findall(r"^step +\d+ +[\d,]+ tokens  Python code \d", printed, re.MULTILINE)) >= 3
    pictures = [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]
    assert len(pictures) == 5 and all(len(picture) > 10_000 for picture in pictures)
    for number, picture in enumerate(pictures) if os.environ.get("NOTEBOOK_PICTURES") else ():
        with open(os.path.join(os.environ["NOTEBOOK_PICTURES"], f"{number}.png"), "wb") as file:
            file.write(picture)
