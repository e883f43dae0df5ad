"""What a person reads before the first step, and the progress bar."""

import sys
from collections.abc import Mapping

import jax
import tqdm

from dots_jax.config import TrainConfig
from dots_jax.curriculum.mixture_use import Rates, Size
from dots_jax.curriculum.stages import Schedule
from dots_jax.curriculum.table import schedule_lines
from dots_jax.human import human, human_bytes, human_time
from dots_jax.model.flops import count_parameters, flops_per_token

# The share of the peak that the header's expected time assumes; the bar's ETA is measured and soon replaces it.
ASSUMED_MFU = {"cpu": 0.15, "gpu": 0.3, "tpu": 0.3}


def run_flops(config: TrainConfig, schedule: Schedule) -> float:
    """Floating-point operations of the whole run."""
    return sum(
        tokens * flops_per_token(config.model, stage.seq_len)
        for stage, tokens in zip(config.stages, schedule.stage_tokens)
    )


def header(
    config: TrainConfig, schedule: Schedule, state_bytes: int, peak: float, peak_source: str, rates: Rates,
    sizes: Mapping[str, Size],
) -> str:  # fmt: skip
    """The run in a screenful: parameters, mesh, tokens, stages and their sources, cost, expected time.

    rates: mixture -> source -> share. sizes: of the sources, as far as they are known.
    """
    count = count_parameters(config.model)
    mesh, platform = config.mesh, jax.devices()[0].platform
    share = ASSUMED_MFU.get(platform, 0.3)
    flops = run_flops(config, schedule)
    lines = [
        f"parameters  {count.total:,}, {count.active:,} active per token; {count.router_biases:,} router biases",
        *(f"            {n:>18,}  {name}" for name, n in count.parts.items()),
        f"mesh        {mesh}: {mesh.size} {platform} device(s), "
        f"{jax.process_count()} process(es); {human_bytes(state_bytes)} of state on each",
        f"tokens      {schedule.num_tokens:,} in {schedule.num_steps:,} steps, {schedule.num_sequences:,} sequences",
        *schedule_lines(config, schedule, rates, sizes),
        f"cost        {human(flops / schedule.num_tokens)}FLOP a token, {human(flops)}FLOP in all",
        f"time        about {human_time(flops / (peak * mesh.size * share))} expected, at {share:.0%} of "
        f"{human(peak * mesh.size)}FLOP/s (peak {peak_source})",
    ]
    return "\n".join(lines)


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
