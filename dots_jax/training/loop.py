"""The training run, from a config to a trained model: check, open, restore, step, finish."""

import contextlib
import dataclasses
import signal
import threading
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from dots_jax.checkpoint.store import Checkpoints, check_disk, check_same_model, disk_errors
from dots_jax.config import TrainConfig, UserError, to_dict
from dots_jax.curriculum.mixture_use import Rates, Size, declared_rates, known_sizes, repeats, uses
from dots_jax.curriculum.stages import Schedule, StepPlan
from dots_jax.curriculum.token_ledger import TokenLedger, total
from dots_jax.data.mixtures import register
from dots_jax.data.registry import registered_rates
from dots_jax.data.sequences.mixture_sequences import MixtureSequences
from dots_jax.evaluation.perplexity import Scorer, table
from dots_jax.model.flops import flops_per_token
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.batches import put_batch
from dots_jax.parallel.distributed import once_per_process
from dots_jax.parallel.mesh import make_mesh
from dots_jax.parallel.prefetch import Prefetcher
from dots_jax.parallel.sharding import batch_sharding
from dots_jax.parallel.topology import peak_flops
from dots_jax.storage import folder
from dots_jax.training.initial import check_initial, first_state
from dots_jax.training.metrics import MetricsLog, to_row
from dots_jax.training.optimizer import make_optimizer
from dots_jax.training.preflight import check_names, check_workdir, open_stages
from dots_jax.training.report import Progress, header
from dots_jax.training.state import TrainState, abstract_state, bytes_per_device, from_items, to_items
from dots_jax.training.step import jit_train_step

STOP_SIGNALS = (signal.SIGTERM,)
STOPPED = 75  # exit status of a supervised run that SIGTERM ended early: "try again", as in sysexits.h


@dataclasses.dataclass
class Run:
    """Everything that stays the same from the first step to the last."""

    config: TrainConfig
    schedule: Schedule
    sequences: list[MixtureSequences]  # one for each stage
    definition: ModelDef
    abstract: TrainState
    checkpoints: Checkpoints
    gin_text: str
    last_step: int
    peak: float

    @property
    def exposure(self) -> TokenLedger:
        return TokenLedger(self.schedule, self.sequences)

    def record(self, step: int) -> dict:
        """What a checkpoint says beside its arrays. `position` is the whole state of the data pipeline."""
        return {
            "step": step,
            "position": self.schedule.position_before(step),
            "tokens": self.schedule.tokens_before(step),
            "data": self._data_of_begun_stages(step),
            "exposure": self.exposure.stages(step),
            "model": to_dict(self.config.model),
            "config": to_dict(self.config),
            "gin": self.gin_text,
        }

    def _data_of_begun_stages(self, step: int) -> list[dict]:
        """All that the order of the text depends on."""
        begun = self.schedule.at(step - 1).stage_index + 1 if step else 0
        return [
            {
                "name": stage.name,
                "mixture": stage.mixture,
                "rates": {task: str(rate) for task, rate in sequences.rates.items()},
                "seq_len": stage.seq_len,
                "seed": self.config.seed,
                "content": sequences.identity,
                **({"untie": dataclasses.asdict(stage.untie)} if stage.untie else {}),
            }
            for stage, sequences in zip(self.config.stages[:begun], self.sequences)
        ]


