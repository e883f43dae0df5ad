"""The training step on a real model: one device, eight devices and microbatches do the same; the bias balances; precision.

Claim: one device and eight give the same losses to 1e-5, and the same expert counts and router biases bit for bit.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numerics import MODEL, MODULE, assert_close, assert_same_bits, equations, random_batch

from dots_jax.config import BalanceConfig, ComputeConfig, GuardConfig, MeshConfig, ModelConfig, OptimizerConfig
from dots_jax.evaluation.score_step import jit_score_step
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.mesh import make_mesh
from dots_jax.parallel.sharding import batch_sharding
from dots_jax.training.optimizer import make_optimizer
from dots_jax.training.state import TrainState, init_state, state_shardings
from dots_jax.training.step import jit_train_step

CONFIG = ModelConfig(
    vocab_size=61, num_layers=3, hidden_size=16, num_heads=2, head_dim=6, dense_ffn_size=24, num_experts=8,
    experts_per_token=2, expert_ffn_size=8, num_shared_experts=1, rope_theta=100.0, max_seq_len=64,
)  # fmt: skip
COMPUTE = ComputeConfig(dtype="float32", remat="none", loss_chunk_tokens=20)
OPTIMIZER = OptimizerConfig(init_std=0.25)
BALANCE = BalanceConfig(expert_bias_update_rate=0.01, sequence_aux_loss_coef=0.01)
ROWS, T = 32, 16
MESHES = {
    "one device": MeshConfig(fsdp=1),
    "fsdp 2 x expert 4": MeshConfig(fsdp=2, expert=4),
    "data 2 x fsdp 2 x expert 2": MeshConfig(data=2, fsdp=2, expert=2),
    "fsdp 2 x expert 2 x context 2": MeshConfig(fsdp=2, expert=2, context=2),
    "expert 2 x context 4": MeshConfig(fsdp=1, expert=2, context=4),
}
CASES = [
    ("one device", "all_gather", 4),
    ("fsdp 2 x expert 4", "all_gather", 1),
    ("data 2 x fsdp 2 x expert 2", "all_to_all", 4),
    ("expert 2 x context 4", "all_gather", 4),
    ("fsdp 2 x expert 2 x context 2", "gather_weights", 1),
]
OF_STEPS = [pytest.param(*case, marks=pytest.mark.slow if case[0] == "expert 2 x context 4" else ()) for case in CASES]


def computing(exchange: str) -> ComputeConfig:
    return dataclasses.replace(COMPUTE, expert_strategy=exchange)


@functools.cache
def make_definition(mesh: str, exchange: str = "all_gather") -> ModelDef:
    return ModelDef(CONFIG, computing(exchange), make_mesh(MESHES[mesh]), OPTIMIZER.init_std)


@functools.cache
def optimizer_of(definition: ModelDef):
    return make_optimizer(OPTIMIZER, definition.weight_decays())


@functools.cache
def train_program(mesh: str, exchange: str, microbatches: int):
    static = dict(compute=computing(exchange), balance=BALANCE, guard=GuardConfig(), microbatches=microbatches)
    definition = make_definition(mesh, exchange)
    return jit_train_step(definition, optimizer_of(definition), **static)


@functools.cache
def make_initial(mesh: str, exchange: str = "all_gather") -> TrainState:
    definition = make_definition(mesh, exchange)
    optimizer = optimizer_of(definition)
    return jax.jit(lambda: init_state(definition, optimizer, 0), out_shardings=state_shardings(definition, optimizer))()


def initial(mesh: str, exchange: str = "all_gather") -> TrainState:
    """A copy: a step takes the memory of the state it is given."""
    return jax.tree.map(jnp.copy, make_initial(mesh, exchange))


def make_batch(seed: int) -> dict[str, np.ndarray]:
    """Rows m, m + 4, m + 8 ... are microbatch m: the first has least padding, the last most.

    In the first batch the last expert chosen leads the next one by 4e-4 at least, so no rounding changes a count."""
    return random_batch([[7, 5], [12], [3, 4], [6]] * (ROWS // 4), T, CONFIG.vocab_size, seed)


def step(mesh: str, exchange: str, microbatches: int, state: TrainState, batch, learning_rate=3e-3):
    """One step from a state that may be on the host; the new one and the metrics, on the host."""
    definition = make_definition(mesh, exchange)
    state = jax.device_put(state, state_shardings(definition, optimizer_of(definition)))
    return jax.device_get(train_program(mesh, exchange, microbatches)(state, batch, jnp.float32(learning_rate)))


@functools.cache
def five_steps(mesh: str, exchange: str, microbatches: int):
    """The state and metrics of each."""
    taken = [(initial(mesh, exchange), None)]
    for seed in range(5):
        taken.append(step(mesh, exchange, microbatches, taken[-1][0], make_batch(seed)))
    return taken[1:]


@pytest.fixture(scope="module")
def reference():
    """Five steps on one device in one piece."""
    return five_steps("one device", "all_gather", 1)


def gradients(state: TrainState):
    """Clipped gradients of the first step: Adam's first moment is (1 - beta1) times that."""
    (adam,) = [s for s in state.opt_state if hasattr(s, "mu")]
    return jax.tree.map(lambda mu: mu / (1 - OPTIMIZER.beta1), adam.mu)


