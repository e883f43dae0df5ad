"""Which kernels a platform runs."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from dots_jax.kernels.cpu.grouped_matmul import grouped_matmul as cpu_grouped_matmul
from dots_jax.kernels.reference.attention import attention
from dots_jax.kernels.reference.dense import dense, keep_layout
from dots_jax.kernels.reference.norm_rope import norm_rope


class Kernels(NamedTuple):
    """What a platform may have its own kernels for. Each has the signature and the meaning of its plain reference.

    dense: x @ w. keep_layout: hidden states, in the memory layout in which layers pass them on. ragged: the platform has an
    all-to-all that sends used rows alone.
    """

    norm_rope: Callable
    attention: Callable
    grouped_matmul: Callable
    dense: Callable = dense
    keep_layout: Callable = keep_layout
    ragged: bool = False


def kernels_for(platform: str, default_vmem: bool = False) -> Kernels:
    """The kernels of `cpu`, `gpu` or `tpu`. default_vmem: for a program that is compiled without the options of
    `parallel/compiler_options.py`, whose kernels have 16 MiB of a TPU's vector memory and not 32 or more."""
    if platform == "tpu":
        from dots_jax.kernels.tpu import attention as tpu_attention
        from dots_jax.kernels.tpu import dense as tpu_dense
        from dots_jax.kernels.tpu import grouped_matmul as tpu_grouped_matmul
        from dots_jax.kernels.tpu import norm_rope as tpu_rope

        grouped_matmul = tpu_grouped_matmul.grouped_matmul
        if default_vmem:
            grouped_matmul = functools.partial(grouped_matmul, vmem_bytes=tpu_grouped_matmul.DEFAULT_VMEM_BYTES)
        return Kernels(
            tpu_rope.norm_rope, tpu_attention.attention, grouped_matmul, tpu_dense.dense, tpu_dense.keep_layout,
            ragged=True,
        )  # fmt: skip
    if platform in ("gpu", "cuda"):
        from dots_jax.kernels.gpu import attention as gpu_attention
        from dots_jax.kernels.gpu import grouped_matmul as gpu_grouped_matmul

        return Kernels(norm_rope, gpu_attention.attention, gpu_grouped_matmul.grouped_matmul)
    return Kernels(norm_rope, attention, cpu_grouped_matmul)
