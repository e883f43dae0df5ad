"""The schedule: which batch, which sequences and which learning rate belong to step n. Exact at any size."""

import math

import pytest
from stage_config import stage

from dots_jax.curriculum.stages import Schedule

T, M = 10**12, 2**20


def published():
    """The report's curriculum: 10T tokens with a batch that doubles, two annealing stages of 1.2T, and long context."""
    ramp = ((0, 64 * M), (6 * T, 96 * M), (8 * T, 128 * M))
    stable = stage(
        tokens=10 * T,
        seq_len=8192,
        batch_tokens=ramp,
        learning_rate_start=3e-4,
        learning_rate_end=3e-4,
        warmup_steps=4000,
    )

    def later(name, tokens, start, end, shape, seq_len=8192):
        return stage(
            name=name, tokens=tokens, seq_len=seq_len, batch_tokens=((0, 128 * M),), learning_rate_start=start,
            learning_rate_end=end, learning_rate_shape=shape,
        )  # fmt: skip

    return (
        stable,
        later("anneal1", T, 3e-4, 3e-5, "cosine"),
        later("anneal2", 200 * 10**9, 3e-5, 1e-5, "linear"),
        later("long", 128 * 10**9, 1e-5, 1e-5, "constant", seq_len=32768),
    )


def walk(stages):
    """The same schedule, counted step by step."""
    step = position = tokens = 0
    for index, s in enumerate(stages):
        sequence = stage_tokens = 0
        while stage_tokens < s.tokens:
            batch = [size for start, size in s.batch_tokens if start <= stage_tokens][-1]
            yield step, index, batch // s.seq_len, sequence, position, tokens
            step, tokens, stage_tokens = step + 1, tokens + batch, stage_tokens + batch
            sequence, position = sequence + batch // s.seq_len, position + batch // s.seq_len


@pytest.mark.parametrize(
    "stages",
    [
        (stage(),),
        (stage(tokens=1001),),
        (stage(batch_tokens=((0, 20), (33, 40), (500, 100))), stage(name="b", seq_len=20, batch_tokens=((0, 60),))),
        (stage(batch_tokens=((0, 400), (100, 40), (200, 20))),),  # a ramp point that no batch begins in
        (stage(tokens=10, batch_tokens=((0, 100),)), stage(name="b", tokens=5)),
    ],
)
def test_against_counting(stages):
    schedule = Schedule(stages)
    steps = list(walk(stages))
    assert schedule.num_steps == len(steps)
    for step, index, batch_size, sequence, position, tokens in steps:
        plan = schedule.at(step)
        assert (plan.step, plan.stage_index, plan.batch_size) == (step, index, batch_size)
        assert (plan.sequence, plan.position, plan.tokens) == (sequence, position, tokens)
        assert (schedule.position_before(step), schedule.tokens_before(step)) == (position, tokens)
        assert plan.stage is stages[index]
    last = schedule.at(schedule.num_steps - 1)
    assert schedule.num_sequences == schedule.position_before(schedule.num_steps) == last.position + last.batch_size
    assert schedule.num_tokens == last.tokens + last.batch_size * last.stage.seq_len


