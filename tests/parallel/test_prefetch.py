"""The prefetching thread: order, depth, errors, and no thread left behind."""

import threading
import time

import pytest

from dots_jax.parallel.prefetch import Prefetcher


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_steps_in_order():
    with Prefetcher(lambda step: step * step, 3, 40) as batches:
        assert list(batches) == [(step, step * step) for step in range(3, 40)]
        assert list(batches) == []
    assert not prefetch_threads()


def test_no_steps():
    with Prefetcher(lambda step: step, 5, 5) as batches:
        assert list(batches) == []


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_stays_depth_batches_ahead(depth):
    made = []
    with Prefetcher(lambda step: made.append(step), 0, 100, depth=depth) as batches:
        wait_for(lambda: len(made) == depth)
        for step, _ in batches:
            wait_for(lambda: len(made) == min(100, step + 1 + depth))  # noqa: B023 (called at once)
            time.sleep(0.001)
            assert len(made) == min(100, step + 1 + depth)


def test_an_exception_arrives_at_its_step():
    def make(step):
        if step == 4:
            raise KeyError("no such batch")
        return step

    seen = []
    with pytest.raises(KeyError, match="no such batch"), Prefetcher(make, 0, 10) as batches:
        for step, _ in batches:
            seen.append(step)
    assert seen == [0, 1, 2, 3]
    assert not prefetch_threads()


def test_leaving_early_ends_the_thread():
    class Stop(Exception):
        pass

    with pytest.raises(Stop), Prefetcher(lambda step: step, 0, 10**9) as batches:
        for step, _ in batches:
            if step == 5:
                raise Stop
    assert not prefetch_threads()
    batches.close()  # twice is fine
    with pytest.raises(RuntimeError, match="close"):
        next(iter(batches))


def test_depth_must_be_positive():
    with pytest.raises(ValueError):
        Prefetcher(lambda step: step, 0, 1, depth=0)
