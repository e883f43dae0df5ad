"""The periodic work of a run: report, validate, profile, stop. `loop.py` says when each of them is due."""

import contextlib
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from dots_jax.checkpoint.store import Checkpoints
from dots_jax.config import UserError
from dots_jax.curriculum.stages import StepPlan
from dots_jax.curriculum.token_ledger import total
from dots_jax.evaluation.perplexity import Scorer
from dots_jax.model.flops import flops_per_token
from dots_jax.storage import folder, in_bucket
from dots_jax.training.metrics import MetricsLog, to_row
from dots_jax.training.report import Progress
from dots_jax.training.run import Run
from dots_jax.training.state import TrainState

STOP_SIGNALS = (signal.SIGTERM,)

# --- report -----------------------------------------------------------------------------------------------------------


class Report:
    """Turns the metrics of finished steps into rows and progress, and stops a run whose losses are not finite.

    The metrics of a step are read while the next one runs, so that the device never waits for the host.
    """

    def __init__(self, run: Run, log: MetricsLog, checkpoints: Checkpoints, first_step: int, started: float):
        """started: time.perf_counter() at the start of the command."""
        self._run, self._log, self._checkpoints = run, log, checkpoints
        before = run.schedule.tokens_before
        self._progress = Progress(before(run.last_step), before(first_step), jax.process_index() == 0)
        self._pending: tuple[StepPlan, dict] | None = None
        self._shapes: set[tuple] = set()
        self._started, self._last = started, time.perf_counter()

    def __call__(self, plan: StepPlan, metrics: dict) -> None:
        """Reports the step before, and keeps this one."""
        previous, self._pending = self._pending, (plan, metrics)
        if previous:
            self._report(*previous)

    def flush(self) -> None:
        """Reports the step that is kept, which waits for the device."""
        if self._pending:
            self._report(*self._pending)
            self._pending = None

    def note(self, text: str) -> None:
        self._progress.note(text)

    def restart_clock(self) -> None:
        """The time since the last report belongs to no step."""
        self._last = time.perf_counter()

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *_) -> None:
        self._progress.close()

    def _report(self, plan: StepPlan, metrics: dict) -> None:
        run, step = self._run, plan.step + 1
        metrics = jax.device_get(metrics)
        tokens = run.schedule.tokens_before(step) - plan.tokens
        timing = self._timing(plan, tokens)
        self._progress.update(plan.stage.name, step, float(metrics["loss"]), tokens)
        if metrics["nonfinite_streak"]:
            self.note(f"warning: step {step:,}: loss or gradient not finite, step skipped")
        if metrics["spike"]:
            self.note(f"warning: step {step:,}: loss spike, {metrics['loss']:.4f}")
        if run.logs_after(step):
            self._log.write(self._row(plan, step, metrics, timing))
        if metrics["nonfinite_streak"] >= run.config.guard.max_nonfinite:
            self._checkpoints.wait()
            kept = self._checkpoints.steps()
            raise UserError(
                f"The loss or a gradient was not finite for {metrics['nonfinite_streak']} steps in a row, up to step {step:,}; "
                "these steps did not change the parameters. "
                + (f"The newest checkpoint is of step {kept[-1]:,}. " if kept else "")
                + "Look at the data of these steps, lower the learning rate, or raise GuardConfig.max_nonfinite."
            )

    def _timing(self, plan: StepPlan, tokens: int) -> dict[str, float]:
        run, now = self._run, time.perf_counter()
        seconds, self._last = now - self._last, now
        shape = (plan.batch_size, plan.stage.seq_len, plan.microbatches)
        if shape not in self._shapes:  # this step includes its compilation: its time says nothing about speed
            self._shapes.add(shape)
            self.note(
                f"first step  with {plan.batch_size} x {plan.stage.seq_len} tokens: {seconds:.1f} s with its compilation"
                + (f", {now - self._started:.1f} s after the start" if len(self._shapes) == 1 else "")
            )
            return {"first_step_seconds": seconds}
        flops = tokens * flops_per_token(run.config.model, plan.stage.seq_len)
        return {
            "step_seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "mfu": flops / seconds / (run.peak_flops * run.config.mesh.size),
        }

    def _row(self, plan: StepPlan, step: int, metrics: dict, timing: dict) -> dict:
        load = metrics.pop("load")
        stages = self._run.ledger.stages(step)
        here, run = stages[plan.stage.name], total(stages)
        return to_row(
            step, metrics, mean_load=load.mean(axis=1), tokens=self._run.schedule.tokens_before(step),
            learning_rate=np.float32(plan.learning_rate), stage=plan.stage.name, stage_index=plan.stage_index,
            epoch={source: part["epochs"] for source, part in run.items()},
            source_tokens={source: part["tokens"] for source, part in run.items()},
            stage_epoch={source: part["epochs"] for source, part in here.items()},
            stage_source_tokens={source: part["tokens"] for source, part in here.items()}, **timing,
        )  # fmt: skip


