"""A training run on one screen: prepare, open, restore or initialise, then the steps and their periodic work."""

import functools
import time

import jax
import jax.numpy as jnp

from dots_jax.cli.options import RunOptions
from dots_jax.config import TrainConfig
from dots_jax.evaluation.perplexity import table
from dots_jax.parallel.prefetch import Prefetcher
from dots_jax.training.conversations import conversation_lines, template_warning
from dots_jax.training.hooks import Profile, Report, StopSignal, Validation
from dots_jax.training.metrics import MetricsLog
from dots_jax.training.preflight import check_workdir, open_run, prepare
from dots_jax.training.report import farewell, header, say
from dots_jax.training.resume import restore_or_initialise, write_config
from dots_jax.training.run import Run
from dots_jax.training.samples import Samples
from dots_jax.training.state import to_items
from dots_jax.training.step import jit_train_step

STOPPED = 75  # exit status after SIGTERM, with --exit_codes: "try again", as in sysexits.h


def train(config: TrainConfig, options: RunOptions) -> int:
    """Trains in options.workdir, from its newest checkpoint if there is one. Returns the exit status.

    Raises UserError for everything that a user can fix; before the first step wherever that can be known.
    """
    started = time.perf_counter()
    run = prepare(config, options)
    say(header(run), *template_warning(run))
    if options.dry_run:
        say(*run.repeats(), *conversation_lines(run))
        check_workdir(run)
        return 0

    with open_run(run) as (run, checkpoints):
        state, step = restore_or_initialise(run, checkpoints)
        if jax.process_index() == 0:
            write_config(run)
        train_step = functools.cache(functools.partial(_compiled_step, run))
        with (
            MetricsLog(options.workdir, step, write=jax.process_index() == 0) as log,
            Report(run, log, checkpoints, step, started) as report,
            Profile(run, report) as profile,
            StopSignal() as stop,
            Prefetcher(run.make_batch, step, run.last_step) as batches,
        ):
            validation = Validation(run, log, report)
            validation.resume(step, state)
            samples = Samples(run, report)
            samples.resume(step, state)
            for _, batch in batches:
                plan = run.schedule.at(step)
                with profile.step(step + 1):
                    state, metrics = train_step(plan.microbatches)(state, batch, jnp.float32(plan.learning_rate))
                step += 1
                report(plan, metrics)
                profile.after(step)
                stopping = stop.requested(step)
                if run.saves_after(step) or stopping:
                    report.flush()  # a run that must stop for its losses must not save first
                    log.sync()
                    checkpoints.save(step, to_items(state), run.metadata(step), run.model_def.stack_axes())
                if stopping and step < run.last_step:
                    report.note(f"SIGTERM: saved a checkpoint after step {step:,}; the same command goes on from there")
                    break
                if run.validates_after(step):  # after the save: a validation that fails or is killed costs no step
                    validation(step, state)
                if run.samples_after(step):
                    samples(step, state)
            report.flush()
            checkpoints.wait()
        if step == run.schedule.num_steps and validation.results:
            say(table(validation.results))
        say(*farewell(run, step, checkpoints.steps(), checkpoints.folder))
    return STOPPED if options.exit_codes and step < run.last_step else 0


def _compiled_step(run: Run, microbatches: int):
    """Compiled at its first call for each shape of batch."""
    config = run.config
    return jit_train_step(
        run.model_def, run.optimizer, compute=config.compute, balance=config.balance, guard=config.guard,
        microbatches=microbatches,
    )  # fmt: skip
