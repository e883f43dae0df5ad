"""The planner's figures for serving, against counts by hand and against the arrays that serving makes."""

import jax
import numpy as np
import pytest

from dots_jax.config import dots_llm1, tiny
from dots_jax.inference.decoder import Decoder
from dots_jax.inference.weights import serving_mesh
from dots_jax.parallel.topology import CHIPS
from dots_jax.planning.serving_bounds import GIB, cache_bytes_per_token, experts_read, plan_serving, serving_table


def test_cache_bytes_are_those_of_the_cache():
    config = tiny()
    for dtype in ("float32", "bfloat16"):
        decoder = Decoder(config, dtype, serving_mesh(config, 1))
        made = sum(array.nbytes for array in jax.tree.leaves(decoder.empty_cache(3, 128)))
        assert made == 3 * 128 * cache_bytes_per_token(config, dtype)


def test_experts_read_are_those_of_random_choices():
    config, rng = dots_llm1(), np.random.default_rng(0)
    assert experts_read(config, 1) == pytest.approx(6)
    drawn = [len({e for _ in range(16) for e in rng.permutation(128)[:6]}) for _ in range(2000)]
    assert experts_read(config, 16) == pytest.approx(np.mean(drawn), rel=0.01)


def test_dots_llm1_by_hand():
    v5e, v6e, v5p = (plan_serving(dots_llm1(), CHIPS[n], c, 1, 8192) for n, c in (("v5e", 8), ("v6e", 8), ("v5p", 4)))
    # 142.77 B parameters of two bytes are 266 GiB; eight v5e have 128 GiB, eight v6e 256, four v5p 380.
    assert v5e.weights / GIB == pytest.approx(265.9, abs=0.1)
    assert (v5e.fits, v6e.fits, v5p.fits) == (False, False, True)
    assert v6e.spare / GIB == pytest.approx(8 * CHIPS["v6e"].usable_gib - 265.9 - v6e.cache / GIB, abs=0.1)
    # A token's keys and values: 62 layers x 2 x 4096 x 2 bytes.
    assert v5p.cache == 8192 * 62 * 2 * 4096 * 2
    # One row reads the 14.0 B active parameters, but for the embedding, and its cache.
    by_hand = 2 * (14_016_581_120 - 152_064 * 4096 + 4096) + v5p.cache
    assert v5p.step_bytes == pytest.approx(by_hand, rel=1e-6)
    assert v5p.decode == pytest.approx(4 * 2765e9 / by_hand, rel=1e-6)
    # Sixteen rows cost less than sixteen times one.
    assert v5p.decode < plan_serving(dots_llm1(), CHIPS["v5p"], 4, 16, 8192).decode < 16 * v5p.decode


def test_the_table_names_every_host():
    text = serving_table(dots_llm1())
    assert all(name in text for name in ("v5e-8", "v6e-8", "v5p, one host", "142.8 B", "32,768"))
    assert "32,768" not in serving_table(tiny())
