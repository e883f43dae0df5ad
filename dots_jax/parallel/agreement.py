"""Whether all processes of a run have the same config, code, packages and data before the first step.

A pod's workers each have a disk of their own. One whose copy of the data broke off, or whose checkout is a day older, trains
on something else, and nothing else would notice: every batch has the right shape.
"""

import collections
import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from dots_jax.config import UserError
from dots_jax.locks import NAME, Busy, owned

# Packages that decide what is computed or read.
PACKAGES = (
    "jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "numpy", "ml_dtypes", "seqio", "tensorflow", "tokenizers",
)  # fmt: skip
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")  # what the compiler is told


def software() -> dict[str, str]:
    """Facts of this process's code: the package's source, Python, library versions, compiler flags."""
    facts = {"the code of dots_jax": code_version(), "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            facts[f"the version of {name}"] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[f"the version of {name}"] = "none"
    return facts | {f"the variable {name}": os.environ.get(name, "") for name in VARIABLES}


def code_version() -> str:
    """sha256 over the names and bytes of the package's Python files."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def require_agreement(facts: Mapping[str, object]) -> None:
    """Compares facts over all processes. Every process must call it at the same place; one process alone returns at once.

    facts: name -> a value with a meaningful repr. Names may differ between processes: a missing fact differs.

    Raises:
      UserError: on every process, with who differs in what.
    """
    if jax.process_count() == 1:
        return
    own = {name: hashlib.sha256(repr(value).encode()).hexdigest()[:16] for name, value in facts.items()}
    said = _gather(json.dumps({"host": socket.gethostname(), "facts": own}).encode())
    sentences = disagreements([json.loads(text) for text in said])
    if sentences:
        raise UserError(
            f"The processes of this run do not have the same run: {'; '.join(sentences)}. Give all of them the same files, "
            "code and packages, then start again."
        )


@contextlib.contextmanager
def one_run_at_a_time(folder: str, what: str, name: str = NAME) -> Iterator[None]:
    """Process 0 holds the folder (dots_jax.locks) while the block runs; the processes of one run share it. name: of the
    lock's file.

    Raises:
      Busy: on every process, if another run holds it.
    """
    with contextlib.ExitStack() as stack:
        refusal = ""
        if jax.process_index() == 0:
            try:
                stack.enter_context(owned(folder, what, name=name))
            except Busy as error:
                refusal = str(error)
        if jax.process_count() > 1:
            refusal = _gather(refusal.encode())[0].decode()
        if refusal:
            raise Busy(refusal)
        yield


def disagreements(processes: list[dict]) -> list[str]:
    """One sentence for each fact that differs. processes: {host, facts: name -> digest} of each, in order."""
    names = dict.fromkeys(name for process in processes for name in process["facts"])
    sentences = []
    for name in names:
        digests = [process["facts"].get(name) for process in processes]
        counts = collections.Counter(digests)
        if len(counts) == 1:
            continue
        usual = max(counts, key=lambda digest: (counts[digest], digest == digests[0]))
        odd = [f"process {i} ({processes[i]['host']})" for i, digest in enumerate(digests) if digest != usual]
        others = digests.index(usual)
        shown = ", ".join(odd[:3]) + (f" and {len(odd) - 3} more" if len(odd) > 3 else "")
        sentences.append(f"{name} of {shown} is not that of process {others} ({processes[others]['host']})")
    return sentences


def _gather(text: bytes) -> list[bytes]:
    """The texts of all processes, in order."""
    lengths = multihost_utils.process_allgather(np.array(len(text), np.int32))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [rows[i, :length].tobytes() for i, length in enumerate(lengths)]
