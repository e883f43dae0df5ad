"""Parameter and cost arithmetic against the real tree of arrays, and the published size of dots.llm1.

Claim: dots.llm1 has 142,774,373,888 parameters, 14,016,581,120 of them active, and 7,808 router biases.
"""

import random
import resource
import time
from collections import Counter

import jax
import pytest

from dots_jax.config import ComputeConfig, ModelConfig, OptimizerConfig, dots_llm1, tiny
from dots_jax.model.flops import count_parameters, flops_per_token
from dots_jax.model.model_def import ModelDef
from dots_jax.model.parameters import PARTS
from dots_jax.training.optimizer import make_optimizer
from dots_jax.training.state import init_state


def random_config(seed: int) -> ModelConfig:
    rng = random.Random(seed)
    num_experts = rng.randint(1, 9)
    return ModelConfig(
        vocab_size=rng.randint(2, 99), num_layers=rng.randint(2, 5), hidden_size=rng.randint(1, 33),
        num_heads=rng.randint(1, 4), head_dim=2 * rng.randint(1, 9), dense_ffn_size=rng.randint(1, 50),
        num_experts=num_experts, experts_per_token=rng.randint(1, num_experts), expert_ffn_size=rng.randint(1, 20),
        num_shared_experts=rng.randint(1, 3),
    )  # fmt: skip


CONFIGS = {"dots_llm1": dots_llm1(), "tiny": tiny(), **{f"random{seed}": random_config(seed) for seed in range(6)}}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_count_is_that_of_the_tree_part_by_part(name):
    config = CONFIGS[name]
    definition = ModelDef(config, ComputeConfig(), mesh=None, init_std=0.006)
    params, router_bias = definition.abstract()
    parts, idle = Counter(), 0
    for declared, leaf in zip(jax.tree.leaves(definition.declarations()), jax.tree.leaves(params), strict=True):
        part = declared.part
        parts[part] += leaf.size
        if part == "routed experts":  # [layers, experts, ...]: a token meets K of them
            assert leaf.shape[:2] == (config.num_moe_layers, config.num_experts)
            idle += leaf.size // config.num_experts * (config.num_experts - config.experts_per_token)
    count = count_parameters(config)
    assert count.parts == parts and tuple(count.parts) == PARTS
    assert count.total == sum(parts.values())
    assert count.active == count.total - idle
    assert count.router_biases == router_bias.size


def test_dots_llm1_has_the_published_size_and_is_made_abstract_in_no_time_and_memory():
    arrays, memory, start = len(jax.live_arrays()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    definition = ModelDef(dots_llm1(), ComputeConfig(), mesh=None, init_std=0.006)
    optimizer = make_optimizer(OptimizerConfig(), definition.weight_decays())
    state = jax.eval_shape(lambda: init_state(definition, optimizer, 0))
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # KiB; the weights are 571 GB
    assert len(jax.live_arrays()) == arrays

    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == 142_774_373_888
    assert state.router_bias.shape == (61, 128) and state.router_bias.size == 7_808
    assert {leaf.dtype.name for leaf in jax.tree.leaves((state.params, state.router_bias))} == {"float32"}


def test_dots_llm1_figures():
    count = count_parameters(dots_llm1())
    assert count.total == 142_774_373_888
    assert count.active == 14_016_581_120
    assert count.router_biases == 7_808
    assert round(flops_per_token(dots_llm1(), 8192) / 1e9, 1) == 92.8
    assert round(flops_per_token(dots_llm1(), 32_768) / 1e9, 1) == 130.3


def test_flops_by_hand():
    config = ModelConfig(
        vocab_size=11, num_layers=3, hidden_size=10, num_heads=2, head_dim=4, dense_ffn_size=7, num_experts=5,
        experts_per_token=2, expert_ffn_size=3, num_shared_experts=2,
    )  # fmt: skip
    attention = 4 * 10 * 8
    dense_layer = attention + 3 * 10 * 7
    moe_layer = attention + 10 * 5 + 3 * 10 * 3 * (2 + 2)
    matrices = dense_layer + 2 * moe_layer + 10 * 11
    # Scores and weighted values of a token against half of the 16: 2 matmuls x 2 operations x 8 tokens x 8 wide.
    quadratic = 3 * 2 * 2 * 8 * 8
    assert flops_per_token(config, 16) == 3 * (2 * matrices + quadratic)
