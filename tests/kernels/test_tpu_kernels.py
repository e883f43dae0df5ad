"""The TPU's kernels against their plain references, run by Pallas' interpreter on a CPU; and the mode of shard_map they need.

Claim: the TPU kernels for attention, QK norm with rotation and grouped matmul equal their references; attention
  equals JAX's own kernel as well.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask
from numerics import MODULE, assert_close, random_batch, random_weights

from dots_jax.config import ComputeConfig, MeshConfig, ModelConfig
from dots_jax.kernels import select as kernels
from dots_jax.kernels.reference import dense
from dots_jax.kernels.reference import norm_rope as reference
from dots_jax.kernels.reference.grouped_matmul import grouped_matmul_reference
from dots_jax.kernels.tpu import attention as tpu_attention
from dots_jax.kernels.tpu import dense as tpu_dense
from dots_jax.kernels.tpu import grouped_matmul as tpu_grouped_matmul
from dots_jax.kernels.tpu import norm_rope as tpu_rope
from dots_jax.model import rope
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.mesh import make_mesh

# --- attention ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start, tiles",
    [
        (0, (128, 128, 128)),
        (0, (256, 256, 128)),
        (128, (128, 256, 256)),
        (256, (256, 128, 128)),
        (384, (128, 512, 256)),
    ],
    ids=str,
)
def test_attention(start, tiles, monkeypatch):
    """Values and gradients, packed documents and padding; queries from the row's start or from its middle; tiles of queries
    and keys of every relation."""
    for name, tile in zip(("QUERIES", "KEYS", "KEYS_AT_ONCE"), tiles):
        monkeypatch.setattr(tpu_attention, name, tile)
    rng = np.random.default_rng(0)
    S, T = 512, 512 - start
    segments_BS = np.stack([np.repeat([1, 1, 2, 2, 2, 3, 3, 0], S // 8), np.ones(S)]).astype(np.int32)
    segments_BT = segments_BS[:, start:]
    q, dy = (rng.normal(size=(2, T, 2, 128)).astype(np.float32) for _ in range(2))
    k, v = (rng.normal(size=(2, S, 2, 128)).astype(np.float32) for _ in range(2))

    def both(attention, **interpret):
        function = lambda q, k, v: attention(q, k, v, segments_BT, segments_BS, start, **interpret)
        y, transpose = jax.vjp(function, q, k, v)
        return y, transpose(dy)

    assert_close(both(tpu_attention.attention, interpret=True), both(kernels.attention), MODULE)


def test_attention_agrees_with_jax_s_own_kernel():
    """In bfloat16, as it runs: both round p and the result, and differ by no more than that."""
    rng = np.random.default_rng(1)
    segments = np.repeat([[1, 2, 2, 3]], 64, axis=1).astype(np.int32)
    q, k, v = (jnp.asarray(rng.normal(size=(1, 256, 2, 128)), jnp.bfloat16) for _ in range(3))
    mask = splash_attention_mask.MultiHeadMask([splash_attention_mask.CausalMask((256, 256))] * 2)
    splash = splash_attention_kernel.make_splash_mha(mask, head_shards=1, q_seq_shards=1, interpret=True)
    heads_first = (a[0].swapaxes(0, 1) for a in (q * 128**-0.5, k, v))
    expected = splash(*heads_first, splash_attention_kernel.SegmentIds(segments[0], segments[0])).swapaxes(0, 1)
    actual = tpu_attention.attention(q, k, v, segments, segments, 0, interpret=True)[0]
    np.testing.assert_allclose(actual.astype(np.float32), expected.astype(np.float32), atol=2**-6)


def test_small_heads_take_the_plain_path():
    """Those of tiny.gin have 32 lanes of a register's 128; without `interpret` a kernel would fail on a CPU."""
    rng = np.random.default_rng(2)
    q, scale = rng.normal(size=(1, 24, 2, 32)).astype(np.float32), np.ones(32, np.float32)
    segments, table = np.ones((1, 24), np.int32), rope.rope_table(jnp.arange(24)[None], 32, 1e4)
    actual = tpu_attention.attention(tpu_rope.norm_rope(q, scale, table, epsilon=1e-5), q, q, segments, segments, 0)
    expected = kernels.attention(reference.norm_rope(q, scale, table, epsilon=1e-5), q, q, segments, segments, 0)
    assert_close(actual, expected, MODULE)


@pytest.mark.parametrize("tokens", [512, 48])
def test_norm_and_rotation(tokens):
    """Values and gradients, of the scale too; positions of packed documents, and a row shorter than a tile."""
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(size=(2, tokens, 3, 128)).astype(np.float32) for _ in range(2))
    scale = rng.normal(size=128).astype(np.float32)
    table = rope.rope_table(jnp.asarray(rng.integers(0, 8192, (2, tokens))), 128, 1e7)

    def both(norm_rope, **interpret):
        y, transpose = jax.vjp(lambda x, scale: norm_rope(x, scale, table, epsilon=1e-5, **interpret), x, scale)
        return y, transpose(dy)

    assert_close(both(tpu_rope.norm_rope, interpret=True), both(reference.norm_rope), MODULE)


