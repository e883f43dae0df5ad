"""Where a run lives: a folder of this machine, or of a bucket (`gs://bucket/runs/one`)."""

import os

from etils import epath


def folder(workdir: str) -> epath.Path:
    """The absolute path of a workdir; it has pathlib's methods, in a bucket too."""
    return epath.Path(workdir if in_bucket(workdir) else os.path.abspath(workdir))


def in_bucket(workdir: str) -> bool:
    return "://" in str(workdir)


def tokenizer_beside(workdir: epath.Path) -> epath.Path | None:
    """The tokenizer.json that a conversion kept with its checkpoint, or that somebody put there."""
    named = (workdir / "tokenizer" / "tokenizer.json", workdir / "tokenizer.json")
    return next((path for path in named if path.exists()), None)


def write_whole(path: epath.Path, text: str) -> None:
    """The file is there with all of the text, or as it was before."""
    new = path.parent / f"{path.name}.new"
    new.write_text(text)
    new.replace(path)
