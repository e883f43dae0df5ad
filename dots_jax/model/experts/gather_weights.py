"""Strategy `gather_weights`: the weights of all experts come to the tokens, and no token leaves its device.

Costs the weights of all experts a layer, however many tokens there are, and they can be fetched ahead. What is gathered runs
as `local_experts`.
"""

import jax
from flax import nnx

from dots_jax.parallel.collectives import unshard

# Experts are stored in any way: an expert's matrix may be split over the `expert` mesh axis like any other.
WEIGHT_AXES = ("stored_expert", "embed", "ffn")


def gather_all(param: nnx.Param) -> jax.Array:
    """All experts, in the compute dtype; one collective for each mesh axis."""
    return unshard(param)


def gather_all_fused(param: nnx.Param) -> jax.Array:
    """The same in one collective over all mesh axes, for a 2D torus whose devices hold one expert or a part of one."""
    return unshard(param, fused=True)
