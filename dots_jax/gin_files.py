"""Where gin files are: `--gin_file=tiny.gin` and `include 'tiny.gin'` work from any folder.

A path means the file that it leads to; if it leads to none, the file of that name that comes with the package. An include is
looked for next to the file that includes it first.
"""

import os
from collections.abc import Iterator
from pathlib import Path

_PACKAGE = Path(__file__).parent


def _packaged_folder() -> Path:
    """The folder of the gin files that come with the package: gin/ of a checkout, dots_jax/_gin when installed."""
    installed = _PACKAGE / "_gin"
    return installed if installed.is_dir() else _PACKAGE.parent / "gin"


def packaged_gin_files() -> list[str]:
    """Names as --gin_file takes them: tiny.gin, models/tiny.gin, ..."""
    folder = _packaged_folder()
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.gin"))


def find_gin_file(path: str, included_by: str | None = None) -> str:
    """The first existing file of those that `path` can mean, or the first of them all if none exists.

    included_by: the file whose `include` names the path.
    """
    choices = list(_choices(path, included_by))
    return next((choice for choice in choices if os.path.exists(choice)), choices[0])


def _choices(path: str, included_by: str | None) -> Iterator[str]:
    if included_by is not None:
        yield os.path.join(os.path.dirname(included_by), path)
    yield path
    if not os.path.isabs(path):
        yield str(_packaged_folder() / path)