def train(config: TrainConfig, options: SimpleNamespace) -> int:
    """Runs `config` in options.workdir, from its newest checkpoint if there is one. Returns the exit status.

    options: workdir, gin_text, operative_text, dry_run, max_steps (None: to the end), supervised.
    """
    # Check everything that can be checked before anything is written, made or compiled.
    started = time.perf_counter()
    chief = jax.process_index() == 0
    config = config.for_devices(jax.device_count())
    schedule = Schedule(config.stages)
    mesh = make_mesh(config.mesh)
    definition = ModelDef(config.model, config.compute, mesh, config.optimizer.init_std)
    optimizer = make_optimizer(config.optimizer)
    abstract = abstract_state(definition, optimizer)
    peak, peak_source = peak_flops(mesh.devices.flat[0])
    register(config.data)
    rates = declared_rates(config.data) | registered_rates([stage.mixture for stage in config.stages])
    sizes = known_sizes(config.data)
    if chief:
        print(header(config, schedule, bytes_per_device(abstract), peak, peak_source, rates, sizes), flush=True)
    check_names(config)
    check_initial(config, options.workdir)
    if options.dry_run:
        _warn_of_repeats(config, schedule, rates, sizes)
        check_workdir(config, options.workdir)
        return 0
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract))
    check_disk(options.workdir, size // jax.process_count())

    # Open the data of every stage, and of the validation, now: an error in the last one must not wait for a month.
    sequences: list[MixtureSequences] = []
    once_per_process(lambda: sequences.__init__(open_stages(config)))
    sizes = {task: Size(tokens) for stage in sequences for task, tokens in stage.tokens.items()}
    _warn_of_repeats(config, schedule, rates, sizes)

    # Find the checkpoint to go on from; it must be of this model and at this place of the schedule.
    def is_milestone(step):
        return schedule.is_milestone(step, config.checkpoint.every_steps, config.checkpoint.milestone_tokens)

    checkpoints = Checkpoints(options.workdir, config.checkpoint, is_milestone)
    last_step = min(options.max_steps or schedule.num_steps, schedule.num_steps)
    run = Run(config, schedule, sequences, definition, abstract, checkpoints, options.gin_text, last_step, peak)
    with disk_errors(options.workdir), contextlib.closing(checkpoints):
        record = checkpoints.newest_record()
        if record:
            _check_resumable(record, run, options.workdir)
        restored = checkpoints.restore_newest(to_items(abstract))
        if restored:
            items, record = restored
            state = from_items(items)
            first_step = record["step"]
            if chief:
                print(f"resuming    after step {first_step:,} ({record['tokens']:,} tokens)", flush=True)
        else:
            state = first_state(config, definition, optimizer, abstract)
            first_step = 0
        if chief:
            _write_config(options)

        # Step.
        with contextlib.closing(MetricsLog(options.workdir, first_step, write=chief)) as log:
            state, reached = _steps(run, optimizer, state, first_step, log, started)
            if reached == schedule.num_steps:
                _validate(run, state, log)
        if chief:
            _say_goodbye(run, reached)
    return STOPPED if options.supervised and reached < last_step else 0


def _warn_of_repeats(config: TrainConfig, schedule: Schedule, rates: Rates, sizes: dict[str, Size]) -> None:
    if jax.process_index() == 0:
        for warning in repeats(uses(schedule, rates, sizes), config.data.max_epochs):
            print(warning, flush=True)


def _check_resumable(record: dict, run: Run, workdir: str) -> None:
    """A checkpoint continues only the run that it is of: same model, same data, same place in the schedule."""
    if record.get("kind"):
        raise UserError(
            f"The workdir {workdir} holds weights that were {record['kind']}, not a training run: give them as "
            f"TrainConfig.initial_checkpoint = '{workdir}', and the run a --workdir of its own."
        )
    check_same_model(record["model"], run.config.model, f"The workdir {workdir}")
    step = record["step"]
    expected = run.record(min(step, run.schedule.num_steps))
    if step > run.schedule.num_steps or record["position"] != expected["position"]:
        raise UserError(
            f"The workdir {workdir} has taken {step:,} steps over {record['position']:,} sequences, which the stages as "
            "they are now never do: stages that have begun must stay as they were. Use another --workdir, or the old stages."
        )
    for before, now in zip(record["data"], expected["data"]):
        if before == now:
            continue
        if before["content"] != now["content"] and before["mixture"] == now["mixture"]:
            raise UserError(
                f"The workdir {workdir} was trained on other data than {run.config.data.cache_dir} holds now (another "
                "version of the sources, or of Python for its library): use another --workdir, or the old cache."
            )
        name = next(name for name in before | now if before.get(name) != now.get(name))
        raise UserError(
            f"The workdir {workdir} has begun stage {before['name']!r}, whose {name} was {before.get(name)} and is now "
            f"{now.get(name)}: what has begun must stay as it was. Use another --workdir, or the old setting."
        )


def _write_config(options: SimpleNamespace) -> None:
    for name, text in (("config.gin", options.gin_text), ("operative_config.gin", options.operative_text)):
        (folder(options.workdir) / name).write_text(text)


# --- the steps --------------------------------------------------------------------------------------------------------


def _steps(run: Run, optimizer, state: TrainState, first_step: int, log: MetricsLog, started: float):
    """Steps first_step .. run.last_step; returns the state and the number of steps it has taken.

    The metrics of a step are read while the next one runs, so that the device never waits for the host.
    """
    config, schedule = run.config, run.schedule
    sharding = batch_sharding(run.definition.mesh)
    compiled = {}
    stop = _StopSignal()
    progress = Progress(
        schedule.tokens_before(run.last_step), schedule.tokens_before(first_step), jax.process_index() == 0
    )
    reporter = _Reporter(run, log, progress, started)

    def make_batch(step: int) -> dict[str, jax.Array]:
        plan = schedule.at(step)
        rows = run.sequences[plan.stage_index].rows
        return put_batch(rows, plan.sequence, plan.batch_size, plan.stage.seq_len, sharding)

    step = first_step
    try:
        with stop, Prefetcher(make_batch, first_step, run.last_step) as batches:
            for _, batch in batches:
                plan = schedule.at(step)
                if plan.microbatches not in compiled:
                    compiled[plan.microbatches] = jit_train_step(
                        run.definition, optimizer, compute=config.compute, balance=config.balance, guard=config.guard,
                        microbatches=plan.microbatches,
                    )  # fmt: skip
                state, metrics = compiled[plan.microbatches](state, batch, jnp.float32(plan.learning_rate))
                step += 1
                reporter.take(plan, metrics)
                stopping = stop.requested(step)
                if step % config.checkpoint.every_steps == 0 or step == run.last_step or stopping:
                    reporter.flush()  # a run that must stop for its losses must not save first
                    log.sync()
                    run.checkpoints.save(step, to_items(state), run.record(step))
                if stopping:
                    progress.note(
                        f"SIGTERM: saved a checkpoint after step {step:,}; the same command goes on from there"
                    )
                    break
        reporter.flush()
        run.checkpoints.wait()
    finally:
        progress.close()
    return state, step


class _Reporter:
    """Turns the metrics of finished steps into rows, one step behind the device, and stops a run that has gone wrong."""

    def __init__(self, run: Run, log: MetricsLog, progress: Progress, started: float):
        self._run, self._log, self._progress = run, log, progress
        self._pending: tuple[StepPlan, dict] | None = None
        self._shapes: set[tuple] = set()
        self._started, self._last = started, time.perf_counter()

    def take(self, plan: StepPlan, metrics: dict) -> None:
        previous, self._pending = self._pending, (plan, metrics)
        if previous:
            self._report(*previous)

    def flush(self) -> None:
        if self._pending:
            self._report(*self._pending)
            self._pending = None

    def _report(self, plan: StepPlan, metrics: dict) -> None:
        run, step = self._run, plan.step + 1
        metrics = jax.device_get(metrics)
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        tokens = run.schedule.tokens_before(step) - plan.tokens
        shape = (plan.batch_size, plan.stage.seq_len, plan.microbatches)
        if shape not in self._shapes:  # the step that compiles: its time is told apart and is no measure of speed
            self._shapes.add(shape)
            self._progress.note(
                f"first step  with {plan.batch_size} x {plan.stage.seq_len} tokens: {seconds:.1f} s with its compilation"
                + (f", {now - self._started:.1f} s after the start" if len(self._shapes) == 1 else "")
            )
            timing = {"first_step_seconds": seconds}
        else:
            flops = tokens * flops_per_token(run.config.model, plan.stage.seq_len)
            timing = {
                "step_seconds": seconds,
                "tokens_per_second": tokens / seconds,
                "mfu": flops / seconds / (run.peak * run.config.mesh.size),
            }
        self._progress.update(plan.stage.name, step, float(metrics["loss"]), tokens)
        self._warn(step, metrics)
        if step % run.config.log_every == 0 or step == run.last_step:
            self._log.write(self._row(plan, step, metrics, timing))
        if metrics["nonfinite_streak"] >= run.config.guard.max_nonfinite:
            run.checkpoints.wait()
            kept = run.checkpoints.steps()
            raise UserError(
                f"The loss or a gradient was not finite for {metrics['nonfinite_streak']} steps in a row, up to step {step:,}; "
                "the parameters are untouched since. "
                + (f"The newest checkpoint is of step {kept[-1]:,}. " if kept else "")
                + "Look at the data of these steps, lower the learning rate, or raise GuardConfig.max_nonfinite."
            )

    def _row(self, plan: StepPlan, step: int, metrics: dict, timing: dict) -> dict:
        load = metrics.pop("load")
        stages = self._run.exposure.stages(step)
        here, run = stages[plan.stage.name], total(stages)
        return to_row(
            step, metrics, mean_load=load.mean(axis=1), tokens=self._run.schedule.tokens_before(step),
            learning_rate=np.float32(plan.learning_rate), stage=plan.stage.name, stage_index=plan.stage_index,
            epoch={source: part["epochs"] for source, part in run.items()},
            source_tokens={source: part["tokens"] for source, part in run.items()},
            stage_epoch={source: part["epochs"] for source, part in here.items()},
            stage_source_tokens={source: part["tokens"] for source, part in here.items()}, **timing,
        )  # fmt: skip

    def _warn(self, step: int, metrics: dict) -> None:
        if metrics["nonfinite_streak"]:
            self._progress.note(f"warning: step {step:,}: loss or gradient not finite, step skipped")
        if metrics["spike"]:
            self._progress.note(f"warning: step {step:,}: loss spike, {metrics['loss']:.4f}")


class _StopSignal:
    """Whether SIGTERM came. With several processes all of them learn of it at the same step."""

    def __init__(self):
        self._event = threading.Event()

    def __enter__(self):
        self._old = {s: signal.signal(s, lambda *_: self._event.set()) for s in STOP_SIGNALS if _may_set_signals()}
        return self

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def requested(self, step: int) -> bool:
        if jax.process_count() == 1:
            return self._event.is_set()
        return multihost_utils.reached_preemption_sync_point(step)


def _may_set_signals() -> bool:
    # Several processes: jax's own preemption service listens for SIGTERM and agrees on a step.
    return jax.process_count() == 1 and threading.current_thread() is threading.main_thread()


# --- the end ----------------------------------------------------------------------------------------------------------


def _validate(run: Run, state: TrainState, log: MetricsLog) -> None:
    """The validation tasks, with the sequence length and batch of the first stage."""
    config = run.config
    if not config.validation:
        return
    plan = run.schedule.at(0)
    scorer = Scorer(run.definition, config.compute)
    results = {
        task: scorer.evaluate(
            state.params, state.router_bias, task, plan.stage.seq_len, plan.batch_size // plan.microbatches,
            config.data.cache_dir, config.validation_sequences,
        )
        for task in config.validation
    }  # fmt: skip
    for task, metrics in results.items():
        log.scalars(run.schedule.num_steps, {f"validation/{task}/{name}": value for name, value in metrics.items()})
    if jax.process_index() == 0:
        print(table(results), flush=True)


def _say_goodbye(run: Run, reached: int) -> None:
    kept = ", ".join(f"{step:,}" for step in run.checkpoints.steps())
    total = run.schedule.num_steps
    if run.last_step < reached:
        print(f"note        --max_steps={run.last_step:,} was passed before: nothing was trained", flush=True)
    print(
        f"finished    {reached:,} of {total:,} steps; checkpoints of steps {kept} in {run.checkpoints.folder}",
        flush=True,
    )
