"""The folder of a run: `run.json` says of what, `items.jsonl` gets a line for each answer as it comes.

    OUTPUT/run.json     weights, tokenizer, dtype: what every answer depends on
    OUTPUT/items.jsonl  one JSON object an answer, with its key

A process that is killed leaves at most one broken line at the end, which the next one removes.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator

from dots_jax.config import UserError
from dots_jax.evaluation.suite.requests import VERSION, Setting
from dots_jax.locks import owned
from dots_jax.parallel.exchange import from_first
from dots_jax.storage import in_bucket, write_text

RECORD, ITEMS = "run.json", "items.jsonl"


class Results:
    """The answers of one run; made by `open_results`. Of several processes the first one writes."""

    def __init__(self, folder: str):
        self.path = os.path.join(folder, ITEMS)
        self.keys: set[str] = set()
        size = self._read()
        self._file = open(self.path, "ab")
        if self._file.tell() != size:
            self._file.truncate(size)

    def _read(self) -> int:
        """Takes the keys of all complete lines; returns their bytes."""
        size = 0
        if os.path.exists(self.path):
            with open(self.path, "rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    try:
                        self.keys.add(json.loads(line)["key"])
                    except (ValueError, KeyError, TypeError):
                        raise UserError(f"{self.path} has a line that is no answer: give another --output.") from None
                    size += len(line)
        return size

    def add(self, lines: Iterable[dict]) -> None:
        """Appends the answers of one batch; they are on the disk when it returns."""
        lines = list(lines)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        self._file.write(text.encode("utf-8", "replace"))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.keys.update(line["key"] for line in lines)

    def lines(self, keys: set[str]) -> Iterator[dict]:
        """The answers with these keys, in the order in which they came."""
        with open(self.path, "rb") as file:
            for line in file:
                answer = json.loads(line)
                if answer["key"] in keys:
                    yield answer

    def close(self) -> None:
        self._file.close()


class OtherProcess:
    """The answers as a process sees them that does not write: it knows which are there."""

    def __init__(self):
        self.keys: set[str] = set()

    def add(self, lines: Iterable[dict]) -> None:
        self.keys.update(line["key"] for line in lines)

    def lines(self, keys: set[str]) -> Iterator[dict]:
        return iter(())


@contextlib.contextmanager
def open_shared(folder: str, setting: Setting) -> Iterator[Results | OtherProcess]:
    """`open_results` in process 0; every process knows the same answers. Raises UserError in all of them."""
    with contextlib.ExitStack() as stack:
        opened: list[Results] = []

        def keys() -> list[str]:
            opened.append(stack.enter_context(open_results(folder, setting)))
            return sorted(opened[0].keys)

        known = from_first(keys)
        results = opened[0] if opened else OtherProcess()
        results.keys = set(known)
        yield results


@contextlib.contextmanager
def open_results(folder: str, setting: Setting) -> Iterator[Results]:
    """Raises UserError for a folder of another run, one that another process works in, and a bucket."""
    if in_bucket(folder):
        raise UserError(f"--output must be a folder of this machine, since answers are appended, but is {folder}.")
    record = {"version": VERSION, **dataclasses.asdict(setting)}
    path = os.path.join(folder, RECORD)
    if os.path.exists(path):
        with open(path) as file:
            before = json.load(file)
        if before != record:
            names = ", ".join(name for name in record if before.get(name) != record[name])
            raise UserError(f"{folder} holds the answers of another run (different: {names}): give another --output.")
    elif os.path.exists(os.path.join(folder, ITEMS)):
        raise UserError(f"{folder} has answers but no {RECORD}, so that their run is unknown: give another --output.")
    with owned(folder, "the evaluation"):
        if not os.path.exists(path):
            write_text(path, json.dumps(record, indent=1) + "\n")
        results = Results(folder)
        try:
            yield results
        finally:
            results.close()