def test_the_first_step_is_that_of_the_plain_loss(reference):
    """Loss, gradients and counts against the loss as a formula over all logits."""
    definition = ModelDef(CONFIG, COMPUTE, None, OPTIMIZER.init_std)
    batch = make_batch(0)

    def plain(params, router_bias):
        model = definition.bind(params, router_bias)
        x_BTD, stats = model(batch["tokens"], batch["positions"], batch["segments"])
        nll_BT = -jnp.take_along_axis(jax.nn.log_softmax(model.head(x_BTD)), batch["targets"][..., None], -1)[..., 0]
        loss = jnp.sum(batch["weights"] * nll_BT) / np.sum(batch["weights"])
        return loss + BALANCE.sequence_aux_loss_coef * jnp.sum(stats.balance) / ROWS, (loss, stats.load_E)

    before = make_initial("one device")
    (_, (loss, load_LE)), grads = jax.jit(jax.value_and_grad(plain, has_aux=True))(before.params, before.router_bias)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
    state, metrics = reference[0]
    assert_close((metrics["loss"], metrics["grad_norm"]), (loss, norm), MODULE)
    assert_close(gradients(state), jax.tree.map(lambda g: g * min(1, 1 / norm), grads), MODEL)
    np.testing.assert_array_equal(metrics["load"], load_LE)
    np.testing.assert_array_equal(
        metrics["load"].sum(1), CONFIG.experts_per_token * (make_batch(0)["segments"] != 0).sum()
    )
    expected_bias = BALANCE.expert_bias_update_rate * np.sign(load_LE.mean(1, keepdims=True) - load_LE)
    np.testing.assert_array_equal(state.router_bias, expected_bias.astype(np.float32))


@pytest.mark.parametrize("mesh, exchange, microbatches", OF_STEPS)
def test_meshes_and_microbatches_train_the_same(reference, mesh, exchange, microbatches):
    taken = five_steps(mesh, exchange, microbatches)
    losses = lambda taken: np.array([metrics["loss"] for _, metrics in taken])
    np.testing.assert_allclose(losses(taken), losses(reference), rtol=1e-5)
    assert losses(taken)[0] != losses(taken)[-1]


@pytest.mark.parametrize("mesh, exchange, microbatches", OF_STEPS)
def test_counts_and_biases_are_the_same_to_the_bit(reference, mesh, exchange, microbatches):
    (state, metrics), (expected_state, expected_metrics) = five_steps(mesh, exchange, microbatches)[0], reference[0]
    np.testing.assert_array_equal(metrics["load"], expected_metrics["load"])
    assert metrics["dropped_tokens"] == expected_metrics["dropped_tokens"] == 0
    np.testing.assert_array_equal(state.router_bias, expected_state.router_bias)
    assert np.abs(state.router_bias).max() > 0


@pytest.mark.parametrize("mesh, exchange, microbatches", OF_STEPS)
def test_gradients_count_every_real_token_once(reference, mesh, exchange, microbatches):
    """The microbatches here have 96, 96, 56 and 48 real tokens: a mean of their means would be another gradient."""
    (state, _), (expected, _) = five_steps(mesh, exchange, microbatches)[0], reference[0]
    assert_close(gradients(state), gradients(expected), MODULE)


