"""What a person reads: the run before its first step, the progress bar, the last line."""

import sys

import jax
import tqdm

from dots_jax.config import TrainConfig
from dots_jax.curriculum.stages import Schedule
from dots_jax.curriculum.table import schedule_lines
from dots_jax.human import human, human_bytes, human_time
from dots_jax.model.flops import count_parameters, flops_per_token
from dots_jax.training.run import Run
from dots_jax.training.state import bytes_per_device

# The share of the peak that the header's expected time assumes; the bar's ETA is measured and soon replaces it.
ASSUMED_MFU = {"cpu": 0.15, "gpu": 0.3, "tpu": 0.3}


def say(*lines: str) -> None:
    """Lines on stdout, by process 0 alone."""
    if jax.process_index() == 0:
        for line in lines:
            print(line, flush=True)


def run_flops(config: TrainConfig, schedule: Schedule) -> float:
    """Floating-point operations of the complete run."""
    return sum(
        tokens * flops_per_token(config.model, stage.seq_len)
        for stage, tokens in zip(config.stages, schedule.stage_tokens)
    )


def header(run: Run) -> str:
    """The run in a screenful: parameters, mesh, tokens, stages and their sources, cost, expected time."""
    config, schedule = run.config, run.schedule
    count = count_parameters(config.model)
    mesh, platform = config.mesh, jax.devices()[0].platform
    share = ASSUMED_MFU.get(platform, 0.3)
    flops, peak = run_flops(config, schedule), run.peak_flops * mesh.size
    lines = [
        f"parameters  {count.total:,}, {count.active:,} active per token; {count.router_biases:,} router biases",
        *(f"            {n:>18,}  {name}" for name, n in count.parts.items()),
        f"mesh        {mesh}: {mesh.size} {platform} device(s), "
        f"{jax.process_count()} process(es); {human_bytes(bytes_per_device(run.abstract))} of state on each",
        f"tokens      {schedule.num_tokens:,} in {schedule.num_steps:,} steps, {schedule.num_sequences:,} sequences",
        *schedule_lines(config, schedule, run.corpus.rates, run.corpus.sizes),
        f"cost        {human(flops / schedule.num_tokens)}FLOP a token, {human(flops)}FLOP in all",
        f"time        about {human_time(flops / (peak * share))} expected, at {share:.0%} of "
        f"{human(peak)}FLOP/s (peak {run.peak_source})",
    ]
    return "\n".join(lines)


def farewell(run: Run, step: int, kept_steps: list[int], checkpoints: object) -> list[str]:
    """step: steps taken. kept_steps: of the checkpoints in the folder `checkpoints`."""
    kept = ", ".join(f"{one:,}" for one in kept_steps)
    lines = [f"finished    {step:,} of {run.schedule.num_steps:,} steps; checkpoints of steps {kept} in {checkpoints}"]
    if run.last_step < step:
        lines.insert(0, f"note        --max_steps={run.last_step:,} was passed before: nothing was trained")
    return lines


class Progress:
    """A bar over the run's tokens with loss, tokens/s and ETA. Off a terminal it prints a line now and then instead."""

    def __init__(self, total_tokens: int, done_tokens: int, enabled: bool):
        interval = 0.2 if sys.stderr.isatty() else 20.0
        self._bar = tqdm.tqdm(
            total=total_tokens, initial=done_tokens, unit="tok", unit_scale=True, disable=not enabled,
            mininterval=interval, maxinterval=interval, smoothing=0.1, dynamic_ncols=sys.stderr.isatty(),
        )  # fmt: skip

    def update(self, stage: str, step: int, loss: float, tokens: int) -> None:
        self._bar.set_description(f"{stage} step {step}", refresh=False)
        self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        self._bar.update(tokens)

    def note(self, text: str) -> None:
        """A line that the bar does not overwrite."""
        if not self._bar.disable:
            tqdm.tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
