"""What a run writes down: `metrics.jsonl` (a row for each logged step and each validation) and TensorBoard, by process 0.

`metrics.jsonl` is strict JSON: a number that is not finite is null there. TensorBoard gets the number itself.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Iterator

import numpy as np
from clu import metric_writers

from dots_jax.storage import folder, in_bucket, write_text

# Scalars of a row that go to TensorBoard under a folder of their own.
_FOLDERS = {
    "tokens_per_second": "speed", "step_seconds": "speed", "mfu": "speed",
    "learning_rate": "schedule", "tokens": "schedule", "stage_index": "schedule",
}  # fmt: skip


def to_row(step: int, metrics: dict, **more) -> dict:
    """A row of plain numbers, lists, dicts and strings. Floats are the float32 values themselves, so equal values are equal
    text."""
    return {"step": step} | {name: _plain(value) for name, value in (metrics | more).items()}


def _plain(value):
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return np.asarray(value).tolist() if hasattr(value, "dtype") else value


def _line(row: dict) -> str:
    return json.dumps(_finite(row), allow_nan=False) + "\n"


def _finite(value):
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalars(row: dict) -> dict[str, float]:
    """The numbers of a row by their TensorBoard tags."""
    scalars = {}
    for name, value in row.items():
        if isinstance(value, list):
            scalars |= {f"{name}/layer_{i + 1}": v for i, v in enumerate(value)}
        elif isinstance(value, dict):
            scalars |= {f"{name}/{tag}": v for tag, v in _nested(value)}
        elif isinstance(value, (int, float)) and name != "step":
            scalars[f"{_FOLDERS.get(name, 'train')}/{name}"] = float(value)
    return scalars


def _nested(values: dict) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{tag}", v) for tag, v in _nested(value))
        else:
            yield name, value


class MetricsLog:
    """Writes rows. Opening it drops the rows past `step`: a run that resumes there writes them again.

    What a killed run or a machine without power left unfinished is dropped as well.

    In a bucket nothing can be appended to: the rows gather on this machine, and all of them are copied there at each
    `sync`, and about once a minute.

    Attributes: validation: task -> metrics of the validation after `step`, if the file has them; null is nan.
    """

    def __init__(self, workdir: str, step: int, write: bool = True):
        self.validation: dict[str, dict[str, float]] = {}
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
        rows = [row for row in _complete_rows(path) if row["step"] <= step]
        for row in (row for row in rows if row["step"] == step):
            for task, metrics in row.get("validation", {}).items():
                self.validation[task] = {name: math.nan if v is None else v for name, v in metrics.items()}
        # A new file that is then renamed: a kill while it is being written must not cost the history.
        write_text(path, "".join(map(_line, rows)))
        self._file = open(path, "a", encoding="utf-8")
        self._board = metric_writers.SummaryWriter(os.path.join(workdir, "tensorboard"))

    def write(self, row: dict) -> None:
        if self._file is None:
            return
        self._file.write(_line(row))
        self._file.flush()
        # Not more than a fiftieth of the time, however long the history has become.
        if self._bucket is not None and time.monotonic() - self._synced > max(60.0, 50 * self._seconds):
            self.sync()
        self._board.write_scalars(row["step"], _scalars(row))

    def sync(self) -> None:
        """When this returns, a machine that vanishes takes no row along."""
        if self._file is None or self._bucket is None:
            return
        started = time.monotonic()
        folder(self._file.name).copy(self._bucket, overwrite=True)
        self._synced, self._seconds = time.monotonic(), time.monotonic() - started

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self.sync()
            self._file.close()
            self._board.close()
            self._file = None
            if self._bucket is not None:
                self._scratch.cleanup()


def _complete_rows(path: str) -> Iterator[dict]:
    """The rows up to the first that is incomplete."""
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
            yield row
