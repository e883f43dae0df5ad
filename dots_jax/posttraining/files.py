"""What the three steps share about the files they are given."""

import contextlib
import hashlib
import sys

from dots_jax.config import UserError
from dots_jax.storage import open_file


def check_flags(options, *names: str) -> None:
    """Raises UserError for the first that is missing."""
    for name in names:
        if not getattr(options, name):
            raise UserError(f"Missing --{name} (--help lists the flags).")


def file_sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open_file(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def progress(what: str, total: int, done: int = 0):
    """A bar with the time that remains, on a terminal."""
    from tqdm import tqdm

    with tqdm(desc=what, total=total, initial=done, unit="row", disable=not sys.stderr.isatty()) as bar:
        yield bar