@pytest.mark.parametrize("mesh, exchange, _", CASES[1:])
def test_initial_values_are_the_same_on_any_mesh(mesh, exchange, _):
    assert_same_bits(jax.device_get(make_initial(mesh, exchange)), jax.device_get(make_initial("one device")))


def test_rounds_of_experts_are_counted_and_drop_nothing(reference):
    """Every token wants the experts of one device: further rounds, which the metrics tell; the same step all the same."""
    skewed = np.zeros((CONFIG.num_moe_layers, CONFIG.num_experts), np.float32)
    skewed[:, -2:] = 2  # scores lie between 0 and 1
    cases = [("one device", "all_gather", 1), *CASES[1:]]
    taken = [
        step(*case, dataclasses.replace(jax.device_get(initial(*case[:2])), router_bias=skewed), make_batch(0))
        for case in cases
    ]
    (expected, metrics), *others = taken
    real = (make_batch(0)["segments"] != 0).sum()
    np.testing.assert_array_equal(metrics["load"], [[0] * 6 + [real] * 2] * CONFIG.num_moe_layers)
    assert metrics["expert_overflow_rounds"] == metrics["dropped_tokens"] == 0
    for (_, exchange, _), (state, metrics) in zip(cases[1:], others):
        assert metrics["expert_overflow_rounds"].dtype == np.int32 and metrics["dropped_tokens"] == 0
        assert (metrics["expert_overflow_rounds"] > 0) == (exchange != "gather_weights"), exchange
        assert_close(gradients(state), gradients(expected), MODULE)


def test_the_state_stays_where_it_belongs():
    """After a step everything is sharded as before, float32, and the bias is not the optimizer's business."""
    mesh = "fsdp 2 x expert 4"
    before = make_initial(mesh)
    after, _ = train_program(mesh, "all_gather", 1)(initial(mesh), make_batch(0), jnp.float32(1e-3))
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim) and a.dtype == b.dtype
    assert {leaf.dtype.name for leaf in jax.tree.leaves((after.params, after.opt_state))} <= {"float32", "int32"}
    assert all(leaf.shape != after.router_bias.shape for leaf in jax.tree.leaves(after.opt_state))
    experts = after.params["moe_blocks"]["moe"]["experts"]["w_down_EFD"]
    assert experts.addressable_shards[0].data.size == experts.size // 8


# --- balance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", ["on", "off"])
def test_a_skewed_router_becomes_balanced_with_the_bias_and_stays_skewed_without(bias):
    """Off is a rate of 0, which leaves the bias as it was (test_router.py): here it is put back after each step."""
    state = jax.device_get(initial("one device"))
    # Every token has something in common, and the routers of all layers like it for experts 0 and 1.
    params = jax.tree.map(np.copy, state.params)
    params["embed"]["w_VD"] += 0.25
    params["moe_blocks"]["moe"]["router"]["w_DE"][:, :, :2] += 0.2
    state = dataclasses.replace(state, params=params)
    max_over_mean = []
    for _ in range(60):
        state, metrics = step("one device", "all_gather", 1, state, make_batch(0), learning_rate=1e-4)
        if bias == "off":
            state = dataclasses.replace(state, router_bias=np.zeros_like(state.router_bias))
        max_over_mean.append(metrics["expert_load_imbalance"])
    max_over_mean = np.array(max_over_mean)  # [step, layer]
    assert (max_over_mean[0] > 2).all()
    if bias == "on":
        assert (max_over_mean[-5:] < 1.5).all()
    else:
        assert (max_over_mean > 2).all()


# --- guard, precision, scoring ----------------------------------------------------------------------------------------


def test_a_nonfinite_step_leaves_everything_as_it_was(reference):
    before, _ = reference[0]
    poisoned = make_batch(1)
    poisoned["weights"][3, 2] = np.nan
    after, metrics = step("one device", "all_gather", 1, before, poisoned)
    assert_same_bits(
        (after.params, after.router_bias, after.opt_state), (before.params, before.router_bias, before.opt_state)
    )
    assert after.step == before.step + 1
    assert metrics["nonfinite_streak"] == metrics["nonfinite_total"] == 1 and not metrics["spike"]
    # And the run goes on as if the step had not been.
    after, metrics = step("one device", "all_gather", 1, after, make_batch(1))
    assert_same_bits(after.params, reference[1][0].params)
    assert metrics["nonfinite_streak"] == 0 and metrics["nonfinite_total"] == 1


