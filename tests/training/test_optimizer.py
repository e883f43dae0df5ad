"""AdamW against the published formula written out, the rule of weight decay, and the guard, on models of one number."""

import functools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numerics import assert_close, assert_same_bits

from dots_jax.config import BalanceConfig, ComputeConfig, GuardConfig, OptimizerConfig, tiny
from dots_jax.curriculum.learning_rate import decay, warmup
from dots_jax.model.model_def import ModelDef
from dots_jax.training.optimizer import make_optimizer
from dots_jax.training.state import StepHealth, TrainState
from dots_jax.training.step import LOSS_AVERAGE_DECAY, train_step

# --- AdamW ----------------------------------------------------------------------------------------------------------


def adamw(params, grads_of_steps, learning_rates, c: OptimizerConfig):
    """The formula in float64: clip by the norm over all parameters, moments with bias correction, decoupled decay."""
    params = {k: np.asarray(v, np.float64) for k, v in params.items()}
    m, v = ({k: np.zeros_like(p) for k, p in params.items()} for _ in range(2))
    for t, (grads, rate) in enumerate(zip(grads_of_steps, learning_rates), start=1):
        norm = math.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in grads.values()))
        for k, g in grads.items():
            g = g.astype(np.float64) * min(1, c.clip_norm / norm)
            m[k] = c.beta1 * m[k] + (1 - c.beta1) * g
            v[k] = c.beta2 * v[k] + (1 - c.beta2) * g**2
            update = m[k] / (1 - c.beta1**t) / (np.sqrt(v[k] / (1 - c.beta2**t)) + c.epsilon)
            params[k] = params[k] - rate * (update + (0 if k == "scale" else c.weight_decay) * params[k])
    return params


def test_two_steps_are_adamw_as_published():
    """The first gradient is clipped (norm 5), the second is not (norm 0.5)."""
    config, rng = OptimizerConfig(), np.random.default_rng(0)
    optimizer = make_optimizer(config, {"w_DF": True, "scale": False})
    assert (config.beta1, config.beta2, config.weight_decay, config.clip_norm) == (0.9, 0.95, 0.1, 1.0)
    params = {"w_DF": rng.normal(size=(3, 4)).astype(np.float32), "scale": np.ones(4, np.float32)}
    grads = []
    for norm in (5, 0.5):
        g = {k: rng.normal(size=p.shape) for k, p in params.items()}
        size = math.sqrt(sum(np.sum(a**2) for a in g.values()))
        grads.append({k: (a * norm / size).astype(np.float32) for k, a in g.items()})
    rates = [0.1, 0.05]

    @jax.jit
    def step(params, state, grads, rate):
        updates, state = optimizer.update(grads, state, params)
        return jax.tree.map(lambda p, u: p - rate * u, params, updates), state

    actual, state = params, optimizer.init(params)
    for g, rate in zip(grads, rates):
        actual, state = step(actual, state, g, rate)
    assert_close(actual, adamw(params, grads, rates, config), 1e-6)


def test_every_matrix_decays_and_no_norm_does():
    definition = ModelDef(tiny(), ComputeConfig(), mesh=None, init_std=0.006)
    params, _ = definition.abstract()
    names = {True: set(), False: set()}
    decays = jax.tree.leaves(definition.weight_decays())
    for (path, leaf), decayed in zip(jax.tree_util.tree_leaves_with_path(params), decays, strict=True):
        stacked = path[0].key == "moe_blocks"
        assert decayed == (leaf.ndim - stacked >= 2), jax.tree_util.keystr(path)
        names[decayed].add(path[-2].key)
    assert names[False] == {"attention_norm", "ffn_norm", "final_norm", "q_norm", "k_norm"}
    assert names[True] == {"embed", "attention", "ffn", "router", "experts", "shared", "head"}


# --- the guard --------------------------------------------------------------------------------------------------------


class ToyDefinition:
    """In a ModelDef's place: the loss of a step is curve(p, x) for one parameter p and the batch's one number x."""

    offload_optimizer = False
    mesh = None

    def __init__(self, curve):
        self.curve = curve

    def compute_dtypes(self):
        return {"w": jnp.float32}

    def bind(self, params, router_bias):
        def model(tokens, positions, segments):
            zero = jnp.zeros(1, jnp.int32)
            load_E = jnp.array([[3, 1]], jnp.int32)
            return tokens, SimpleNamespace(balance=jnp.zeros(1), load_E=load_E, overflow_rounds=zero, dropped=zero)

        def loss_sum(x, targets, weights, chunk_tokens):
            return jnp.sum(weights * self.curve(params["w"][0, 0], x))

        model.head = SimpleNamespace(loss_sum=loss_sum)
        return model


