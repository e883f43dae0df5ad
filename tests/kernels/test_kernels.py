"""The attention kernel and the chunked head against plain references: values, gradients, dtypes, and what is never formed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numerics import MODULE, assert_close, equations, input_dtypes

from dots_jax.config import MeshConfig
from dots_jax.kernels import select as kernels
from dots_jax.model.head import Head
from dots_jax.parallel.mesh import make_mesh

# --- attention ------------------------------------------------------------------------------------------------------

# Lengths of the documents of each row, and of the padding after them.
LAYOUTS = {
    "short": [([11], 0), ([3, 1, 5], 2), ([], 11)],
    "several blocks of queries": [([257], 0), ([100, 1, 120], 36)],
}


def plain_attention(q, k, v, segments):
    """Document by document, each with its own triangle."""
    y = jnp.zeros_like(q)
    for b, row in enumerate(segments):
        for segment in range(1, row.max() + 1):
            (place,) = np.nonzero(row == segment)
            scores_NTS = jnp.einsum("tnh,snh->nts", q[b, place], k[b, place]) / np.sqrt(q.shape[-1])
            scores_NTS = jnp.where(np.tri(len(place), dtype=bool), scores_NTS, -jnp.inf)
            y = y.at[b, place].set(jnp.einsum("nts,snh->tnh", jax.nn.softmax(scores_NTS), v[b, place]))
    return y


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attention_is_that_of_each_document(layout):
    segments_BT = np.array(
        [np.repeat([*range(1, len(lengths) + 1), 0], [*lengths, padding]) for lengths, padding in LAYOUTS[layout]]
    )
    rng = np.random.default_rng(0)
    q, k, v, dy = (rng.normal(size=(*segments_BT.shape, 2, 6)).astype(np.float32) for _ in range(4))
    dy[segments_BT == 0] = 0  # nobody asks for the output of padding

    def both(attention):
        y, transpose = jax.vjp(lambda q, k, v: attention(q, k, v), q, k, v)
        return jnp.where(segments_BT[:, :, None, None] != 0, y, 0), transpose(dy), jnp.isfinite(y).all()

    own = lambda q, k, v: kernels.attention(q, k, v, segments_BT, segments_BT, 0)
    plain = lambda q, k, v: plain_attention(q, k, v, segments_BT)
    assert_close(jax.jit(lambda: both(own))(), jax.jit(lambda: both(plain))(), MODULE)


def test_the_last_queries_see_all_the_keys():
    """Queries that stand behind the first keys of their row: what a piece of a sequence along the context axis has."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, 24, 2, 6)).astype(np.float32) for _ in range(3))
    segments_BT = np.repeat([[1, 2, 3], [1, 1, 0]], 8, axis=1)
    complete = kernels.attention(q, k, v, segments_BT, segments_BT, 0)
    last = kernels.attention(q[:, 15:], k, v, segments_BT[:, 15:], segments_BT, 15)
    assert_close(last, complete[:, 15:], MODULE)


def test_attention_softmax_is_float32_in_bfloat16_compute():
    q = jnp.ones((1, 11, 2, 6), jnp.bfloat16)
    jaxpr = jax.make_jaxpr(lambda q, s: kernels.attention(q, q, q, s, s, 0))(q, np.ones((1, 11), np.int32))
    assert input_dtypes(jaxpr, "exp") == {"float32"}
    assert jaxpr.out_avals[0].dtype == jnp.bfloat16


# --- the head and its loss ------------------------------------------------------------------------------------------

B, T, D, V = 8, 9, 6, 37
CHUNKS = (0, 1, 7, 9, 24, 1000)  # 0: all at once; 7 divides neither 72 rows nor the 9 of a device


@pytest.fixture(scope="module")
def operands():
    rng = np.random.default_rng(0)
    x_BTD, w_DV = rng.normal(size=(B, T, D)).astype(np.float32), rng.normal(size=(D, V)).astype(np.float32)
    targets_BT = rng.integers(V, size=(B, T)).astype(np.int32)
    weights_BT = (rng.integers(3, size=(B, T)) * rng.uniform(size=(B, T))).astype(np.float32)  # a third of them 0
    return x_BTD, w_DV, targets_BT, weights_BT


def head_function(method: str, mesh=None, dtype="float32"):
    """`Head.<method>` as a function of the matrix first."""
    head = lambda: Head(D, V, init_std=1.0, dtype=jnp.dtype(dtype), mesh=mesh, rngs=nnx.Rngs(params=0))
    graph, state = nnx.split(nnx.eval_shape(head))

    def call(w_DV, *arguments):
        filled = jax.tree.map(lambda _: w_DV, state)
        return getattr(nnx.merge(graph, filled), method)(*arguments)

    return call


def plain_nll(w_DV, x_BTD, targets_BT):
    logits_BTV = np.asarray(x_BTD, np.float64) @ np.asarray(w_DV, np.float64)
    chosen_BT = np.take_along_axis(logits_BTV, targets_BT[..., None], -1)[..., 0]
    return np.log(np.exp(logits_BTV).sum(-1)) - chosen_BT


