"""The shape of the code: who may import whom, and how long a file may grow.

A rule that fails is a question, not a wall: if the code is right, change the table here, in the same commit, and say why.
"""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dots_jax"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_PYTHON = SOURCES + sorted(path for name in ("tests", "benchmarks") for path in (ROOT / name).rglob("*.py"))

# --- floors -------------------------------------------------------------------------------------------------------
#
# From the ground up. A room may import the rooms of lower floors and no sibling on its own floor, but for what ALSO names.
# Rooms marked (to come) have their floor before they have files. LIBRARIES: which libraries besides the standard one a
# room may import; the longest name that fits a module decides. ANYTHING leaves them open, except those in ONLY_IN.

FLOORS = (
    ("config", "beam", "cli.options", "gin_files", "human", "locks", "moved", "storage", "sandbox"),
    ("parallel", "curriculum", "hlo", "data", "curation"),
    ("kernels",),
    ("model", "checkpoint"),
    ("huggingface", "inference"),
    ("evaluation", "curation_models"),
    ("training", "analysis", "posttraining", "serving"),  # serving (to come)
    ("planning",),
    ("cli",),
)
ALSO = {
    "beam": {"config"},
    "storage": {"config", "human"},
    "locks": {"config", "storage"},
    "sandbox": {"config"},
    "hlo": {"parallel"},
    "data": {"curriculum"},
    "curation": {"data"},
    "analysis": set(),
}
# Rooms that a lower floor holds and that a room must not import all the same.
NEVER = {
    "data": {"parallel", "hlo"},  # data never computes with jax
    "curation": {"parallel", "hlo"},
    "hlo": {"storage"},  # could ship alone
    "kernels": {"curriculum", "hlo", "data", "curation", "storage"},
    "model": {"curriculum", "hlo", "data", "curation", "storage"},
    "checkpoint": {"curriculum", "hlo", "data", "curation", "kernels"},
    "huggingface": {"curriculum", "hlo", "data", "curation", "kernels"},
    "curation_models": {"hlo", "kernels"},
}

ANYTHING = None
MATH = {"jax", "numpy"}
LIBRARIES = {
    "config": set(),
    "beam": {"apache_beam", "tqdm"},
    "cli": {"gin", "absl", "jax"},
    "cli.options": set(),  # any room may name the options of a command
    "gin_files": set(),
    "human": set(),
    "moved": set(),
    "storage": {"etils", "fsspec", "pyarrow"},
    "locks": {"etils"},
    "sandbox": set(),  # shared by evaluation and post-training
    "parallel": MATH,
    "curriculum": set(),
    "curriculum.picture": {"matplotlib"},
    "hlo": set(),
    "kernels": MATH,
    "model": MATH | {"flax"},
    "checkpoint": MATH | {"orbax", "etils", "tensorstore"},
    "huggingface": MATH | {"orbax", "tensorstore", "etils", "tqdm"},
    "inference": MATH | {"flax", "tqdm"},
    "data": {"numpy", "seqio", "tensorflow", "tensorflow_datasets", "array_record", "tokenizers", "tqdm"}
    | {"apache_beam", "pyarrow", "zstandard", "google_crc32c", "etils", "huggingface_hub", "jinja2"},
    "curation": {"numpy", "tqdm", "zstandard", "pyarrow", "apache_beam"}
    | {"trafilatura", "lxml", "resiliparse", "fasttext", "brotli", "rjieba"},
    "curation_models": MATH | {"flax", "optax", "tokenizers", "tqdm", "apache_beam", "ml_dtypes"},
    "evaluation": ANYTHING,
    "training": MATH | {"flax", "optax", "clu", "tqdm"},
    "analysis": ANYTHING,
    "posttraining": ANYTHING,
    "serving": ANYTHING,
    "planning": ANYTHING,
}
# What `python -m` runs besides `dots` itself: each calls one subcommand.
COMMANDS = {"__main__", "train", "train_tokenizer", "eval", "cache", "generate", "convert", "plan", "planning.__main__"}
COMMANDS |= {
    "curate",
    "train_classifier",
    "evaluate",
    "expert_load",
    "fetch_source",
    "inspect_source",
    "rft",
    "takedown",
}

# A library that only the named modules may import, lest it spread.
ONLY_IN = {
    "gin": {"cli.gin_config"},
    "absl.flags": set(),
    "apache_beam": {
        "beam",
        "curation_models.beam_handler",
    },  # importing it takes seconds, and training needs none of it
    "pyarrow": {"data.sources.parquet_rows", "data.sources.parts", "data.sources.inspect", "curation", "storage"},
    "zstandard": {"data.sources.json_lines", "curation"},
    "trafilatura": {"curation.extract"},
    "lxml": {"curation.extract"},
    "resiliparse": {"curation.extract", "curation.decode"},
    "fasttext": {"curation.language"},
    "brotli": {"curation.http"},
    "rjieba": {"curation.words", "curation.minhash"},
    "fsspec": {"storage"},
    "huggingface_hub": {"data.sources.fetch"},
    "jinja2": {"data.tokenizers.chat_template"},
    "orbax": {"checkpoint", "huggingface", "analysis"},
    "tensorstore": {"checkpoint", "huggingface"},
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


def room_of(module: str) -> str | None:
    """The room of a module: the longest name of FLOORS that fits."""
    names = [name for floor in FLOORS for name in floor if fits(module, [name])]
    return max(names, key=len) if names else None


def floor_of(room: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if room in floor)


def may_import(room: str, other: str) -> bool:
    if room == other or other in ALSO.get(room, ()):
        return True
    return floor_of(other) < floor_of(room) and other not in NEVER.get(room, ())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: module_name(path) or "dots_jax")