@pytest.mark.parametrize("mesh", ["fsdp 2 x expert 4", "expert 2 x context 4"])
def test_scoring_gives_the_nll_of_every_token(reference, mesh):
    """Each at its place in its row, in whatever order the pieces of a sequence lie on the devices."""
    batch = make_batch(0)

    def score(mesh):
        definition, state = make_definition(mesh), make_initial(mesh)
        return jit_score_step(definition, COMPUTE)(state.params, state.router_bias, batch)

    (nll_BT, load_LE), (_, metrics) = score(mesh), reference[0]
    assert nll_BT.shape == (ROWS, T) and nll_BT.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(nll_BT)[batch["segments"] == 0], 0)
    np.testing.assert_allclose(nll_BT.sum() / batch["weights"].sum(), metrics["loss"], rtol=1e-5)
    np.testing.assert_array_equal(load_LE, metrics["load"])
    assert_close(nll_BT, score("one device")[0], MODULE)


def test_no_logits_of_the_whole_batch():
    """In the complete step, gradients and all, nothing with the vocabulary as an axis is as large as half of all logits."""
    definition = make_definition("one device")
    optimizer = optimizer_of(definition)
    state = jax.eval_shape(lambda: init_state(definition, optimizer, 0))
    jaxpr = train_program("one device", "all_gather", 1).trace(state, make_batch(0), jnp.float32(0)).jaxpr
    shapes = [v.aval.shape for e in equations(jaxpr) for v in e.outvars if CONFIG.vocab_size in v.aval.shape]
    assert shapes and max(np.prod(s) for s in shapes) < ROWS * T * CONFIG.vocab_size / 2


@pytest.mark.parametrize("mesh, shape", [("fsdp 2 x expert 4", (4, T)), ("expert 2 x context 4", (16, T // 4))])
def test_batches_are_split_over_the_devices(mesh, shape):
    tokens = jax.device_put(make_batch(0)["tokens"], batch_sharding(make_mesh(MESHES[mesh])))
    assert {shard.data.shape for shard in tokens.addressable_shards} == {shape}


@pytest.mark.slow
def test_moments_on_the_host_change_no_bit():
    mesh = make_mesh(MESHES["fsdp 2 x expert 4"])
    compute = dataclasses.replace(COMPUTE, offload_optimizer=True)
    definition = ModelDef(CONFIG, compute, mesh, OPTIMIZER.init_std)
    optimizer = optimizer_of(definition)
    program = jit_train_step(
        definition, optimizer, compute=compute, balance=BALANCE, guard=GuardConfig(), microbatches=1
    )
    shardings = state_shardings(definition, optimizer)
    state = jax.jit(lambda: init_state(definition, optimizer, 0), out_shardings=shardings)()
    for expected, metrics in five_steps("fsdp 2 x expert 4", "all_gather", 1)[:2]:
        seed = int(state.step)
        state, found = program(state, make_batch(seed), jnp.float32(3e-3))
        kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim}
        assert kinds == {"pinned_host"} != {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.params)}
        jax.tree.map(np.testing.assert_array_equal, jax.device_get((state, found)), (expected, metrics))


@pytest.mark.slow
def test_inputs_on_the_host_change_no_bit_over_a_mesh():
    mesh = make_mesh(MESHES["fsdp 2 x expert 4"])
    results = []
    for offloaded in ((), ("layer_input",)):
        compute = dataclasses.replace(COMPUTE, remat="full", offload_activations=offloaded)
        definition = ModelDef(CONFIG, compute, mesh, OPTIMIZER.init_std)
        optimizer = optimizer_of(definition)
        program = jit_train_step(
            definition, optimizer, compute=compute, balance=BALANCE, guard=GuardConfig(), microbatches=2
        )
        shardings = state_shardings(definition, optimizer)
        state = jax.jit(lambda: init_state(definition, optimizer, 0), out_shardings=shardings)()  # noqa: B023
        results.append(jax.device_get(program(state, make_batch(0), jnp.float32(3e-3))))
    jax.tree.map(np.testing.assert_array_equal, *results)
