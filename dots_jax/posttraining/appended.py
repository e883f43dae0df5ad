"""A file of JSON lines that grows batch by batch and gets its name when it is complete.

    OUTPUT.run.json   what the rows depend on: it stays, to say where OUTPUT is from
    OUTPUT.partial    the rows until then; each batch is on the disk before the next one begins

A process that is killed loses the batch it worked on. The next one removes what is behind the last complete batch, so that the
same batches are made again, in the same shapes, and OUTPUT has the same bytes.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator

from dots_jax.config import UserError
from dots_jax.locks import owned
from dots_jax.storage import in_bucket, write_text


class AppendedFile:
    """Made by `open_appended`. rows: that are there. complete: whether OUTPUT was there already."""

    def __init__(self, path: str, rows: int, complete: bool):
        self.path, self.rows, self.complete = path, rows, complete
        self._file = None if complete else open(f"{path}.partial", "ab")

    def add(self, rows: Iterable[dict]) -> None:
        """One batch; it is on the disk when this returns."""
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        self._file.write("".join(lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows += len(lines)

    def finish(self) -> None:
        """Gives the file its name."""
        self._file.close()
        os.replace(f"{self.path}.partial", self.path)
        self.complete = True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@contextlib.contextmanager
def open_appended(path: str, record: dict, batch: int) -> Iterator[AppendedFile]:
    """The file, with what an earlier process finished. batch: rows of each batch but the last.

    Raises:
      UserError: the path is in a bucket, or holds what another command or other settings made. Busy: another process writes it.
    """
    if in_bucket(path):
        raise UserError(
            f"--output must be a file of this machine, since rows are appended, but is {path}: copy it afterwards."
        )
    folder, name = os.path.split(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: the folder {folder} cannot be made: {error.strerror}.") from error
    about = f"{path}.run.json"
    with owned(folder, f"the file {name}", name=f".{name}.lock"):
        _check_record(path, about, record)
        complete = os.path.exists(path)
        rows = 0 if complete else _complete_rows(f"{path}.partial", batch)
        if not os.path.exists(about):
            write_text(about, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        file = AppendedFile(path, rows, complete)
        try:
            yield file
        finally:
            file.close()


def _check_record(path: str, about: str, record: dict) -> None:
    if not os.path.exists(about):
        if os.path.exists(path) or os.path.exists(f"{path}.partial"):
            raise UserError(
                f"--output={path} is there, but not {about}, which says what made it: give another --output."
            )
        return
    try:
        with open(about, encoding="utf-8") as file:
            before = json.load(file)
    except ValueError:
        before = {}
    record = json.loads(json.dumps(record))
    if different := [name for name in record if before.get(name) != record[name]]:
        raise UserError(
            f"--output={path} was begun with other settings ({', '.join(different)}): give another --output."
        )


def _complete_rows(path: str, batch: int) -> int:
    """Cuts the file behind its last complete batch; returns the rows that stay."""
    if not os.path.exists(path):
        return 0
    rows, size, kept, kept_size = 0, 0, 0, 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            rows, size = rows + 1, size + len(line)
            if rows % batch == 0:
                kept, kept_size = rows, size
    with open(path, "ab") as file:
        file.truncate(kept_size)
    return kept
