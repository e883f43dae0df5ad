"""What `pip install .` installs: the pins of the requirements files, the gin files, one command."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def listed(lines) -> set[str]:
    """Requirements in one spelling; what names another file or this package is left out."""
    parsed = [Requirement(line) for line in lines if line and not line.startswith("-")]
    return {str(requirement) for requirement in parsed if requirement.name != PROJECT["name"]}


def required(file: str) -> set[str]:
    return listed(line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines())


def test_the_base_and_dev_are_requirements_txt():
    """`data`, `hub`, `evaluation` and `dev` add what `dots cache`, `dots fetch_source`, `dots evaluate` and the tests need;
    together they are the pinned set, no more and no less."""
    extras = [line for name in ("data", "hub", "evaluation", "dev") for line in EXTRAS[name]]
    assert listed([*PROJECT["dependencies"], *extras]) == required("requirements.txt")


def test_extras_pin_what_the_requirements_files_pin():
    files = [path.name for path in ROOT.glob("requirements*.txt")]
    pinned = set().union(*map(required, files))
    for extra, lines in EXTRAS.items():
        # No file lists CUDA's packages: the pins of jax itself count.
        lines = [line.replace("jax[cuda12]", "jax") for line in lines]
        assert listed(lines) <= pinned, extra
    assert listed(EXTRAS["evaluation"]) == required("requirements-evaluation.txt")
    assert listed(EXTRAS["tpu"]) == required("requirements-tpu.txt")


def test_the_base_has_what_the_notebook_needs():
    """So that a notebook runs in an environment of `pip install .[notebook]` too."""
    assert required("requirements-notebook.txt") <= listed([*PROJECT["dependencies"], *EXTRAS["notebook"]])


def test_the_version_is_the_changelogs_newest_and_the_citations():
    (changelog, citation) = ((ROOT / name).read_text() for name in ("CHANGELOG.md", "CITATION.cff"))
    assert re.search(r"^## \[?(\d[\d.]*)", changelog, re.MULTILINE)[1] == PROJECT["version"]
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == PROJECT["version"]
    assert PROJECT["license"] == re.search(r"^license: (.*)$", citation, re.MULTILINE)[1] == "Apache-2.0"
