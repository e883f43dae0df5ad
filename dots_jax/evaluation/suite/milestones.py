"""`dots evaluate --steps`: the rows and the validation loss of one checkpoint after another (figure 4 of the report).

    OUTPUT/step_100/     the folder of one evaluation, as without --steps
    OUTPUT/dynamics.json step, tokens, scores and loss of every checkpoint
    OUTPUT/dynamics.png  all of it over tokens

Each answer is stored as soon as it is there, and each loss when it is complete, so that a run that is stopped goes on where it was.
One model is in memory at a time.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from dots_jax.checkpoint.open import Opened
from dots_jax.cli.options import EvaluateOptions
from dots_jax.config import UserError
from dots_jax.curriculum.stages import Schedule
from dots_jax.data.sources import json_lines
from dots_jax.evaluation.rows.table import ROWS
from dots_jax.evaluation.suite.answering import Answerer
from dots_jax.evaluation.suite.published import FIGURES
from dots_jax.evaluation.suite.summary import RowSummary
from dots_jax.inference.text import Vocabulary
from dots_jax.parallel.exchange import from_first
from dots_jax.storage import atomic_write, open_file, write_text

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's


class Texts(NamedTuple):
    """Texts in rows of tokens, each with one before the first that is scored. digest: of the file."""

    name: str
    digest: str
    rows: list[list[int]]
    tokens: int
    bytes: int


def chosen_steps(options: EvaluateOptions, opened: Opened) -> list[int]:
    """The steps that --steps names, rising. Raises UserError for others, and for a run without milestones."""
    if options.step is not None:
        raise UserError("--step is one checkpoint and --steps several: give one of them.")
    if options.steps == "all":
        return opened.steps
    if options.steps != "milestones":
        words = [word.strip() for word in options.steps.split(",") if word.strip()]
        if not words or not all(map(str.isdecimal, words)):
            raise UserError(f"--steps is milestones, all, or steps as 100,200, but is {options.steps}.")
        return sorted({opened.at(int(word)).step for word in words})
    saves = opened.metadata.schedule_of_saves
    found = []
    if saves and saves.milestone_tokens:
        found = Schedule(opened.metadata.stages).milestones(opened.steps, saves.every_steps, saves.milestone_tokens)
    if not found:
        raise UserError(
            f"{opened.checkpoints or opened.path} keeps no milestones: give --steps=all, or steps as 100,200."
        )
    return found


def read_texts(path: str, vocabulary: Vocabulary, context: int) -> Texts:
    """The texts of a file of JSON lines (their field `text`), or a file of plain text as one.

    Raises UserError for a line without a text, and a file without any.
    """
    with open_file(path) as file:
        content = file.read()
    if ".json" in os.path.basename(path):
        texts = []
        for number, fields in json_lines.read_rows(path):
            if (
                isinstance(fields, json_lines.Malformed)
                or not isinstance(fields, dict)
                or not isinstance(fields.get("text"), str)
            ):
                raise UserError(f"{path} line {number} has no text: --validation reads the field text of each line.")
            texts.append(fields["text"])
    else:
        texts = [content.decode("utf-8-sig", "replace")]
    rows, tokens = [], 0
    for text in texts:
        ids = [vocabulary.eos_id, *vocabulary.encode(text)]
        tokens += len(ids) - 1
        rows += [ids[first : first + context + 1] for first in range(0, len(ids) - 1, context)]
    # As many as the context are fed: the last one is a target alone.
    if not tokens:
        raise UserError(f"{path} holds no text: --validation measures the loss of its texts.")
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return Texts(os.path.basename(path), hashlib.sha256(content).hexdigest(), rows, tokens, size)


def evaluate_steps(
    options: EvaluateOptions, checkpoints: Sequence[Opened], answerer: Answerer,
    run: Callable[[Opened, str], list[RowSummary]], texts: Texts | None,
) -> None:  # fmt: skip
    """Runs the rows of each checkpoint, measures its loss, and writes the table and the picture anew after each."""
    found, first = [], jax.process_index() == 0
    for opened in checkpoints:
        output = os.path.join(options.output, f"step_{opened.step}")
        if first:
            print(f"step {opened.step:,} ({opened.metadata.tokens:,} tokens)", flush=True)
        rows = run(opened, output)
        scores = {row.name: row.as_json() for row in rows}
        loss = _loss(output, answerer, texts) if texts else _loss_of_run(opened)
        if not first:
            continue
        found.append({"step": opened.step, "tokens": opened.metadata.tokens, "rows": scores, "loss": loss})
        text = json.dumps({"suite": options.suite, "steps": found}, indent=1, ensure_ascii=False)
        write_text(f"{options.output}/dynamics.json", text + "\n")
        with atomic_write(f"{options.output}/dynamics.png", "wb") as file:
            file.write(draw(options.suite, found))
    if first:
        print(f"{options.output}/dynamics.png")


def _loss(output: str, answerer: Answerer, texts: Texts) -> dict[str, dict[str, float]]:
    """Measured once for the weights of this folder, which `run.json` names, and a file."""
    path = f"{output}/loss.json"

    def read() -> tuple[str, dict]:
        with open(f"{output}/run.json", encoding="utf-8") as file:
            key = hashlib.sha256(f"{file.read()}{texts.digest}".encode()).hexdigest()
        if not os.path.exists(path):
            return key, {}
        with open(path, encoding="utf-8") as file:
            return key, json.load(file)

    key, stored = from_first(read)
    first = jax.process_index() == 0
    if key not in stored:
        nats = answerer.text_loss(texts.rows)
        counts = {"tokens": texts.tokens, "bytes": texts.bytes}
        stored[key] = {"nats_per_token": nats / texts.tokens, "nats_per_byte": nats / texts.bytes, **counts}
        if first:
            write_text(path, json.dumps(stored, indent=1) + "\n")
    found = stored[key]
    if first:
        print(
            f"{texts.name}: {found['nats_per_token']:.4f} nats a token, {found['nats_per_byte']:.4f} a byte", flush=True
        )
    return {texts.name: stored[key]}


def _loss_of_run(opened: Opened) -> dict[str, dict[str, float]]:
    """What the run's own validation after this step found, if metrics.jsonl has it."""
    path = opened.workdir / "metrics.jsonl" if opened.workdir else None
    found: dict[str, dict[str, float]] = {}
    if path is not None and path.exists():
        for line in path.read_text().splitlines():
            if '"validation"' in line and (row := _row(line)).get("step") == opened.step:
                found |= row.get("validation") or {}
    return found


