"""Evaluation of one checkpoint, or of every one that a run kept, as a table, as JSON and on TensorBoard."""

import json
import os
from types import SimpleNamespace

import jax
from clu import metric_writers

from dots_jax.checkpoint.store import Checkpoints
from dots_jax.config import EvalConfig, UserError, model_from_dict
from dots_jax.data.mixtures import register
from dots_jax.evaluation.perplexity import Scorer, check_task, table
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.mesh import make_mesh
from dots_jax.storage import folder

INIT_STD = 1.0  # of arrays that are never made: the parameters come from the checkpoint


def evaluate(config: EvalConfig, options: SimpleNamespace) -> int:
    """Scores config.tasks with the checkpoints that config.checkpoint names, in options.workdir."""
    # Which checkpoints, and of which model.
    checkpoints = _open(options.workdir)
    steps = _choose(checkpoints, config.checkpoint)
    model = model_from_dict(_readable_record(checkpoints, steps)["model"])
    config = config.for_devices(model, jax.device_count())
    register(config.data)
    for task in config.tasks:
        check_task(task, model, config.data.cache_dir)

    # Score.
    definition = ModelDef(model, config.compute, make_mesh(config.mesh), INIT_STD)
    scorer = Scorer(definition, config.compute)
    results = {}
    for step in steps:
        weights = checkpoints.restore_model(step, _abstract_model(definition))
        results[step] = {
            task: scorer.evaluate(
                weights["params"], weights["router_bias"], task, config.seq_len, config.batch_tokens // config.seq_len,
                config.data.cache_dir, config.max_sequences,
            )
            for task in config.tasks
        }  # fmt: skip
        if jax.process_index() == 0:
            tokens = checkpoints.record(step)["tokens"]
            print(f"step {step:,} ({tokens:,} tokens)\n{table(results[step])}", flush=True)

    # Write down.
    if jax.process_index() == 0:
        _write(options.workdir, results)
    return 0


def _open(workdir: str) -> Checkpoints:
    if not (folder(workdir) / "checkpoints").is_dir():
        raise UserError(f"There are no checkpoints in {workdir}: give the --workdir of a training run.")
    return Checkpoints(workdir)


def _choose(checkpoints: Checkpoints, which: str) -> list[int]:
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"There is no finished checkpoint in {checkpoints.folder}.")
    if which == "all":
        return steps
    step = steps[-1] if which == "latest" else int(which)
    if step not in steps:
        raise UserError(
            f"There is no checkpoint of step {step} in {checkpoints.folder}: it has {', '.join(map(str, steps))}."
        )
    return [step]


def _readable_record(checkpoints: Checkpoints, steps: list[int]) -> dict:
    try:
        return checkpoints.record(steps[0])
    except Exception as error:
        raise UserError(
            f"The checkpoint of step {steps[0]} in {checkpoints.folder} cannot be read: training moves it to damaged/ when it "
            "goes on; to score another one, set EvalConfig.checkpoint to its step."
        ) from error


def _abstract_model(definition: ModelDef) -> dict:
    shapes = dict(zip(("params", "router_bias"), definition.abstract()))
    shardings = dict(zip(("params", "router_bias"), definition.shardings()))
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
    )


def _write(workdir: str, results: dict[int, dict[str, dict[str, float]]]) -> None:
    """`eval.json` (step -> task -> metrics; steps evaluated before stay) and TensorBoard scalars."""
    path, new = folder(workdir) / "eval.json", folder(workdir) / "eval.json.new"
    before = json.loads(path.read_text()) if path.exists() else {}
    new.write_text(json.dumps(before | {str(step): tasks for step, tasks in results.items()}, indent=1))
    new.replace(path)
    board = metric_writers.SummaryWriter(os.path.join(workdir, "tensorboard"))
    for step, tasks in results.items():
        for task, metrics in tasks.items():
            board.write_scalars(step, {f"eval/{task}/{name}": float(value) for name, value in metrics.items()})
    board.close()
