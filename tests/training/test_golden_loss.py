"""The first 50 losses of a fixed run against a kept curve: what no unit test sees, a training run does.

The tolerance, relative: 1e-5 in the first 20 steps, 1e-2 after. Rounding differs between CPUs (the width of their vector
instructions, their threads) and between versions of XLA, and training amplifies it: sooner or later a token's second
expert is another one, and the losses part for good. Measured, largest relative difference in the first 20 steps and in
all 50:

    what was changed                                              first 20     all
    jax 0.12.0.1 on Python 3.12 instead of 0.10.2 on 3.11           1.8e-7   2.8e-6
    one thread instead of two                                            0        0
    SSE 4.2 instructions instead of AVX2                            8.2e-8   9.2e-5
    no optimisation in LLVM                                         1.3e-7   2.0e-6
    one piece instead of two microbatches                           1.8e-7   6.6e-7
    initial parameters times 1 + 1e-7 x normal, worst of 11 draws   2.2e-7   2.5e-3
    the same with 1e-6, worst of 8 draws                            6.2e-7   2.5e-2

So the first bound is 45 times what rounding does, and the second 4 times the worst draw of it.
"""

import hashlib
import itertools
import json

import numpy as np
import pytest
from golden import run


@pytest.fixture(scope="module")
def kept():
    return np.array(json.loads(run.CURVE.read_text())["loss"])


def test_the_text_is_the_same_on_every_machine():
    documents = list(itertools.islice(run.documents(1), 100))
    assert documents[0] == b"def experts(a):\n    a = balance_all(a) + 1\n    return a\n"
    assert (
        hashlib.sha256(b"".join(documents)).hexdigest()
        == "8020149e77e4105c593e9984e99a2194962d34ccdd2422528682915fa9f2a460"
    )


def test_the_kept_curve_shows_learning(kept):
    assert len(kept) == run.STEPS
    assert abs(kept[0] - np.log(run.CONFIG.vocab_size)) < 0.05, "it begins by knowing nothing"
    assert kept[10] < 4.5 and kept[20] < 3 and kept[-1] < 1


def test_losses_are_those_of_the_kept_curve(kept):
    losses = np.array(run.losses())
    tolerance = np.where(np.arange(run.STEPS) < 20, 1e-5, 1e-2)
    difference = np.abs(losses / kept - 1)
    worst = int(np.argmax(difference / tolerance))
    assert (difference <= tolerance).all(), f"step {worst}: off by {difference[worst]:.1e}"