# --- the grouped matmul -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transpose_w", [False, True])
@pytest.mark.parametrize("sizes", [[100, 0, 156, 0], [64, 64, 64, 64], [0, 0, 0, 200]], ids=["uneven", "even", "one"])
def test_grouped_matmul(sizes, transpose_w):
    """Values and gradients; unused rows hold NaN, which reaches nothing."""
    rng = np.random.default_rng(0)
    R, E, D, F = 256, 4, 128, 256
    used = sum(sizes)
    x = rng.normal(size=(R, D)).astype(np.float32)
    dy = rng.normal(size=(R, F)).astype(np.float32)
    w = rng.normal(size=(E, F, D) if transpose_w else (E, D, F)).astype(np.float32)
    x[used:] = dy[used:] = np.nan

    def both(matmul, x, dy, **interpret):
        y, transpose = jax.vjp(lambda x, w: matmul(x, w, jnp.array(sizes), transpose_w=transpose_w, **interpret), x, w)
        dx, dw = transpose(dy)
        return y[:used], dx[:used], dw

    actual = both(tpu_grouped_matmul.grouped_matmul, x, dy, interpret=True)
    assert_close(actual, both(grouped_matmul_reference, np.nan_to_num(x), np.nan_to_num(dy)), MODULE)


@pytest.mark.parametrize("contracted, columns", [(4096, 2816), (1408, 4096), (2816, 4096), (4096, 1408)])
def test_an_experts_weights_are_read_once(contracted, columns):
    """dots.llm1's grouped matmuls hold all of K in a tile, and give each of a v5p's two cores as many tiles of columns."""
    R, K, N = tpu_grouped_matmul.tiles(10**6, contracted, columns)
    assert K == contracted and -(-columns // N) % 2 == 0
    assert 2 * 2 * (R * K + K * N + R * N) + 4 * R * N <= tpu_grouped_matmul.VMEM_BYTES
    small = tpu_grouped_matmul.tiles(10**6, contracted, columns, tpu_grouped_matmul.DEFAULT_VMEM_BYTES)
    assert small[1] * small[2] < K * N


def test_tiles_of_columns_that_do_not_divide(monkeypatch):
    """Three tiles of columns where two and a half are full, all of K in one tile or in halves; values and gradients."""
    rng = np.random.default_rng(3)
    sizes, x = jnp.array([100, 0, 156, 0]), rng.normal(size=(256, 256)).astype(np.float32)
    w = rng.normal(size=(4, 256, 640)).astype(np.float32)
    dy = rng.normal(size=(256, 640)).astype(np.float32)
    monkeypatch.setattr(tpu_grouped_matmul, "PARTS", (3,))

    def both(matmul, **options):
        y, transpose = jax.vjp(lambda x, w: matmul(x, w, sizes, **options), x, w)
        return y, *transpose(dy)

    expected = both(grouped_matmul_reference)
    for vmem_bytes, K in ((2**24, 256), (2**20, 128)):
        assert tpu_grouped_matmul.tiles(256, 256, 640, vmem_bytes, 4)[1:] == (K, 256)
        assert_close(both(tpu_grouped_matmul.grouped_matmul, vmem_bytes=vmem_bytes, interpret=True), expected, MODULE)


# --- shard_map without the check of what varies, as library kernels need it ---------------------------------------------

TINY = ModelConfig(
    vocab_size=48, num_layers=3, hidden_size=16, num_heads=2, head_dim=8, dense_ffn_size=24, num_experts=8,
    experts_per_token=2, expert_ffn_size=8, num_shared_experts=1, rope_theta=100.0, max_seq_len=64,
)  # fmt: skip
MESHES = {
    "data 2 x fsdp 2 x expert 2": MeshConfig(data=2, fsdp=2, expert=2),
    "fsdp 2 x expert 2 x context 2": MeshConfig(fsdp=2, expert=2, context=2),
}


def test_dense_is_the_plain_product_with_barriers():
    rng = np.random.default_rng(0)
    x, w, dy = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 5, 6), (6, 7), (2, 5, 7)))
    both = [
        jax.value_and_grad(lambda x, w, f=f: jnp.sum(f(x, w) * dy), argnums=(0, 1))(x, w)
        for f in (tpu_dense.dense, dense.dense)
    ]
    assert_close(*both, MODULE)
    text = jax.jit(jax.grad(lambda x, w: jnp.sum(tpu_dense.dense(x, w) * dy), argnums=(0, 1))).lower(x, w).as_text()
    # One after dy, one on x, one after each gradient; the forward product is not needed here.
    assert text.count("optimization_barrier") == 4


FAST = ("all_gather", next(iter(MESHES)))  # the others take 20 to 30 s each: make test-slow


@pytest.mark.parametrize(
    "exchange, mesh",
    [
        pytest.param(exchange, mesh, marks=() if (exchange, mesh) == FAST else pytest.mark.slow)
        for mesh in MESHES
        for exchange in ("all_gather", "all_to_all", "gather_weights")
    ],
)
def test_gradients_do_not_depend_on_the_check(mesh, exchange):
    """The library's kernels cannot say over which axes their results vary, so on a TPU JAX does not check it, and takes
    other transposes of sums over the mesh. Loss and gradients must be the same."""
    batch = random_batch([[5, 11], [16], [9], [1, 2, 13]] * 2, 16, TINY.vocab_size)
    definition = ModelDef(
        TINY, ComputeConfig(dtype="float32", remat="full", expert_strategy=exchange), make_mesh(MESHES[mesh]), 0.3
    )
    abstract, abstract_bias = definition.abstract()
    params, bias = random_weights(abstract, 0.3), np.zeros(abstract_bias.shape, np.float32)

    def loss(params, checked):
        model = definition.bind(params, bias)
        model.own_kernels = not checked
        x_BTD, stats = model(batch["tokens"], batch["positions"], batch["segments"])
        return model.head.loss_sum(x_BTD, batch["targets"], batch["weights"], 8) + jnp.sum(stats.balance)

    unchecked, checked = (jax.jit(jax.value_and_grad(lambda p, c=c: loss(p, c)))(params) for c in (False, True))
    assert_close(unchecked, checked, MODULE)
