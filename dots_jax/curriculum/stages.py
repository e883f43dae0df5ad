"""The run's stages as steps: which batch, which sequences and which learning rate belong to global step n.

Everything here is exact integer arithmetic on the host, a pure function of the config and of n: 11.2T tokens do not fit
into the 32-bit integers of a device. A step is identified by its number; the data position that a checkpoint holds is
the number of sequences consumed before it.
"""

import bisect
import dataclasses
from collections.abc import Iterable

from dots_jax.config import Stage
from dots_jax.curriculum.learning_rate import decay, warmup


@dataclasses.dataclass(frozen=True)
class Segment:
    """A run of steps with one batch size: a stage, or the part of it between two ramp points.

    Sequences and tokens are counted from the start of the run, but `stage_step`, `stage_sequence` and `stage_token`
    from the start of the stage.
    """

    stage: Stage
    stage_index: int
    batch_size: int  # sequences a step
    num_steps: int
    first_step: int
    first_sequence: int
    first_token: int
    stage_step: int
    stage_sequence: int
    stage_token: int


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """One step. `sequence` is the first sequence within the stage; `position` counts all sequences before the step;
    `tokens` all tokens before it."""

    step: int
    stage: Stage
    stage_index: int
    batch_size: int
    microbatches: int
    sequence: int
    position: int
    tokens: int
    learning_rate: float


class Schedule:
    """The run, step by step, without storing the steps."""

    def __init__(self, stages: tuple[Stage, ...]):
        self.stages = stages
        self.segments: list[Segment] = []
        self.stage_tokens: list[int] = []  # of each stage, in complete batches
        self._last_batches: list[int] = []  # tokens of each stage's last step
        step = sequence = token = 0
        for index, stage in enumerate(stages):
            stage_step = stage_sequence = stage_token = 0
            bounds = [start for start, _ in stage.batch_tokens[1:]] + [stage.tokens]
            for (_, batch_tokens), bound in zip(stage.batch_tokens, bounds):
                batch_size = batch_tokens // stage.seq_len
                # The last batch of a piece may pass its bound: the next piece then starts a little later.
                num_steps = max(0, -(-(bound - stage_token) // batch_tokens))
                segment = Segment(
                    stage, index, batch_size, num_steps, step, sequence, token, stage_step, stage_sequence, stage_token
                )
                if num_steps:
                    self.segments.append(segment)
                step, stage_step = step + num_steps, stage_step + num_steps
                sequence, stage_sequence = sequence + num_steps * batch_size, stage_sequence + num_steps * batch_size
                token, stage_token = token + num_steps * batch_tokens, stage_token + num_steps * batch_tokens
            self.stage_tokens.append(stage_token)
            self._last_batches.append(self.segments[-1].batch_size * stage.seq_len if stage_token else 0)
        self.num_steps, self.num_sequences, self.num_tokens = step, sequence, token
        self._first_steps = [segment.first_step for segment in self.segments]

    def at(self, step: int) -> StepPlan:
        """The plan of a step, 0 <= step < num_steps."""
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} is outside the run's {self.num_steps} steps")
        segment = self.segments[bisect.bisect_right(self._first_steps, step) - 1]
        stage, done = segment.stage, step - segment.first_step
        batch_tokens = segment.batch_size * stage.seq_len
        stage_token = segment.stage_token + done * batch_tokens
        return StepPlan(
            step=step,
            stage=stage,
            stage_index=segment.stage_index,
            batch_size=segment.batch_size,
            microbatches=batch_tokens // (stage.microbatch_tokens or batch_tokens),
            sequence=segment.stage_sequence + done * segment.batch_size,
            position=segment.first_sequence + done * segment.batch_size,
            tokens=segment.first_token + done * batch_tokens,
            learning_rate=self._learning_rate(segment, segment.stage_step + done, stage_token),
        )

    def tokens_before(self, step: int) -> int:
        """Tokens consumed by the first `step` steps; 0 <= step <= num_steps."""
        return self.num_tokens if step == self.num_steps else self.at(step).tokens

    def position_before(self, step: int) -> int:
        """Sequences consumed by the first `step` steps; 0 <= step <= num_steps."""
        return self.num_sequences if step == self.num_steps else self.at(step).position

    def stage_sequences_before(self, stage_index: int, step: int) -> int:
        """Sequences of one stage consumed by the run's first `step` steps; 0 <= step <= num_steps."""
        parts = [segment for segment in self.segments if segment.stage_index == stage_index]
        return sum(min(max(step - part.first_step, 0), part.num_steps) * part.batch_size for part in parts)

    def step_of(self, stage_index: int, sequence: int) -> int:
        """The step that takes a sequence of a stage, which counts them from 0. Raises IndexError behind its last."""
        for part in self.segments:
            number = sequence - part.stage_sequence
            if part.stage_index == stage_index and 0 <= number < part.num_steps * part.batch_size:
                return part.first_step + number // part.batch_size
        raise IndexError(f"stage {stage_index} has no sequence {sequence}")

    def is_milestone(self, step: int, every_steps: int, milestone_tokens: int) -> bool:
        """Whether the checkpoint after `step` steps is the first of those on the grid of `every_steps` that lies past
        a multiple of `milestone_tokens`; the end of the run is one too."""
        if not milestone_tokens or step == 0 or step > self.num_steps:
            return False
        if step == self.num_steps:
            return True
        before = self.tokens_before(max(0, step - every_steps))
        return step % every_steps == 0 and self.tokens_before(step) // milestone_tokens > before // milestone_tokens

    def milestones(self, steps: Iterable[int], every_steps: int, milestone_tokens: int) -> list[int]:
        """Those of `steps` that are milestones."""
        return [step for step in steps if self.is_milestone(step, every_steps, milestone_tokens)]

    def _learning_rate(self, segment: Segment, stage_step: int, stage_token: int) -> float:
        stage = segment.stage
        if stage_step < stage.warmup_steps:
            return warmup(stage.learning_rate_start, stage_step, stage.warmup_steps)
        warm_tokens = self._tokens_of_first_steps(segment.stage_index, stage.warmup_steps)
        # Of a stage with epochs, the last step has the end value itself; of one in tokens, the place behind the last step.
        last = self._last_batches[segment.stage_index] if stage.epochs else 0
        span = max(1, self.stage_tokens[segment.stage_index] - last - warm_tokens)
        progress = (stage_token - warm_tokens) / span
        return decay(stage.learning_rate_shape, stage.learning_rate_start, stage.learning_rate_end, progress)

    def _tokens_of_first_steps(self, stage_index: int, steps: int) -> int:
        """Tokens of the first `steps` steps of a stage."""
        segments = [s for s in self.segments if s.stage_index == stage_index and s.stage_step <= steps]
        last = segments[-1]
        return last.stage_token + min(steps - last.stage_step, last.num_steps) * last.batch_size * last.stage.seq_len
