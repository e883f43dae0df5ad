"""Which kernels a platform runs."""

from collections.abc import Callable
from typing import NamedTuple

from dots_jax.kernels.cpu.grouped_matmul import grouped_matmul
from dots_jax.kernels.reference.attention import attention
from dots_jax.kernels.reference.norm_rope import norm_rope


class Kernels(NamedTuple):
    """What a platform has its own kernels for. Each has the signature and the meaning of its plain reference.

    ragged: it has a collective in which only the rows that are there travel.
    """

    norm_rope: Callable
    attention: Callable
    grouped_matmul: Callable
    ragged: bool = False


def kernels_for(platform: str) -> Kernels:
    """The kernels of `cpu`, `gpu` or `tpu`."""
    if platform == "tpu":
        from dots_jax.kernels.tpu import attention as tpu_attention
        from dots_jax.kernels.tpu import grouped_matmul as tpu_grouped_matmul
        from dots_jax.kernels.tpu import norm_rope as tpu_rope

        return Kernels(tpu_rope.norm_rope, tpu_attention.attention, tpu_grouped_matmul.grouped_matmul, ragged=True)
    if platform in ("gpu", "cuda"):
        from dots_jax.kernels.gpu import attention as gpu_attention
        from dots_jax.kernels.gpu import grouped_matmul as gpu_grouped_matmul

        return Kernels(norm_rope, gpu_attention.attention, gpu_grouped_matmul.grouped_matmul)
    return Kernels(norm_rope, attention, grouped_matmul)
