"""The complete transformer: packing, padding, causality, what remat and bfloat16 may and may not change, initial values."""

import collections
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numerics import MODEL, assert_close, equations, input_dtypes, random_batch, random_weights

from dots_jax.config import SAVEABLE, ComputeConfig, ModelConfig
from dots_jax.model.model_def import ModelDef

CONFIG = ModelConfig(
    vocab_size=61, num_layers=4, hidden_size=16, num_heads=2, head_dim=8, dense_ffn_size=24, num_experts=8,
    experts_per_token=3, expert_ffn_size=8, num_shared_experts=2, rope_theta=100.0, max_seq_len=64,
)  # fmt: skip
T = 19
STD = 0.25  # 1 / sqrt(hidden size): every part of the network matters to the result


def define(**compute) -> ModelDef:
    return ModelDef(CONFIG, ComputeConfig(**{"dtype": "float32", "remat": "none", **compute}), mesh=None, init_std=STD)


def make_hidden(definition: ModelDef):
    """(params, router_bias, batch) -> hidden states [B, T, D] and the statistics of the routers."""

    def hidden(params, router_bias, batch):
        return definition.bind(params, router_bias)(batch["tokens"], batch["positions"], batch["segments"])

    return hidden


def make_loss(definition: ModelDef):
    def loss(params, router_bias, batch):
        x_BTD, stats = make_hidden(definition)(params, router_bias, batch)
        loss_sum = definition.bind(params, router_bias).head.loss_sum(x_BTD, batch["targets"], batch["weights"], 5)
        return loss_sum / batch["weights"].sum() + 0.1 * stats.balance.sum()

    return loss


@pytest.fixture(scope="module")
def arrays():
    """params and a router bias that is not zero."""
    params, router_bias = define().abstract()
    return random_weights(params, STD), np.random.default_rng(1).normal(0, 0.1, router_bias.shape).astype(np.float32)


@pytest.fixture(scope="module")
def hidden(arrays):
    jitted = jax.jit(make_hidden(define()))
    return lambda batch, router_bias=arrays[1]: jitted(arrays[0], router_bias, batch)


@pytest.fixture(scope="module")
def batch():
    """Rows: two documents packed; each of them alone; one document with two tokens changed in `variant`."""
    batch = random_batch([[8, 6], [8], [6], [15]], T, CONFIG.vocab_size)
    batch["tokens"][1, :8], batch["tokens"][2, :6] = batch["tokens"][0, :8], batch["tokens"][0, 8:14]
    return batch


def test_packed_documents_are_as_if_alone(hidden, batch):
    x_BTD, _ = hidden(batch)
    assert x_BTD.shape == (4, T, CONFIG.hidden_size)
    assert_close((x_BTD[0, :8], x_BTD[0, 8:14]), (x_BTD[1, :8], x_BTD[2, :6]), MODEL)


def test_rows_do_not_know_of_each_other(hidden, batch):
    x_BTD, _ = hidden(batch)
    one_row = jax.tree.map(lambda a: np.stack([a[3]] * 4), batch)
    y_BTD, _ = hidden(one_row)
    real = batch["segments"][3] != 0
    for row in range(4):
        assert_close(y_BTD[row, real], x_BTD[3, real], MODEL)


def test_padding_changes_nothing_and_is_not_counted(hidden, batch):
    real = batch["segments"] != 0
    garbled = {
        **batch,
        "tokens": np.where(real, batch["tokens"], 7),
        "positions": np.where(real, batch["positions"], 3),
    }
    (x_BTD, stats), (y_BTD, other_stats) = hidden(batch), hidden(garbled)
    assert_close(y_BTD[real], x_BTD[real], MODEL)
    np.testing.assert_array_equal(other_stats.load_E, stats.load_E)
    assert_close(other_stats.balance, stats.balance, MODEL)
    assert stats.load_E.shape == (CONFIG.num_moe_layers, CONFIG.num_experts)
    np.testing.assert_array_equal(stats.load_E.sum(axis=1), CONFIG.experts_per_token * real.sum())
    assert np.isfinite(x_BTD).all()


def test_no_token_sees_a_later_one(hidden, batch):
    changed = {**batch, "tokens": batch["tokens"].copy()}
    changed["tokens"][3, 9] = (changed["tokens"][3, 9] + 1) % CONFIG.vocab_size
    (x_BTD, _), (y_BTD, _) = hidden(batch), hidden(changed)
    assert_close(y_BTD[3, :9], x_BTD[3, :9], MODEL)
    assert (np.abs(y_BTD - x_BTD)[3, 9:15].max(axis=-1) > 0.01).all()


def test_the_bias_matters_but_has_no_gradient(arrays, hidden, batch, by_remat):
    x_BTD, _ = hidden(batch)
    y_BTD, _ = hidden(batch, np.zeros_like(arrays[1]))
    assert np.abs(y_BTD - x_BTD).max() > 0.1
    (_, (_, dbias_LE)), _ = by_remat["none"]
    np.testing.assert_array_equal(dbias_LE, 0)


# --- remat ----------------------------------------------------------------------------------------------------------


REMATS = ("none", "matmuls", ("attention", "qkv"), "full")


def traced(arrays, batch, remat: str | tuple[str, ...]):
    """The loss, and its gradients in parameters and bias."""
    return jax.jit(jax.value_and_grad(make_loss(define(remat=remat)), argnums=(0, 1))).trace(*arrays, batch)


def operations(trace) -> collections.Counter:
    """How often a program has each operation."""
    return collections.Counter(e.primitive.name for e in equations(trace.jaxpr))


