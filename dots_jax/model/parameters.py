"""How a parameter is declared, once, where it is made: all that depends on its kind is read from its `Declaration`.

logical         the mesh axes that split it         parallel/sharding.py, inference/weights.py
decay           weight decay                        training/optimizer.py
compute_dtype   the dtype of its matmuls            training/step.py, inference/weights.py, `unshard`
stack           chunks of a checkpoint, and which   checkpoint/store.py, inference/weights.py, analysis/opened.py
                part of it a reader takes
part            sums over parts of the model        analysis/learning_dynamics.py, tests of model/flops.py
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

# The parts of the model, in the order in which they are reported.
PARTS = (
    "embedding", "attention", "norms", "dense feed-forward", "routers", "routed experts", "shared experts", "head",
)  # fmt: skip
EXPERT_AXES = ("expert", "stored_expert")


class RouterBias(nnx.Variable):
    """The correction bias of a router: state, but no gradient parameter."""


@dataclasses.dataclass(frozen=True)
class Declaration:
    """The metadata of one parameter.

    The module that makes a parameter gives the first five; `in_layers` adds the last two for modules that are layers.
    """

    shape: tuple[int, ...]  # of one layer, not sharded
    logical: tuple[str, ...]  # a name for each axis; parallel.sharding.RULES says which mesh axes split it
    part: str  # one of PARTS
    decay: bool  # whether weight decay applies
    compute_dtype: jnp.dtype  # of what the layers compute with; the optimizer's copy is float32
    first_layer: int | None = None  # the model's layer to which it belongs, or the first of a stack of layers
    stacked: bool = False  # whether the array has a leading layer axis

    @property
    def stack(self) -> tuple[str, ...]:
        """Names of the leading axes of the array along which readers take one layer or one expert."""
        return ("layers",) * self.stacked + ("experts",) * (self.logical[0] in EXPERT_AXES)


def weight(
    rngs: nnx.Rngs, shape: tuple[int, ...], logical: tuple[str, ...], *, std: float, part: str, compute_dtype: jnp.dtype
) -> nnx.Param:
    """A float32 matrix drawn from normal(0, std), to which weight decay applies."""
    declared = Declaration(shape, logical, part, True, jnp.dtype(compute_dtype))
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32), declared=declared)


def norm_scale(size: int) -> nnx.Param:
    """The float32 scale of a norm: ones, without weight decay, and computed with in float32."""
    declared = Declaration((size,), ("norm",), "norms", False, jnp.dtype("float32"))
    return nnx.Param(jnp.ones((size,), jnp.float32), declared=declared)


def router_bias(num_experts: int) -> RouterBias:
    """float32 zeros; the train step changes them by its own rule, not by gradients."""
    declared = Declaration((num_experts,), ("router",), "routers", False, jnp.dtype("float32"))
    return RouterBias(jnp.zeros((num_experts,), jnp.float32), declared=declared)


def declaration(variable: nnx.Variable) -> Declaration:
    return variable.get_metadata("declared")


def is_variable(leaf) -> bool:
    return isinstance(leaf, nnx.Variable)


def in_layers(module: nnx.Module, first_layer: int, *, stacked: bool) -> nnx.Module:
    """The same module, whose parameters are now declared to be those of one layer or of a stack of layers."""
    for variable in jax.tree.leaves(nnx.state(module), is_leaf=is_variable):
        placed = dataclasses.replace(declaration(variable), first_layer=first_layer, stacked=stacked)
        variable.set_metadata(declared=placed)
    return module