# --- validate ---------------------------------------------------------------------------------------------------------


class Validation:
    """Scores the tasks of TrainConfig.validation: a row of metrics each time, written once however often a run resumes.

    All validations of a process use one compiled program, with the sequence length and (micro)batch of the first stage.
    """

    def __init__(self, run: Run, log: MetricsLog, report: Report):
        self._run, self._log, self._report = run, log, report
        self._scorer = Scorer(run.model_def, run.config.compute)
        self.results: dict[str, dict[str, float]] = log.validation  # of the newest validation: task -> metrics

    def resume(self, step: int, state: TrainState) -> None:
        """Scores what a run that was stopped between its checkpoint of `step` and the validation after it left out."""
        if self._run.validates_after(step):
            missing = [task not in self._log.validation for task in self._run.config.validation]
            missing = multihost_utils.broadcast_one_to_all(np.array(missing, np.int32))  # process 0 has the log
            self._score(step, state, [task for task, miss in zip(self._run.config.validation, missing) if miss])

    def __call__(self, step: int, state: TrainState) -> None:
        self._report.flush()  # the row of the step comes before that of its validation
        self.results = {}
        self._score(step, state, self._run.config.validation)

    def _score(self, step: int, state: TrainState, tasks: list[str]) -> None:
        if not tasks:
            return
        config, plan = self._run.config, self._run.schedule.at(0)
        found = {
            task: self._scorer.evaluate(
                state.params, state.router_bias, task, plan.stage.seq_len, plan.batch_size // plan.microbatches,
                config.data.cache_dir, config.validation_sequences,
            )
            for task in tasks
        }  # fmt: skip
        self.results = self.results | found
        self._log.write(to_row(step, {}, tokens=self._run.schedule.tokens_before(step), validation=found))
        told = ", ".join(f"{task} {metrics['nats_per_byte']:.4f} nats/byte" for task, metrics in found.items())
        self._report.note(f"validation  step {step:,}: {told}")
        self._report.restart_clock()


# --- profile ----------------------------------------------------------------------------------------------------------


class Profile:
    """Traces the steps of ProfileConfig into WORKDIR/profile, on process 0: all processes run the same program.

    A run that resumes inside the window traces the rest of it. Leaving the `with` block closes the trace.
    """

    def __init__(self, run: Run, report: Report):
        config = run.config.profile
        self._window = range(config.first_step, config.first_step + config.num_steps)
        self._report, self._folder = report, folder(run.options.workdir) / "profile"
        self._traced: list[int] = []
        self._open = contextlib.ExitStack()

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around the dispatch of step `number`, counted from 1."""
        if number in self._window:
            if not self._traced:
                self._report.flush()  # waits for the device: the trace holds complete steps
                self._open.enter_context(self._trace() if jax.process_index() == 0 else contextlib.nullcontext())
                self._report.restart_clock()
            self._traced.append(number)
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def after(self, number: int) -> None:
        """Closes the trace if step `number` was the last of the window."""
        if number in self._traced and number + 1 not in self._window:
            self._report.flush()
            self._open.close()
            self._report.restart_clock()

    @contextlib.contextmanager
    def _trace(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as scratch:
            # The profiler writes to local disks only.
            target = scratch if in_bucket(self._folder) else str(self._folder)
            jax.profiler.start_trace(target)
            try:
                yield
            finally:
                jax.profiler.stop_trace()
                if target == scratch:
                    _copy_files(folder(scratch), self._folder)
        steps = f"{self._traced[0]:,} to {self._traced[-1]:,}"
        self._report.note(f"profile     steps {steps} in {self._folder}: tensorboard --logdir {self._folder}")

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, error: type | None, *_) -> None:
        self._open.close()
        if self._window and not self._traced and error is None:
            window = f"{self._window[0]:,} to {self._window[-1]:,}"
            self._report.note(f"profile     nothing traced: steps {window} were not among the steps of this process")


def _copy_files(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_dir():
            _copy_files(path, target / path.name)
        else:
            path.copy(target / path.name, overwrite=True)


# --- stop -------------------------------------------------------------------------------------------------------------


class StopSignal:
    """Whether SIGTERM came. With several processes all of them learn of it at the same step."""

    def __init__(self):
        self._event = threading.Event()

    def __enter__(self) -> "StopSignal":
        # Several processes: jax's own preemption service listens for SIGTERM and agrees on a step.
        listens = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
        self._old = {s: signal.signal(s, lambda *_: self._event.set()) for s in STOP_SIGNALS if listens}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def requested(self, step: int) -> bool:
        if jax.process_count() == 1:
            return self._event.is_set()
        return multihost_utils.reached_preemption_sync_point(step)