def test_imports_stay_on_their_floor(path):
    module = module_name(path)
    if module in COMMANDS:
        return
    if module == "":
        top_level = [node for node in tree(path).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert [ast.unparse(node) for node in top_level] == ["from dots_jax import moved"], (
            "importing dots_jax loads nothing"
        )
        return
    room = room_of(module)
    assert room, f"dots_jax/{module} has no floor yet: give it one in FLOORS (or in COMMANDS)"
    libraries = LIBRARIES[max((name for name in LIBRARIES if fits(module, [name])), key=len)]
    for name in imports(path):
        top = name.split(".")[0]
        if top == "dots_jax":
            other = room_of(name.removeprefix("dots_jax."))
            assert other and may_import(room, other), f"{module} must not import {name}: {room} stands below {other}"
        elif top not in sys.stdlib_module_names and libraries is not ANYTHING:
            assert top in libraries, f"{module} must not import {name}; its room may use {sorted(libraries)}"


def module_graph() -> dict[str, set[str]]:
    """Module -> modules of dots_jax that it imports, lazily or not."""
    modules = {module_name(path): path for path in SOURCES}
    graph = {}
    for module, path in modules.items():
        names = {name.removeprefix("dots_jax.") for name in imports(path) if name.startswith("dots_jax.")}
        targets = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module] = (targets & modules.keys()) - {module, ""}
    return graph


def test_no_circles():
    """Neither among modules nor, since every arrow goes down a floor, among rooms."""
    graph, done = module_graph(), set()

    def visit(module, path):
        assert module not in path, "a circle: " + " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, [*path, module])
            done.add(module)

    for module in graph:
        visit(module, [])


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


@pytest.mark.subprocess
def test_model_and_step_work_with_jax_and_flax_alone():
    """A TPU or GPU machine that only computes has no TensorFlow, seqio or gin."""
    rooms = ["kernels", "model", "checkpoint", "training.step", "hlo", "planning", "inference"]
    present = [
        r for r in rooms if (PACKAGE / f"{r.replace('.', '/')}.py").exists() or (PACKAGE / r / "__init__.py").exists()
    ]
    names = [module_name(p) for p in SOURCES if fits(module_name(p), present)]
    done = run_python(BLOCK + "".join(f"import dots_jax.{name}\n" for name in names))
    assert done.returncode == 0, done.stderr


@pytest.mark.subprocess
def test_old_module_names_answer_for_one_release():
    code = """
import warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    from dots_jax.training.stages import Schedule
    from dots_jax.data import token_format
    import dots_jax.interop.huggingface as names
import dots_jax.curriculum.stages, dots_jax.huggingface.names, dots_jax.data.cache.token_format as new
assert Schedule is dots_jax.curriculum.stages.Schedule and names is dots_jax.huggingface.names and token_format is new
assert "dots_jax.training.stages is now dots_jax.curriculum.stages" in str(said[0].message), said
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_old_module_names_lead_to_modules_that_exist():
    from dots_jax.moved import MOVED

    existing = {module_name(path) for path in SOURCES}
    assert set(MOVED.values()) <= existing and not MOVED.keys() & existing


def test_documents_and_notebooks_use_the_new_module_names():
    from dots_jax.moved import MOVED

    old = re.compile(r"dots_jax[./](?:" + "|".join(name.replace(".", "[./]") for name in MOVED) + r")(?![\w./])")
    texts = [
        path for name in ("docs", "gin", "notebooks", "benchmarks", "tpu_scripts") for path in (ROOT / name).rglob("*")
    ]
    texts = [path for path in [ROOT / "README.md", *texts] if path.suffix in (".md", ".py", ".gin", ".ipynb", ".sh")]
    found = {path.name: old.findall(path.read_text(encoding="utf-8").replace(" import ", ".")) for path in texts}
    assert not {name: names for name, names in found.items() if names} and len(texts) > 30


@pytest.mark.subprocess
def test_config_needs_the_standard_library_alone():
    done = run_python("import dots_jax.config", "-S")  # -S: no site-packages
    assert done.returncode == 0, done.stderr


# --- files --------------------------------------------------------------------------------------------------------

MAX_FILE, MAX_FUNCTION = 400, 80
LONG_FILES: dict[str, int] = {}
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
    from dots_jax.cli.main import COMMANDS as CLI

    for name in COMMANDS:
        path = PACKAGE / f"{name.replace('.', '/')}.py"
        assert len(path.read_text().splitlines()) <= 10, f"{path}: it calls the subcommand and nothing else"
    for name in [name.replace(" ", "_") for name in CLI]:
        path = PACKAGE / "cli" / f"{name}.py"
        assert len(path.read_text().splitlines()) <= 60, f"{path}: a command reads its options and calls one function"


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
