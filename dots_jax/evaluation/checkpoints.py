"""Evaluation of one checkpoint, or of every one that a run kept, as a table, as JSON and on TensorBoard."""

import json
import os

import jax
from clu import metric_writers

from dots_jax.checkpoint.open import open_checkpoint
from dots_jax.config import EvalConfig
from dots_jax.data.mixtures import register
from dots_jax.evaluation.perplexity import Scorer, check_task, table
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.mesh import make_mesh
from dots_jax.storage import folder, write_text


def evaluate(config: EvalConfig, workdir: str) -> int:
    """Scores config.tasks with the checkpoints that config.checkpoint names, in workdir."""
    # Which checkpoints, and of which model.
    which = config.checkpoint
    opened = open_checkpoint(workdir, None if which in ("latest", "all") else int(which))
    steps, model = opened.steps if which == "all" else [opened.step], opened.model
    config = config.for_devices(model, jax.device_count())
    register(config.data)
    for task in config.tasks:
        check_task(task, model, config.seq_len, config.data.cache_dir)

    # Score.
    definition = ModelDef(model, config.compute, make_mesh(config.mesh))
    scorer = Scorer(definition, config.compute)
    results = {}
    for step in steps:
        checkpoint = opened.at(step)
        params, router_bias = checkpoint.restore(definition.abstract(), definition.shardings())
        results[step] = {
            task: scorer.evaluate(
                params, router_bias, task, config.seq_len, config.batch_tokens // config.seq_len,
                config.data.cache_dir, config.max_sequences,
            )
            for task in config.tasks
        }  # fmt: skip
        if jax.process_index() == 0:
            print(f"step {step:,} ({checkpoint.metadata.tokens:,} tokens)\n{table(results[step])}", flush=True)

    # Write down.
    if jax.process_index() == 0:
        _write(workdir, results)
    return 0


def _write(workdir: str, results: dict[int, dict[str, dict[str, float]]]) -> None:
    """`eval.json` (step -> task -> metrics; steps evaluated before stay) and TensorBoard scalars."""
    path = folder(workdir) / "eval.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    write_text(path, json.dumps(before | {str(step): tasks for step, tasks in results.items()}, indent=1))
    board = metric_writers.SummaryWriter(os.path.join(workdir, "tensorboard"))
    for step, tasks in results.items():
        for task, metrics in tasks.items():
            board.write_scalars(step, {f"eval/{task}/{name}": float(value) for name, value in metrics.items()})
    board.close()
