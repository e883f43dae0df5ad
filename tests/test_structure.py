"""The shape of the code: who may import whom, and how long a file may grow.

A rule that fails is a question, not a wall: if the code is right, change the table here, in the same commit, and say why.
"""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dots_jax"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_PYTHON = SOURCES + sorted(path for name in ("tests", "benchmarks") for path in (ROOT / name).rglob("*.py"))

# --- floors -------------------------------------------------------------------------------------------------------
#
# From the ground up. Each room: what of dots_jax it may import besides itself, and which libraries besides the standard
# one. The longest name that fits a module decides. ANYTHING leaves the libraries open, except those in ONLY_IN.

ANYTHING = None
MATH = {"jax", "numpy"}
FLOOR_0 = ("config",)
FLOOR_1 = (*FLOOR_0, "parallel", "training.losses", "training.schedules", "training.optimizer", "training.stages")
FLOOR_2 = (*FLOOR_1, "model")
FLOOR_3 = (*FLOOR_2, "training", "inference", "interop")
FLOOR_4 = (
    *FLOOR_3,
    "inspection",
    "training.report",
    "training.exposure",
    "data",
    "evaluation",
    "planning",
    "planning.schedule",
)

FLOORS = {
    "config": ((), set()),
    "gin_check": (FLOOR_0, set()),
    "parallel": (FLOOR_1, MATH),
    "training.losses": (FLOOR_1, MATH),
    "training.schedules": (FLOOR_1, MATH | {"optax"}),
    "training.optimizer": (FLOOR_1, MATH | {"optax"}),
    "training.stages": (FLOOR_1, MATH),
    "training.exposure": (FLOOR_1, set()),
    "model": (FLOOR_2, MATH | {"flax"}),
    "training": (FLOOR_3, MATH | {"flax", "optax", "orbax", "clu", "absl", "etils"}),
    "training.report": ((*FLOOR_3, "planning.schedule"), MATH | {"tqdm"}),
    "inference": (FLOOR_3, MATH | {"flax"}),
    "inference.session": (
        (*FLOOR_4, "inference.vocabularies"),
        set(),
    ),  # what the commands do, from files and tokenizers to files
    "inference.vocabularies": (FLOOR_4, set()),
    "interop": (FLOOR_3, MATH | {"orbax", "tensorstore", "etils", "tqdm"}),
    "inspection": (FLOOR_3, MATH | {"orbax", "etils", "tensorstore", "ml_dtypes"}),
    "data": (
        FLOOR_0,
        {"numpy", "seqio", "tensorflow", "tensorflow_datasets", "array_record", "tokenizers", "tqdm"}
        | {"apache_beam", "pyarrow", "zstandard"},
    ),
    "curation": (FLOOR_0, ANYTHING),
    "training.loop": ((*FLOOR_4, "training.preflight"), ANYTHING),
    "training.preflight": (FLOOR_4, ANYTHING),
    "evaluation": (FLOOR_4, ANYTHING),
    "planning": (FLOOR_4, ANYTHING),
    "planning.schedule": ((*FLOOR_1, "planning"), set()),  # the run's header shows the same tables
}
COMMANDS = {"gin_cli", "train", "train_tokenizer", "eval", "cache", "generate", "convert", "plan", "curate"}

# A library that only the named modules may import, lest it spread.
ONLY_IN = {
    "gin": {"gin_cli"},
    "absl.flags": {"gin_cli"},
    "apache_beam": {"data.cache_job", "curation"},  # importing it takes seconds, and training needs none of it
    "pyarrow": {"data.record_files", "curation"},
    "zstandard": {"data.record_files", "curation"},
    "orbax": {"training.checkpoint", "interop", "inference", "evaluation", "inspection"},
    "tensorstore": {"inspection", "interop"},
}
# And names that only the named modules may use.
NAMES_ONLY_IN = {
    "AxisType": {"parallel.mesh"},  # everything else must not care whether a mesh axis is Auto, Explicit or Manual
    "nnx.Optimizer": set(), "nnx.jit": set(), "nnx.grad": set(), "nnx.value_and_grad": set(), "nnx.scan": set(),
    "nnx.vmap": set(), "nnx.remat": set(),  # plain jax does these, on pure functions of arrays
}  # fmt: skip


def module_name(path: Path) -> str:
    """`training.loop` for dots_jax/training/loop.py, `model` for dots_jax/model/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def fits(module: str, names) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> set[str]:
    """Full names of all that a file imports, anywhere in it: `jax.numpy`, `flax.nnx`, `dots_jax.config.UserError`."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports in full, from dots_jax. ..."
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def floor_of(module: str):
    names = [name for name in FLOORS if fits(module, [name])]
    return max(names, key=len) if names else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: module_name(path) or "dots_jax")
