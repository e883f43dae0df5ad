"""The ledger of what a run has read: tokens and epochs of each source, from the step alone.

Claim: the epochs of the plan are the epochs of the run.
"""

import json
import random
from fractions import Fraction

import pytest
from stage_config import stage

from dots_jax.config import DataConfig, Mixture, Source, TrainConfig, tiny
from dots_jax.curriculum.mixture_use import Size, declared_rates, known_sizes, repeats, uses
from dots_jax.curriculum.stages import Schedule
from dots_jax.curriculum.table import plan
from dots_jax.curriculum.token_ledger import TokenLedger, total
from dots_jax.data.sequences.order import MixtureOrder

RATES = ({"a": Fraction(3, 4), "b": Fraction(1, 4)}, {"b": Fraction(1, 2), "c": Fraction(1, 2)})
WINDOWS = {"a": 40, "b": 7, "c": 1000}
STAGES = (
    stage(tokens=1000, batch_tokens=((0, 20), (500, 60))),
    stage(name="second", tokens=600, seq_len=20, batch_tokens=((0, 100),)),
)


class Sequences(MixtureOrder):
    """The sequences of a stage, without text."""

    def __init__(self, rates, stage):
        super().__init__(rates, WINDOWS, seed=0, salt=stage.name)
        self.seq_len = stage.seq_len


@pytest.fixture
def exposure():
    schedule = Schedule(STAGES)
    return schedule, TokenLedger(schedule, [Sequences(rates, s) for rates, s in zip(RATES, STAGES)])


def test_against_counting_every_sequence(exposure):
    schedule, ledger = exposure
    orders = [Sequences(rates, s) for rates, s in zip(RATES, STAGES)]
    counted = {}
    for step in range(schedule.num_steps + 1):
        assert ledger.stages(step) == {
            name: {s: {"tokens": n * seq_len, "epochs": n / WINDOWS[s]} for s, n in sources.items()}
            for name, (seq_len, sources) in counted.items()
        }
        assert sum(part["tokens"] for part in ledger.total(step).values()) == schedule.tokens_before(step)
        if step == schedule.num_steps:
            break
        at = schedule.at(step)
        _, sources = counted.setdefault(at.stage.name, (at.stage.seq_len, dict.fromkeys(RATES[at.stage_index], 0)))
        for index in range(at.sequence, at.sequence + at.batch_size):
            sources[orders[at.stage_index].place(index).task] += 1
    assert set(ledger.total(schedule.num_steps)) == {"a", "b", "c"}
    b = ledger.stages(schedule.num_steps)
    assert ledger.total(schedule.num_steps)["b"]["epochs"] == b["stable"]["b"]["epochs"] + b["second"]["b"]["epochs"]
    assert total(json.loads(json.dumps(b))) == ledger.total(schedule.num_steps)  # as a checkpoint holds it


def test_stage_sequences_before():
    schedule = Schedule(STAGES)
    for step in range(schedule.num_steps + 1):
        parts = [schedule.stage_sequences_before(index, step) for index in range(len(STAGES))]
        assert sum(parts) == schedule.position_before(step)
    rng = random.Random(0)
    step = rng.randrange(schedule.num_steps)
    assert schedule.stage_sequences_before(schedule.at(step).stage_index, step) == schedule.at(step).sequence


# --- the plan ---------------------------------------------------------------------------------------------------------


def run(**data):
    sources = (Source(name="a", tfds="python_stdlib", tokens=100), Source(name="b", tfds="python_stdlib"))
    mixed = Mixture(name="text", rates=(("a", 0.75), ("b", 0.25)))
    config = DataConfig(sources=sources, mixtures=(mixed,), **data)
    stages = (stage(), stage(name="second", tokens=600, mixture="b"), stage(name="third", mixture="tiny_stable"))
    return TrainConfig(model=tiny(), stages=stages, data=config)


def test_plan_is_what_the_run_will_count(tmp_path):
    config = run(cache_dir=str(tmp_path))
    schedule = Schedule(config.stages)
    found = {(use.stage, use.source): use for use in uses(schedule, declared_rates(config.data), {"a": Size(100)})}
    assert set(found) == {("stable", "a"), ("stable", "b"), ("second", "b")}
    assert found["stable", "a"].tokens == 750 and found["stable", "a"].epochs == 7.5
    assert found["stable", "b"].epochs is None
    lines = plan(config).splitlines()
    assert lines[0] == "tokens      2,600 in 130 steps, 260 sequences"
    table = [line.split() for line in lines if line.split()[0] in ("a", "b")]
    assert table == [["a", "75.00%", "~7.50", "750", "~7.50"], ["b", "25.00%", "?", "100.00%", "?", "850", "?"]]
    assert any("third: tiny_stable, registered in dots_jax.data.tasks" in line for line in lines)
    assert lines[-1] == "warning     a is read about 7.5 times (stable 7.5); DataConfig.max_epochs is 4"


def test_sizes_come_from_the_newest_token_cache(tmp_path):
    config = run(cache_dir=str(tmp_path), max_epochs=0.0)
    folder = tmp_path / "tokens" / "b" / "v1" / "train"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"tokens": 50}')
    assert known_sizes(config.data) == {"a": Size(100, exact=False), "b": Size(50)}
    (folder / "manifest.json").write_text("damaged")
    assert known_sizes(config.data) == {"a": Size(100, exact=False)}
    assert "warning" not in plan(config)


def test_repeats_count_the_whole_run():
    config = run()
    sizes = {"a": Size(1000), "b": Size(200)}
    found = uses(Schedule(config.stages), declared_rates(config.data), sizes)
    assert repeats(found, 4.0) == [
        "warning     b is read 4.2 times (stable 1.2, second 3.0); DataConfig.max_epochs is 4"
    ]  # 250 / 200 + 600 / 200
    assert repeats(found, 4.3) == [] and len(repeats(found, 0.5)) == 2 and repeats(found, 0.0) == []