def test_published_run_is_exact():
    stages = published()
    schedule = Schedule(stages)
    # 10T: 6T in batches of 64M, 2T of 96M, 2T of 128M; each piece ends with a complete batch.
    first = -(-6 * T // (64 * M))
    second = -(-(8 * T - first * 64 * M) // (96 * M))
    third = -(-(10 * T - first * 64 * M - second * 96 * M) // (128 * M))
    assert schedule.at(first - 1).batch_size == 64 * M // 8192
    assert schedule.at(first).batch_size == 96 * M // 8192
    assert schedule.at(first + second).tokens == first * 64 * M + second * 96 * M
    at = first + second + third
    assert schedule.at(at - 1).stage.name == "stable" and schedule.at(at).stage.name == "anneal1"
    assert schedule.at(at).sequence == 0
    assert schedule.at(at).tokens == (first * 64 + second * 96 + third * 128) * M
    assert schedule.num_tokens == sum(schedule.stage_tokens) > 11.3 * T
    for planned, wanted in zip(schedule.stage_tokens, stages):
        assert 0 <= planned - wanted.tokens < 128 * M
    for step in (0, 3999, first, at, schedule.num_steps - 1):
        plan = schedule.at(step)
        assert isinstance(plan.tokens, int) and isinstance(plan.position, int)
        assert schedule.tokens_before(step + 1) - plan.tokens == plan.batch_size * plan.stage.seq_len


def test_learning_rate_of_the_published_run():
    schedule = Schedule(published())
    rate = lambda step: schedule.at(step).learning_rate
    begin = {s.stage.name: s.first_step for s in reversed(schedule.segments)}
    assert rate(0) == 3e-4 / 4000 and rate(1999) == 3e-4 / 2 and rate(3999) == 3e-4
    assert {rate(step) for step in range(4000, begin["anneal1"], 9973)} == {3e-4}
    assert rate(begin["anneal1"]) == 3e-4
    middle = (begin["anneal1"] + begin["anneal2"]) // 2
    assert rate(middle) == pytest.approx((3e-4 + 3e-5) / 2, rel=1e-3)
    assert rate(begin["anneal2"] - 1) == pytest.approx(3e-5, rel=1e-3)
    assert rate(begin["anneal2"]) == 3e-5
    assert rate(begin["long"] - 1) == pytest.approx(1e-5, rel=2e-3)
    assert {rate(step) for step in range(begin["long"], schedule.num_steps)} == {1e-5}


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_decay_counts_tokens_and_begins_after_the_warm_up(shape):
    one = stage(
        batch_tokens=((0, 20), (500, 100)), learning_rate_end=1e-4, learning_rate_shape=shape, warmup_steps=5
    )  # 25 steps of 20 and 5 of 100; the warm-up takes 100 tokens
    schedule = Schedule((one,))
    rates = [schedule.at(step).learning_rate for step in range(schedule.num_steps)]
    assert rates[:5] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3])
    assert rates[5] == 1e-3
    assert rates == rates[:5] + sorted(rates[5:], reverse=True)
    progress = (500 - 100) / 900  # at the first of the large batches
    share = progress if shape == "linear" else (1 - math.cos(math.pi * progress)) / 2
    assert rates[25] == pytest.approx(1e-3 - 9e-4 * share)
    assert rates[-1] > 1e-4  # the end is the end of the last step


def test_warm_up_across_a_ramp_point_and_longer_than_the_stage():
    schedule = Schedule((stage(batch_tokens=((0, 20), (60, 100)), warmup_steps=6),))
    assert [schedule.at(step).learning_rate for step in range(7)] == pytest.approx(
        [1e-3 * n / 6 for n in (1, 2, 3, 4, 5, 6, 6)]
    )
    schedule = Schedule((stage(warmup_steps=100),))
    assert schedule.num_steps == 50 and schedule.at(49).learning_rate == 5e-4


def test_microbatches():
    ramp = Schedule((stage(batch_tokens=((0, 20), (500, 100)), microbatch_tokens=20),))
    assert (ramp.at(0).microbatches, ramp.at(ramp.num_steps - 1).microbatches) == (1, 5)
    assert Schedule((stage(),)).at(0).microbatches == 1


def test_outside_the_run():
    schedule = Schedule((stage(),))
    for step in (-1, schedule.num_steps):
        with pytest.raises(IndexError):
            schedule.at(step)


@pytest.mark.parametrize("every", [1, 7, 50, 500])
def test_one_milestone_for_each_multiple(every):
    """The first checkpoint past every multiple is one: exactly one for each, none in between, and the end."""
    schedule = Schedule((stage(tokens=100_000, batch_tokens=((0, 20), (50_000, 70))),))
    wanted, past = [], 0
    for step in range(every, schedule.num_steps, every):
        if schedule.tokens_before(step) // 10_000 > past:
            past = schedule.tokens_before(step) // 10_000
            wanted.append(step)
    milestones = [s for s in range(schedule.num_steps + 1) if schedule.is_milestone(s, every, 10_000)]
    assert milestones == [*wanted, schedule.num_steps]
    assert not any(schedule.is_milestone(s, every, 0) for s in range(schedule.num_steps + 1))


def test_milestones_of_the_published_run():
    schedule = Schedule(published())
    milestones = [s for s in range(0, schedule.num_steps, 500) if schedule.is_milestone(s, 500, T)]
    assert [schedule.tokens_before(s) // T for s in milestones] == list(range(1, 12))
    assert all(schedule.tokens_before(s) % T < 500 * 128 * M for s in milestones)
