"""Sessions of one document see each other; conversations that are only packed together do not.

Claim: with `Stage.sessions` a later session depends on the earlier one; without, a change of one conversation changes no loss of
another, to the last bit.
"""

import jax
import numpy as np
import pytest
from numerics import random_weights

from dots_jax.config import ComputeConfig, ModelConfig
from dots_jax.data.sequences.conversation_layout import LayoutRule, lay_out
from dots_jax.data.sequences.packing import pack_weighted
from dots_jax.model.model_def import ModelDef

CONFIG = ModelConfig(
    vocab_size=61, num_layers=3, hidden_size=16, num_heads=2, head_dim=8, dense_ffn_size=24, num_experts=8,
    experts_per_token=3, expert_ffn_size=8, num_shared_experts=2, rope_theta=100.0, max_seq_len=64,
)  # fmt: skip
SEQ_LEN, LENGTHS = 24, (9, 11)


@pytest.fixture(scope="module")
def second_loss():
    """(first conversation, sessions) -> loss of the answer of the second, which stays the same."""
    definition = ModelDef(CONFIG, ComputeConfig(dtype="float32", remat="none"), mesh=None, init_std=0.25)
    params, bias = definition.abstract()
    params, bias = random_weights(params, 0.25), np.zeros(bias.shape, np.float32)

    @jax.jit
    def loss(params, bias, batch):
        model = definition.bind(params, bias)
        x_BTD, _ = model(batch["tokens"], batch["positions"], batch["segments"])
        return model.head.loss_sum(x_BTD, batch["targets"], batch["weights"], SEQ_LEN)

    second = np.random.default_rng(2).integers(5, 61, LENGTHS[1])

    def of(first, sessions):
        layout = lay_out(np.cumsum(LENGTHS), SEQ_LEN, LayoutRule(sessions=sessions), None, -1)
        assert len(layout) == 1 and layout.starts.tolist() == [0, 9]
        ends = (np.cumsum(layout.lengths) - 1)[layout.ends_segment]
        tokens = np.concatenate([first, second, [0]])
        weights = np.zeros(len(tokens), np.uint8)
        weights[9 + 6 : 9 + 10] = 1  # of the second conversation alone
        row = pack_weighted(tokens, weights, ends, SEQ_LEN)
        return float(loss(params, bias, {name: values[None] for name, values in row.items()}))

    return of


def test_the_second_session_sees_the_first(second_loss):
    rng = np.random.default_rng(3)
    one, other = (rng.integers(5, 61, LENGTHS[0]) for _ in range(2))
    assert second_loss(one, sessions=1) == second_loss(other, sessions=1)
    assert abs(second_loss(one, sessions=2) - second_loss(other, sessions=2)) > 1e-3