@pytest.fixture(scope="module")
def plain_loss(operands):
    """Value and gradients in x and w, by hand and in float64."""
    x_BTD, w_DV, targets_BT, weights_BT = (
        np.asarray(a, np.int32 if a.dtype == np.int32 else np.float64) for a in operands
    )
    probs_BTV = np.exp(x_BTD @ w_DV)
    probs_BTV /= probs_BTV.sum(-1, keepdims=True)
    dlogits_BTV = weights_BT[..., None] * (probs_BTV - np.eye(V)[targets_BT])
    value = np.sum(weights_BT * plain_nll(w_DV, x_BTD, targets_BT))
    return value, (np.einsum("btd,btv->dv", x_BTD, dlogits_BTV), np.einsum("btv,dv->btd", dlogits_BTV, w_DV))


@pytest.mark.parametrize("chunk", CHUNKS)
def test_loss_and_its_gradients_whatever_the_chunk(operands, plain_loss, chunk):
    x_BTD, w_DV, targets_BT, weights_BT = operands
    loss_sum = head_function("loss_sum")
    loss = jax.jit(jax.value_and_grad(lambda w, x: 3 * loss_sum(w, x, targets_BT, weights_BT, chunk), argnums=(0, 1)))
    value, grads = plain_loss
    assert_close(loss(w_DV, x_BTD), (3 * value, jax.tree.map(lambda g: 3 * g, grads)), MODULE)


def test_loss_without_gradient_is_the_same(operands, plain_loss):
    x_BTD, w_DV, targets_BT, weights_BT = operands
    loss = jax.jit(lambda w, x: head_function("loss_sum")(w, x, targets_BT, weights_BT, 7))
    assert_close(loss(w_DV, x_BTD), plain_loss[0], MODULE)


def test_rows_of_weight_zero_have_no_part(operands):
    x_BTD, w_DV, targets_BT, weights_BT = operands
    loss_sum = head_function("loss_sum")
    loss = jax.jit(jax.value_and_grad(lambda w, x, t: loss_sum(w, x, t, weights_BT, 7), argnums=(0, 1)))
    unused_BT = weights_BT == 0
    other_x, other_targets = np.where(unused_BT[..., None], 9, x_BTD), np.where(unused_BT, 0, targets_BT)
    value, (dw_DV, dx_BTD) = loss(w_DV, x_BTD, targets_BT)
    other_value, (other_dw_DV, _) = loss(w_DV, other_x, other_targets)
    np.testing.assert_array_equal(np.asarray(dx_BTD)[unused_BT], 0)
    assert_close((other_value, other_dw_DV), (value, dw_DV), 1e-6)


@pytest.mark.parametrize("chunk", (0, 7))
def test_token_nll_whatever_the_chunk(operands, chunk):
    x_BTD, w_DV, targets_BT, _ = operands
    nll_BT = jax.jit(lambda w, x: head_function("token_nll")(w, x, targets_BT, chunk))(w_DV, x_BTD)
    assert nll_BT.dtype == jnp.float32
    assert_close(nll_BT, plain_nll(w_DV, x_BTD, targets_BT), MODULE)


def test_over_a_mesh_the_same(operands, plain_loss):
    x_BTD, w_DV, targets_BT, weights_BT = operands
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, expert=2))  # one row for each device
    loss_sum, token_nll = head_function("loss_sum", mesh), head_function("token_nll", mesh)

    @jax.jit
    def both(w, x):
        loss = jax.value_and_grad(lambda w, x: loss_sum(w, x, targets_BT, weights_BT, 7), argnums=(0, 1))
        return loss(w, x), token_nll(w, x, targets_BT, 7)

    assert_close(both(w_DV, x_BTD), (plain_loss, plain_nll(w_DV, x_BTD, targets_BT)), MODULE)


def test_logits_of_the_whole_batch_are_never_formed(operands):
    """Neither in the program as traced nor as compiled is any array as large as the logits of half the batch."""
    x_BTD, w_DV, targets_BT, weights_BT = operands
    loss_sum, token_nll = head_function("loss_sum"), head_function("token_nll")

    def everything(w, x):
        loss = jax.value_and_grad(lambda w, x: loss_sum(w, x, targets_BT, weights_BT, 4), argnums=(0, 1))
        return loss(w, x), token_nll(w, x, targets_BT, 4)

    limit = B * T * V // 2
    sizes = [v.aval.size for e in equations(jax.make_jaxpr(everything)(w_DV, x_BTD)) for v in e.outvars]
    assert 4 * V in sizes and max(sizes) < limit
    compiled = jax.jit(everything).lower(w_DV, x_BTD).compile().as_text()
    shapes = [np.prod([int(n) for n in dims.split(",")]) for dims in re.findall(r"f32\[([\d,]+)\]", compiled)]
    assert 4 * V in shapes and max(shapes) < limit


def test_loss_is_float32_in_bfloat16_compute(operands, plain_loss):
    x_BTD, w_DV, targets_BT, weights_BT = operands
    loss_sum = head_function("loss_sum", dtype="bfloat16")
    loss = jax.value_and_grad(lambda w, x: loss_sum(w, x, targets_BT, weights_BT, 7), argnums=(0, 1))
    jaxpr = jax.make_jaxpr(loss)(w_DV, x_BTD.astype(jnp.bfloat16))
    assert input_dtypes(jaxpr, "exp", "log") == {"float32"}
    value, (dw_DV, dx_BTD) = jax.jit(loss)(w_DV, x_BTD.astype(jnp.bfloat16))
    assert (value.dtype, dw_DV.dtype, dx_BTD.dtype) == (jnp.float32, jnp.float32, jnp.bfloat16)
    assert_close((value, (dw_DV, dx_BTD.astype(jnp.float32))), plain_loss, 0.02)
