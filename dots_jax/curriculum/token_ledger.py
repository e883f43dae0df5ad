"""What a run has read of each source: tokens and passes, per stage and in all, as a pure function of the step."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from dots_jax.curriculum.stages import Schedule


class Sequences(Protocol):
    """What is asked of the sequences of a stage (data/sequences/)."""

    seq_len: int

    def counts(self, index: int) -> Mapping[str, int]: ...

    def epochs(self, index: int) -> Mapping[str, float]: ...


class TokenLedger:
    """The ledger of a run. Nothing is added up along the way, so a resumed run shows what an unbroken one does.

    Tokens are those of complete sequences, so that those of all sources sum to the tokens of the schedule; a pass over a
    source is every one of its windows once.
    """

    def __init__(self, schedule: Schedule, sequences: Sequence[Sequences]):
        """sequences: of each stage."""
        self._schedule, self._sequences = schedule, sequences

    def stages(self, step: int) -> dict[str, dict[str, dict[str, float]]]:
        """After `step` steps: of each stage that has begun, source -> {tokens, epochs} within that stage."""
        ledger = {}
        for index, (stage, sequences) in enumerate(zip(self._schedule.stages, self._sequences)):
            done = self._schedule.stage_sequences_before(index, step)
            if done == 0:
                break
            epochs = sequences.epochs(done)
            ledger[stage.name] = {
                source: {"tokens": count * sequences.seq_len, "epochs": epochs[source]}
                for source, count in sequences.counts(done).items()
            }
        return ledger

    def total(self, step: int) -> dict[str, dict[str, float]]:
        """After `step` steps: source -> {tokens, epochs} of the run."""
        return total(self.stages(step))


def total(stages: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """The sum of `TokenLedger.stages` over the stages."""
    sums: dict[str, dict[str, float]] = {}
    for sources in stages.values():
        for source, part in sources.items():
            entry = sums.setdefault(source, {"tokens": 0, "epochs": 0.0})
            entry["tokens"] += part["tokens"]
            entry["epochs"] += part["epochs"]
    return sums