def test_imports_stay_on_their_floor(path):
    module = module_name(path)
    if module in COMMANDS:
        return
    if module == "":
        top_level = [node for node in tree(path).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert not top_level, "importing dots_jax must load nothing"
        return
    floor = floor_of(module)
    assert floor, f"dots_jax/{module} has no floor yet: give it one in FLOORS (or in COMMANDS)"
    ours, libraries = FLOORS[floor]
    for name in imports(path):
        top = name.split(".")[0]
        if top == "dots_jax":
            target = name.removeprefix("dots_jax.")
            assert floor_of(target) in (*ours, floor), f"{module} must not import {name}: that is on a higher floor"
        elif top not in sys.stdlib_module_names and libraries is not ANYTHING:
            assert top in libraries, f"{module} must not import {name}; floor {floor} may use {sorted(libraries)}"


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_that_stay_in_one_place(library):
    for path in SOURCES:
        if any(fits(name, [library]) for name in imports(path)):
            module = module_name(path)
            assert fits(module, ONLY_IN[library]), f"{module} must not import {library}: {sorted(ONLY_IN[library])} may"


def test_names_that_stay_in_one_place():
    for path in SOURCES:
        used = {ast.unparse(node) for node in ast.walk(tree(path)) if isinstance(node, (ast.Name, ast.Attribute))}
        for name, modules in NAMES_ONLY_IN.items():
            if module_name(path) not in modules:
                assert not any(use == name or use.endswith("." + name) for use in used), f"{path} uses {name}"


def test_data_and_config_never_compute_with_jax():
    for path in SOURCES:
        if fits(module_name(path), ("config", "data", "curation")):
            used = {name.split(".")[0] for name in imports(path)} & {"jax", "flax", "optax"}
            assert not used, f"{module_name(path)} must not import {used}"


# --- what works without what --------------------------------------------------------------------------------------

BLOCK = """
import importlib.abc, sys
BLOCKED = {"tensorflow", "tensorflow_text", "tensorflow_datasets", "seqio", "gin", "clu", "array_record", "tqdm"}
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)
sys.meta_path.insert(0, Block())
"""


def run_python(code: str, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *flags, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_model_and_step_work_with_jax_and_flax_alone():
    """A TPU or GPU machine that only computes has no TensorFlow, seqio or gin."""
    rooms = ["model", "training.step", "planning", "inference"]
    present = [
        r for r in rooms if (PACKAGE / f"{r.replace('.', '/')}.py").exists() or (PACKAGE / r / "__init__.py").exists()
    ]
    names = [module_name(p) for p in SOURCES if fits(module_name(p), present)]
    names.remove("inference.vocabularies")  # reads text
    done = run_python(BLOCK + "".join(f"import dots_jax.{name}\n" for name in names))
    assert done.returncode == 0, done.stderr


def test_config_needs_the_standard_library_alone():
    done = run_python("import dots_jax.config", "-S")  # -S: no site-packages
    assert done.returncode == 0, done.stderr


# --- files --------------------------------------------------------------------------------------------------------

MAX_FILE, MAX_FUNCTION = 400, 80
LONG_FILES = {"dots_jax/config.py": 700}  # every setting of every command, with its check, in one place to read
LONG_FUNCTIONS: dict[str, int] = {}


@pytest.mark.parametrize("path", ALL_PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_length(path):
    name = str(path.relative_to(ROOT))
    assert len(path.read_text().splitlines()) <= LONG_FILES.get(name, MAX_FILE), f"{name} is long: make two rooms of it"
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            limit = LONG_FUNCTIONS.get(f"{name}:{node.name}", MAX_FUNCTION)
            assert lines <= limit, f"{name}: {node.name} has {lines} lines; {limit} is the most"


def test_commands_are_thin():
    for name in COMMANDS - {"gin_cli"}:
        path = PACKAGE / f"{name}.py"
        if path.exists():
            assert len(path.read_text().splitlines()) <= 60, (
                f"{name}.py: a command parses, builds and calls one function"
            )


def test_every_module_says_what_it_is_for():
    for path in SOURCES:
        if tree(path).body:
            assert ast.get_docstring(tree(path)), f"{path} has no docstring"


def test_no_drawers():
    for path in ALL_PYTHON:
        assert path.stem not in ("utils", "util", "helpers", "common", "misc"), f"{path}: name it after what it does"


def test_the_gin_folder_is_no_package():
    """`gin/__init__.py` would hide the gin library from everything that runs in this folder."""
    assert not list((ROOT / "gin").rglob("*.py"))
