"""`dots evaluate --row --verdicts`: judges given predictions, without a model. And `--list`."""

import collections
import json
import os
import sys
import time
from collections.abc import Iterator

from dots_jax.config import UserError
from dots_jax.evaluation.rows.row import Row, Tools, score_items
from dots_jax.evaluation.rows.table import ROWS, get_row
from dots_jax.evaluation.scoring.score import Score
from dots_jax.evaluation.tasks.files import Files, NoData
from dots_jax.evaluation.tasks.table import TASKS
from dots_jax.evaluation.tasks.task import Making, Task
from dots_jax.storage import atomic_write, open_file


def judge_file(name: str, source: str, target: str, unsafe_code: bool = False) -> None:
    """Writes the rows of `source` again, each with `extracted`, `correct`, `score` and what else its metric has.

    Raises:
      UserError: a row that does not exist, a file that cannot be read, a line that is no such row, an id that comes twice.
    """
    row, began = get_row(name), time.monotonic()
    if os.path.realpath(source) == os.path.realpath(target):
        raise UserError(f"--output is the same file as --verdicts ({target}): give another one.")
    items = list(read_items(source, row))
    with Tools(unsafe_code) as tools:
        scores = score_items(
            row, [(item["prediction"], item.get("gold")) for item in items], tools, _progress(len(items))
        )
    with atomic_write(target) as file:
        for item, score in zip(items, scores):
            file.write(json.dumps(item | as_json(score), ensure_ascii=False).encode("utf-8", "replace").decode() + "\n")
    print(summary(row, scores, time.monotonic() - began))


def as_json(score: Score) -> dict:
    """The fields that are added to a row. `correct` is null where a judge's reply is unreadable or the item is left out."""
    fields = {"extracted": score.extracted, "correct": score.correct, "score": score.value}
    return fields | ({"details": score.details} if score.details else {})


def read_items(source: str, row: Row) -> Iterator[dict]:
    seen: dict[str, int] = {}
    with open_file(source) as file:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            where = f"{source}, line {number}"
            try:
                item = json.loads(line)
            except ValueError:
                raise UserError(f"{where} is no JSON: each line is one row with id, prediction and gold.") from None
            needed = ("id", "prediction") if row.judged else ("id", "prediction", "gold")
            missing = [each for each in needed if not isinstance(item, dict) or item.get(each) is None]
            if missing:
                raise UserError(f"{where} has no {missing[0]}: each line is one row with {', '.join(needed)}.")
            key = json.dumps(item["id"], sort_keys=True)
            if key in seen:
                raise UserError(f"{where} has the id {item['id']!r} of line {seen[key]}: ids must differ.")
            seen[key] = number
            yield item
    if not seen:
        raise UserError(f"{source} holds no rows.")


def summary(row: Row, scores: list[Score], seconds: float) -> str:
    """One line: items, score with its standard error, unparsed ones, and what was left out, by name."""
    values = [score.value for score in scores if score.value is not None]
    left_out = collections.Counter(
        str(score.details.get("left_out", "judge not understood")) for score in scores if score.value is None
    )
    parts = [f"{row.name}: {len(scores)} items"]
    if values:
        mean = sum(values) / len(values)
        error = (sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1) / len(values)) ** 0.5
        parts.append(f"score {100 * mean:.2f} +- {100 * error:.2f}")
    parts.append(f"{sum(score.extracted is None for score in scores if score.value is not None)} without an answer")
    verdicts = collections.Counter(score.details["verdict"] for score in scores if score.details.get("verdict"))
    parts += [f"{count} {name}" for name, count in sorted(verdicts.items())]
    parts += [f"{count} left out ({name})" for name, count in left_out.items()]
    return ", ".join(parts) + f", {seconds:.1f} s"


def _progress(total: int):
    def show(items):
        if total < 50 or not sys.stderr.isatty():
            return items
        from tqdm import tqdm

        return tqdm(items, total=total, unit="item")

    return show


def list_rows(data: str | None = None) -> str:
    """One block a row: title, metric, reference, files, licence, and what gold is. With the folder `data`: what is present."""
    lines = []
    for row in ROWS.values():
        tables = "figure 4" if row.tables == (4,) else "table " + " and ".join(map(str, row.tables))
        lines.append(f"{row.name} ({row.title}, {tables})")
        lines.append(f"  metric     {row.metric}" + (f"; needs the {row.needs}" if row.needs else ""))
        lines += [f"  reference  {row.reference}", f"  files      {row.files}", f"  licence    {row.licence}"]
        gold = (
            "none: the prediction is the judge's reply"
            if row.judged
            else row.gold or "the answer's letter or number, or the item"
        )
        lines.append(f"  gold       {gold}")
        task = TASKS.get(row.name)
        if task:
            lines.append(f"  layout     DATA/{task.folder or row.name}: {task.layout}")
            lines.append(f"  shots      {task.shots}" + (f"; deviates: {task.deviation}" if task.deviation else ""))
        if data:
            lines.append(f"  present    {_presence(task, data, row.name) if task else 'no task yet'}")
    return "\n".join(lines)


def _presence(task: Task, data: str, name: str) -> str:
    """Whether the row's files are in DATA, and how many items they hold."""
    try:
        if task.make:
            task.make(Files(data, task.folder or name), Making(list, (), 0, 0))
            return "all that it is made from"
        groups = list(task.load(Files(data, task.folder or name)))
        return f"{sum(1 for group in groups for _ in group.items):,} items in {len(groups)} groups"
    except UserError as error:
        return f"no data: {error}" if isinstance(error, NoData) else f"cannot be used: {error}"
