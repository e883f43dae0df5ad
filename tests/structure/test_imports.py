"""The pinned set works together. Some of these packages break each other in ways that pip cannot see."""

import ast
import importlib
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def requirements(name: str = "requirements.txt") -> list[Requirement]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def normal(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


MODULES = [
    "jax", "flax.nnx", "optax", "orbax.checkpoint",
    "tensorflow", "tensorflow_text", "tensorflow_datasets", "seqio", "array_record.python.array_record_module",
    "tokenizers",
    "apache_beam", "google_crc32c", "pyarrow.parquet", "zstandard",
    "gin", "absl.flags", "clu.metric_writers", "tensorboard.backend.event_processing.event_accumulator", "tqdm",
    "matplotlib.pyplot", "math_verify", "langdetect", "punkt", "nltk.tokenize.destructive", "scipy.optimize",
]  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_import(module):
    importlib.import_module(module)


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_installed_version_is_the_pinned_one(requirement):
    if requirement.marker and not requirement.marker.evaluate():
        pytest.skip("for another Python")
    assert importlib.metadata.version(requirement.name) in requirement.specifier


def test_every_requirement_is_pinned_exactly():
    for requirement in requirements():
        assert [spec.operator for spec in requirement.specifier] == ["=="], requirement


def test_what_the_code_imports_is_required():
    """A library that only another library brings along can vanish with that library's next version."""
    files = ("requirements.txt", "requirements-curation.txt", "requirements-lm-eval.txt")
    listed = {normal(requirement.name) for name in files for requirement in requirements(name)}
    owners = importlib.metadata.packages_distributions()
    for path in (ROOT / "dots_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for top in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"dots_jax"}:
                packages = {normal(package) for package in owners.get(top, [top])}
                assert packages & listed, f"{path} imports {top}: pin {' or '.join(packages)} in requirements.txt"


def test_tpu_pins_are_the_same_jax():
    ours = {str(r.marker): str(r.specifier) for r in requirements() if r.name == "jax"}
    assert {str(r.marker): str(r.specifier) for r in requirements("requirements-tpu.txt")} == ours


def test_clu_writes_what_tensorboard_reads(tmp_path):
    """clu writes through TensorFlow's summaries, and those through the tensorboard package."""
    from clu import metric_writers
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = metric_writers.SummaryWriter(str(tmp_path))
    writer.write_scalars(3, {"loss": 1.5})
    writer.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    events.Reload()
    assert "loss" in {tag for tags in events.Tags().values() if isinstance(tags, list) for tag in tags}


def test_eight_fake_devices():
    import jax

    assert jax.device_count() == 8 and jax.default_backend() == "cpu"
