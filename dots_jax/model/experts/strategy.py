"""How tokens and experts come together over the mesh, as one value that is chosen once."""

import dataclasses
import functools
from collections.abc import Callable

import jax
from flax import nnx

from dots_jax.kernels.select import Kernels
from dots_jax.model.experts import gather_weights
from dots_jax.model.experts.all_gather import all_gather_experts
from dots_jax.model.experts.all_to_all import all_to_all_experts
from dots_jax.model.experts.local import ExpertOutput, local_experts
from dots_jax.parallel.collectives import unshard

# Where tokens are sent, a device holds its own experts: the `expert` mesh axis splits them and nothing else.
OWN_EXPERTS = ("expert", "expert_embed", "expert_ffn")


@dataclasses.dataclass(frozen=True)
class ExpertStrategy:
    """Where the experts' weights are stored, what a device gathers of them, and how it brings tokens to them."""

    weight_axes: tuple[str, str, str]  # logical names of the axes [E, D, F] of the experts' weights
    unshard: Callable[[nnx.Param], jax.Array]  # the experts that this device works with, in the compute dtype
    apply: Callable[..., ExpertOutput]  # of (x_ND, ids_NK, gates_NK, w_gate_up_EDF, w_down_EFD), as `local_experts`


def choose_strategy(name: str, *, expert_devices: int, capacity_factor: float, kernels: Kernels) -> ExpertStrategy:
    """The strategy of this name, one of config.EXPERT_STRATEGIES.

    expert_devices: along the `expert` mesh axis. With one, all experts are local and nothing is exchanged.
    """
    local = functools.partial(local_experts, grouped_matmul=kernels.grouped_matmul)
    if name == "gather_weights":
        return ExpertStrategy(gather_weights.WEIGHT_AXES, gather_weights.gather_all, local)
    if name == "gather_weights_fused":
        return ExpertStrategy(gather_weights.WEIGHT_AXES, gather_weights.gather_all_fused, local)
    exchange = {
        "all_gather": all_gather_experts,
        "all_to_all": functools.partial(all_to_all_experts, ragged=kernels.ragged),
    }[name]
    exchange = functools.partial(exchange, capacity_factor=capacity_factor, grouped_matmul=kernels.grouped_matmul)
    return ExpertStrategy(
        OWN_EXPERTS, functools.partial(unshard, keep="expert"), exchange if expert_devices > 1 else local
    )