@pytest.fixture(scope="module")
def by_remat(arrays, batch):
    """For each policy: value and gradients, and the operations of their program."""
    traces = {remat: traced(arrays, batch, remat) for remat in REMATS}
    return {remat: (t.lower().compile()(*arrays, batch), operations(t)) for remat, t in traces.items()}


@pytest.mark.parametrize("remat", REMATS[1:])
def test_remat_changes_neither_loss_nor_gradients(by_remat, remat):
    assert_close(by_remat[remat][0], by_remat["none"][0], 1e-6)


def test_remat_recomputes_what_its_name_says(by_remat):
    none, matmuls, attention, full = (by_remat[remat][1]["dot_general"] for remat in REMATS)
    assert none < matmuls < attention < full


@pytest.mark.parametrize("name", SAVEABLE)
def test_each_name_saves_work(arrays, batch, by_remat, name):
    """What the name stands for is not computed again: a matmul, or the choice of experts and their sorting."""
    kind = "top_k" if name == "routing" else "dot_general"
    assert operations(traced(arrays, batch, (name,)))[kind] < by_remat["full"][1][kind]


def test_what_waits_on_the_host_changes_no_bit(arrays, batch, by_remat):
    """It is moved, on a machine whose host memory is another, and computed from as if it had stayed."""
    compute = {"remat": ("routing",), "offload_activations": ("layer_input", "attention")}
    trace = jax.jit(jax.value_and_grad(make_loss(define(**compute)), argnums=(0, 1))).trace(*arrays, batch)
    kept = jax.jit(jax.value_and_grad(make_loss(define(remat=("attention", "routing"))), argnums=(0, 1))).trace(
        *arrays, batch
    )
    # As users compile, not with the tests' quick flags: those fuse, and so round, two programs differently.
    options = {"xla_cpu_use_fusion_emitters": True} if "fusion_emitters=false" in os.environ["XLA_FLAGS"] else {}
    results = [t.lower().compile(compiler_options=options)(*arrays, batch) for t in (trace, kept)]
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert_close(results[0], by_remat["none"][0], 1e-6)
    assert operations(trace)["dot_general"] == operations(kept)["dot_general"]
    spaces = {v.aval.memory_space for e in equations(trace.jaxpr) for v in e.outvars if hasattr(v.aval, "memory_space")}
    assert jax.memory.Space.Host in spaces


# --- precision ------------------------------------------------------------------------------------------------------


def test_float32_is_float32_throughout(arrays, batch):
    jaxpr = jax.make_jaxpr(jax.grad(make_loss(define())))(*arrays, batch)
    kinds = {str(v.aval.dtype) for e in equations(jaxpr) for v in e.outvars if hasattr(v.aval, "dtype")}
    assert not kinds & {"bfloat16", "float16", "float64"}


def test_bfloat16_computes_matmuls_only(arrays, batch, by_remat):
    """Parameters, gradients, router, norms, softmax and loss stay float32; the rest is bfloat16, and near."""
    definition = define(dtype="bfloat16")
    x_BTD, _ = jax.eval_shape(make_hidden(definition), *arrays, batch)
    assert x_BTD.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(definition.abstract())} == {jnp.dtype("float32")}

    jaxpr = jax.make_jaxpr(make_loss(definition))(*arrays, batch)
    assert input_dtypes(jaxpr, "exp", "log", "rsqrt", "cos", "sin", "top_k") == {"float32"}
    router_shape = (CONFIG.hidden_size, CONFIG.num_experts)
    for equation in equations(jaxpr):
        if equation.primitive.name in ("dot_general", "ragged_dot_general"):
            is_router = equation.invars[1].aval.shape == router_shape
            dtypes = {str(v.aval.dtype) for v in equation.invars[:2]}
            assert dtypes == ({"float32"} if is_router else {"bfloat16"}), equation

    gradients = jax.eval_shape(jax.grad(make_loss(definition)), *arrays, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}
    value = jax.jit(make_loss(definition))(*arrays, batch)
    (exact_value, _), _ = by_remat["none"]
    assert value.dtype == jnp.float32
    # bfloat16 has 8 bits: about 1 % after four layers, more where a token's third expert is another one.
    np.testing.assert_allclose(value, exact_value, rtol=0.01)


# --- initial values -------------------------------------------------------------------------------------------------


def test_initial_values():
    definition = ModelDef(CONFIG, ComputeConfig(), mesh=None, init_std=0.006)
    init = jax.jit(definition.init)
    params, router_bias = init(3)
    np.testing.assert_array_equal(router_bias, 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if path[-1].key == "scale":
            np.testing.assert_array_equal(leaf, 1, err_msg=name)
        else:
            leaf, sigma = np.asarray(leaf, np.float64), 0.006 / np.sqrt(leaf.size)
            assert abs(leaf.mean()) < 5 * sigma and abs(leaf.std() - 0.006) < 5 * sigma, name
    stacked = params["moe_blocks"]["moe"]["experts"]["w_down_EFD"]
    layers = np.asarray(stacked).reshape(CONFIG.num_moe_layers, -1)
    assert np.abs(np.corrcoef(layers) - np.eye(len(layers))).max() < 0.2, "every layer has numbers of its own"

    (again, _), (other, _) = init(3), init(4)
    matrix = lambda params: np.asarray(params["embed"]["w_VD"])
    np.testing.assert_array_equal(matrix(again), matrix(params))
    assert (matrix(other) != matrix(params)).all()
