"""What a run writes down: `metrics.jsonl` (one row a logged step) and TensorBoard, by process 0 alone."""

import json
import os
import tempfile
import time
from collections.abc import Iterator

import numpy as np
from clu import metric_writers

from dots_jax.storage import folder, in_bucket

# Scalars of a row that go to TensorBoard under a folder of their own.
_FOLDERS = {
    "tokens_per_second": "speed", "step_seconds": "speed", "mfu": "speed",
    "learning_rate": "schedule", "tokens": "schedule", "stage_index": "schedule",
}  # fmt: skip


def to_row(step: int, metrics: dict, **more) -> dict:
    """A row of plain numbers, lists and strings. Floats are the float32 values themselves, so equal values are equal text."""
    row = {"step": step}
    for name, value in (metrics | more).items():
        value = np.asarray(value).tolist() if hasattr(value, "dtype") else value
        row[name] = value
    return row


class MetricsLog:
    """Writes rows. Opening it drops the rows past `step`: a run that resumes there writes them again.

    What a killed run or a machine without power left unfinished is dropped as well.

    In a bucket nothing can be appended to: the rows gather on this machine, and all of them are copied there at each
    `sync`, and about once a minute.
    """

    def __init__(self, workdir: str, step: int, write: bool = True):
        self._file = self._board = self._bucket = None
        if not write:
            return
        path = os.path.join(workdir, "metrics.jsonl")
        if in_bucket(workdir):
            self._bucket, self._scratch = folder(workdir) / "metrics.jsonl", tempfile.TemporaryDirectory()
            path = os.path.join(self._scratch.name, "metrics.jsonl")
            self._synced, self._seconds = time.monotonic(), 0.0
            if self._bucket.exists():
                self._bucket.copy(path)
        rows = [line for line, row in _whole_rows(path) if row["step"] <= step]
        # Beside and renamed: a kill in mid-write must not cost the history.
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.writelines(rows)
        os.replace(path + ".new", path)
        self._file = open(path, "a", encoding="utf-8")
        self._board = metric_writers.SummaryWriter(os.path.join(workdir, "tensorboard"))

    def write(self, row: dict) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        # Not more than a fiftieth of the time, however long the history has become.
        if self._bucket is not None and time.monotonic() - self._synced > max(60.0, 50 * self._seconds):
            self.sync()
        scalars = {}
        for name, value in row.items():
            if isinstance(value, list):
                scalars |= {f"{name}/layer_{i + 1}": v for i, v in enumerate(value)}
            elif isinstance(value, dict):
                scalars |= {f"{name}/{key}": v for key, v in value.items()}
            elif isinstance(value, (int, float)) and name != "step":
                scalars[f"{_FOLDERS.get(name, 'train')}/{name}"] = float(value)
        self._board.write_scalars(row["step"], scalars)

    def sync(self) -> None:
        """When this returns, a machine that vanishes takes no row along."""
        if self._file is None or self._bucket is None:
            return
        started = time.monotonic()
        folder(self._file.name).copy(self._bucket, overwrite=True)
        self._synced, self._seconds = time.monotonic(), time.monotonic() - started

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """More scalars for TensorBoard alone."""
        if self._board is not None:
            self._board.write_scalars(step, values)

    def close(self) -> None:
        if self._file is not None:
            self.sync()
            self._file.close()
            self._board.close()
            self._file = None
            if self._bucket is not None:
                self._scratch.cleanup()


def _whole_rows(path: str) -> Iterator[tuple[str, dict]]:
    """Lines and rows up to the first that is not whole."""
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                return
            if not line.endswith("\n"):
                return
            yield line, row