def toy(curve, p=1.0):
    """A jitted step (state, x) -> (state, metrics), and the first state."""
    optimizer, zero = make_optimizer(OptimizerConfig(), True), jnp.zeros((), jnp.int32)
    params = {"w": jnp.full((1, 1), p)}
    guard = StepHealth(zero, zero, zero, jnp.float32(jnp.inf))
    state = TrainState(zero, params, jnp.zeros((1, 2)), optimizer.init(params), guard)
    step = functools.partial(
        train_step, model_def=ToyDefinition(curve), optimizer=optimizer, compute=ComputeConfig(dtype="float32"),
        balance=BalanceConfig(expert_bias_update_rate=0.25), guard=GuardConfig(spike_nats=1.0), microbatches=1,
    )  # fmt: skip

    @jax.jit
    def take(state, x):
        x = jnp.reshape(jnp.float32(x), (1, 1))
        return step(state, dict(tokens=x, targets=x, positions=x, segments=x, weights=jnp.ones((1, 1))), 0.01)

    return take, state


def test_a_step_with_a_finite_loss_and_an_infinite_gradient_changes_nothing():
    take, state = toy(lambda p, x: jnp.sqrt(p - x))
    after, metrics = take(state, 1.0)  # sqrt(0) is 0, its slope is not
    assert metrics["loss"] == 0 and not np.isfinite(metrics["grad_norm"])
    changing = lambda s: (s.params, s.router_bias, s.opt_state, s.guard.loss_average)
    assert_same_bits(changing(after), changing(state))
    assert after.step == 1 and after.guard.nonfinite_streak == after.guard.nonfinite_total == 1


def test_nonfinite_steps_are_counted_and_a_good_one_ends_the_streak():
    take, state = toy(lambda p, x: p**2 * x)
    streaks, totals, values = [], [], []
    for x in (1.0, math.nan, math.inf, 1.0, -math.inf):
        state, metrics = take(state, x)
        streaks.append(int(metrics["nonfinite_streak"]))
        totals.append(int(metrics["nonfinite_total"]))
        values.append(float(state.params["w"][0, 0]))
    assert streaks == [0, 1, 2, 0, 1] and totals == [0, 1, 2, 2, 3]
    assert 1 > values[0] == values[1] == values[2] > values[3] == values[4]
    np.testing.assert_array_equal(state.router_bias, [[-0.5, 0.5]])  # two good steps
    assert state.opt_state[1].count == 2


def test_spikes_are_counted_against_the_running_average():
    take, state = toy(lambda p, x: 0 * p + x)
    spikes, averages = [], []
    for x in (2.0, 2.9, 3.5, math.nan, 2.0):
        state, metrics = take(state, x)
        spikes.append(bool(metrics["spike"]))
        averages.append(float(state.guard.loss_average))
    assert spikes == [False, False, True, False, False]
    assert int(state.guard.spike_total) == 1
    expected = [2.0]
    for x in (2.9, 3.5):
        expected.append(expected[-1] + (1 - LOSS_AVERAGE_DECAY) * (x - expected[-1]))
    np.testing.assert_allclose(averages[:3], expected, rtol=1e-6)
    assert averages[3] == averages[2]


# --- learning-rate shapes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, middle", [("constant", 3e-4), ("linear", (3e-4 + 3e-5) / 2), ("cosine", (3e-4 + 3e-5) / 2)]
)
def test_shapes_end_where_they_say(shape, middle):
    end = 3e-4 if shape == "constant" else 3e-5
    for progress, expected in ((0, 3e-4), (0.5, middle), (1, end)):
        assert decay(shape, 3e-4, end, progress) == pytest.approx(expected, rel=1e-12)


def test_a_cosine_is_slow_at_both_ends():
    assert decay("cosine", 1.0, 0.0, 0.25) == pytest.approx(0.5 + math.sqrt(0.5) / 2)


def test_warmup_reaches_the_peak_at_its_last_step():
    assert [warmup(1.0, step, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
