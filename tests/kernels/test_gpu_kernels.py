"""Kernels for GPUs, without one: values against the references in interpret mode, and lowering for CUDA on a CPU.

Claim: the GPU's grouped matmul equals its reference, and the train step lowers for CUDA.
"""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from jax.experimental.pallas import triton
from numerics import MODULE, assert_close

from dots_jax.config import BalanceConfig, ComputeConfig, GuardConfig, ModelConfig, OptimizerConfig
from dots_jax.kernels.gpu import attention as gpu_attention
from dots_jax.kernels.gpu import grouped_matmul as gpu_kernels
from dots_jax.kernels.reference.grouped_matmul import grouped_matmul_reference
from dots_jax.training import state, step
from dots_jax.training.optimizer import make_optimizer

LOADS = {"skewed": [5, 0, 37, 1], "one expert": [0, 0, 43, 0], "unused rows": [3, 20, 0, 2], "none": [0, 0, 0, 0]}


@pytest.mark.parametrize("transpose_w", [False, True])
@pytest.mark.parametrize("load", LOADS)
def test_grouped_matmul_is_its_reference(monkeypatch, load, transpose_w):
    monkeypatch.setattr(gpu_kernels, "ROWS", 16)  # several tiles an expert, at a size for a CPU
    monkeypatch.setattr(gpu_kernels, "COLUMNS", 32)
    monkeypatch.setattr(gpu_kernels, "DEPTH", 16)
    rng, sizes_E = np.random.default_rng(0), np.array(LOADS[load], np.int32)
    R, D, F = 43, 24, 40
    x_RD = rng.normal(size=(R, D)).astype(np.float32)
    w = rng.normal(size=(4, F, D) if transpose_w else (4, D, F)).astype(np.float32)
    dy_RF = rng.normal(size=(R, F)).astype(np.float32)
    used_R = np.arange(R) < sizes_E.sum()
    x_RD[~used_R], dy_RF[~used_R] = np.nan, np.nan  # undefined

    def both(matmul, x_RD, dy_RF):
        y_RF, transpose = jax.vjp(lambda x, w: matmul(x, w, sizes_E, transpose_w=transpose_w), x_RD, w)
        dx_RD, dw = transpose(dy_RF)
        return y_RF[used_R], dx_RD[used_R], dw

    ours = functools.partial(gpu_kernels.grouped_matmul, interpret=True)
    clean = [np.where(used_R[:, None], a, 0) for a in (x_RD, dy_RF)]
    actual = jax.jit(lambda: both(ours, x_RD, dy_RF))()
    assert_close(actual, jax.jit(lambda: both(grouped_matmul_reference, *clean))(), MODULE)


@pytest.fixture
def cuda(monkeypatch):
    """Lets jax lower for a GPU that is not there: it asks the device only which cuDNN and which card it has."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91200)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda capability: False)
    if hasattr(triton, "get_gpu_info_from_version"):  # from jax 0.11 on Pallas asks, too
        h100 = triton.get_gpu_info_from_version(triton.GpuVersion.H100)
        monkeypatch.setattr("jax._src.pallas.triton.gpu_info.get_gpu_info", lambda: h100)


def lowered(function, *arguments) -> str:
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


def test_the_train_step_lowers_for_cuda(cuda, monkeypatch):
    """With cuDNN's attention and our grouped matmul in it, and no `ragged_dot`, which XLA makes dense."""
    monkeypatch.setattr(state.jax, "default_backend", lambda: "gpu")
    model = ModelConfig(
        vocab_size=259, num_layers=3, hidden_size=128, num_heads=2, head_dim=64, dense_ffn_size=64, num_experts=8,
        experts_per_token=2, expert_ffn_size=64, num_shared_experts=2, max_seq_len=256,
    )  # fmt: skip
    compute = ComputeConfig(dtype="bfloat16", remat="matmuls")
    definition = state.ModelDef(model, compute, None, 0.02)
    optimizer = make_optimizer(OptimizerConfig(), definition.weight_decays())
    shapes = jax.eval_shape(lambda: state.init_state(definition, optimizer, 0))
    batch = {key: jax.ShapeDtypeStruct((4, 256), jnp.int32) for key in step.BATCH_KEYS}
    batch["weights"] = jax.ShapeDtypeStruct((4, 256), jnp.float32)
    train = functools.partial(
        step.train_step, model_def=definition, optimizer=optimizer, compute=compute, balance=BalanceConfig(),
        guard=GuardConfig(), microbatches=2,
    )  # fmt: skip
    text = lowered(train, shapes, batch, jax.ShapeDtypeStruct((), jnp.float32))
    calls = SimpleNamespace(attention=text.count("__cudnn$fmha"), triton=text.count("triton"))
    assert calls.attention >= 4 and calls.triton >= 6, calls
    assert "ragged_dot" not in text
    assert "@__cudnn$fmhaScaleBiasSoftmaxBackward" in text


def test_attention_lowers_for_queries_of_a_part(cuda):
    """Under a context axis fewer queries than keys: the triangle is part of the mask."""
    q = jax.ShapeDtypeStruct((2, 64, 2, 64), jnp.bfloat16)
    k, segments = jax.ShapeDtypeStruct((2, 128, 2, 64), jnp.bfloat16), np.ones((2, 128), np.int32)
    text = lowered(lambda q, k: gpu_attention.attention(q, k, k, segments[:, :64], segments, 64), q, k)
    assert "__cudnn$fmhaScaleBiasSoftmax" in text
