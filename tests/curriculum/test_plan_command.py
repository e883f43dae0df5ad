"""The plan command: text and picture of a schedule, in a second, with nothing but gin and matplotlib."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.subprocess

ROOT = Path(__file__).parents[2]
DOTS = ("gin/models/dots_llm1.gin", "gin/schedules/dots142b.gin", "gin/data/public.gin")
RUN = """
import runpy, sys
for name in ("tensorflow", "seqio", "tensorflow_datasets", "jax", "flax", "orbax"):
    sys.modules[name] = None  # importing one is an error
runpy.run_module("dots_jax.plan", run_name="__main__")
"""


def plan(*flags, files=DOTS) -> subprocess.CompletedProcess:
    gin = [f"--gin_file={file}" for file in files]
    return subprocess.run([sys.executable, "-c", RUN, *gin, *flags], cwd=ROOT, capture_output=True, text=True)


def test_the_published_schedule(tmp_path):
    picture = tmp_path / "plan.png"
    done = plan(f"--picture={picture}")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("tokens      11,328,278,233,088 in 134,818 steps")
    stages = [line.split() for line in lines if "dots_" in line]
    assert [(s[0], s[4]) for s in stages] == [
        ("stable", "0-89,406"), ("stable", "89,407-112,255"), ("stable", "112,256-124,921"),
        ("anneal1", "124,922-132,372"), ("anneal2", "132,373-133,863"), ("long", "133,864-134,817"),
    ]  # fmt: skip
    assert stages[-1][-2:] == ["constant,", "untie"]
    shares = {line.split()[0]: line.split()[1::2][:4] for line in lines if line.split()[0] in ("web_zh", "code")}
    assert shares == {
        "web_zh": ["37.00%", "5.00%", "2.50%", "20.00%"],
        "code": ["14.00%", "20.00%", "30.00%", "15.00%"],
    }
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000


def test_mixtures_that_code_registers_are_said_to_be(tmp_path):
    done = plan(f"--picture={tmp_path / 'tiny.svg'}", files=["gin/tiny.gin"])
    assert done.returncode == 0, done.stderr
    assert "stable: tiny_stable, registered in dots_jax.data.tasks" in done.stdout
    assert (tmp_path / "tiny.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("name, message", [("a.jpg", "must end with one of"), ("no/a.png", "cannot be written")])
def test_pictures_that_cannot_be(tmp_path, name, message):
    done = plan(f"--picture={tmp_path / name}", files=["gin/tiny.gin"])
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