def _row(line: str) -> dict:
    try:
        return json.loads(line)
    except ValueError:  # the last line of a run that is just writing
        return {}


def draw(suite: str, steps: Sequence[dict]) -> bytes:
    """A PNG: a panel for each row, generated and ranked, and one for the loss, over tokens."""
    from matplotlib.figure import Figure

    names = list(steps[0]["rows"])
    columns, panels = 4, len(names) + 1
    lines = -(-panels // columns)
    figure = Figure(figsize=(3 * columns, 2.5 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    tokens = [step["tokens"] for step in steps]
    scale, unit = next(
        ((s, u) for s, u in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")) if max(tokens) >= s), (1, "")
    )
    at = [count / scale for count in tokens]
    for axis, name in zip(axes, names):
        for place, (kind, style) in enumerate((("generated", "o-"), ("ranked", "s--"))):
            pairs = [(x, step["rows"][name][kind]) for x, step in zip(at, steps) if step["rows"][name].get(kind)]
            if pairs:
                score = lambda pair: pair["score"]
                error = [2 * pair["standard_error"] for _, pair in pairs]
                axis.errorbar([x for x, _ in pairs], [score(pair) for _, pair in pairs], error, fmt=style, capsize=2,
                              color=COLOURS[place], markersize=4, label=kind)  # fmt: skip
        missing = steps[-1]["rows"][name].get("missing")
        if missing:
            axis.text(0.5, 0.5, missing.partition(":")[0], transform=axis.transAxes, ha="center", color="#888888")
        report = FIGURES[suite].get(name)
        axis.set(title=ROWS[name].title + (f" (report {report})" if report else ""), ylim=(-3, 103))
    loss = axes[len(names)]
    for place, name in enumerate(dict.fromkeys(name for step in steps for name in step["loss"])):
        pairs = [(x, step["loss"][name]) for x, step in zip(at, steps) if name in step["loss"]]
        loss.plot([x for x, _ in pairs], [each["nats_per_byte"] for _, each in pairs], "o-", markersize=4,
                  color=COLOURS[place % len(COLOURS)], label=name)  # fmt: skip
    loss.set(title="validation loss, nats per byte")
    for axis in axes[:panels]:
        axis.set_xlabel(f"tokens, {unit}")
        axis.set_xlim(0, 1.05 * max(*at, 1e-9))
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(fontsize=7)
    for axis in axes[panels:]:
        axis.remove()
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120, metadata={"Software": None})
    return data.getvalue()
