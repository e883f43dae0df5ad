"""How arrays are split over the mesh: the rule table from logical axes of parameters to mesh axes, and the layout of a batch."""

from collections.abc import Mapping

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dots_jax.parallel.mesh import BATCH_AXES, CONTEXT

SHARD = ("fsdp", "expert", "context")


# The rule table: the logical axis of a parameter -> the mesh axes that may split it. Each mesh axis goes to the first
# axis of the parameter that lists it and is a multiple of it: the leading one if possible, since complete rows are gathered
# without a change of layout. An axis that no mesh axis divides is not split: small parameters of small models.
RULES: dict[str, tuple[str, ...]] = {
    "vocab": SHARD,
    "embed": SHARD,
    "ffn": SHARD,
    "expert": ("expert", "fsdp"),  # of experts to which tokens are sent
    "expert_embed": ("fsdp", "context"),
    "expert_ffn": ("fsdp", "context"),
    "stored_expert": SHARD,  # of experts whose weights are sent to the tokens
    "heads": (),
    "head_dim": (),
    "router": (),
    "norm": (),
}


def parameter_spec(logical: tuple[str, ...], shape: tuple[int, ...], axis_sizes: Mapping[str, int]) -> PartitionSpec:
    """The PartitionSpec of a parameter from the names of its axes, by the rule table. axis_sizes: `mesh.shape`.

    A stacked parameter has one axis more than names: the layer axis in front, which is never split.

    Raises:
      ValueError: an axis name without a rule.
    """
    names = ("layers",) * (len(shape) - len(logical)) + tuple(logical)
    entries, used = [], set()
    for name, size in zip(names, shape, strict=True):
        if name != "layers" and name not in RULES:
            raise ValueError(f"logical axis {name!r} has no rule in parallel.sharding.RULES")
        taken, parts = [], 1
        for axis in RULES.get(name, ()):
            if axis not in used and axis_sizes[axis] > 1 and size % (parts * axis_sizes[axis]) == 0:
                taken.append(axis)
                parts *= axis_sizes[axis]
        used |= set(taken)
        entries.append(tuple(taken) or None)
    return PartitionSpec(*entries)


TOKENS = PartitionSpec(BATCH_AXES, CONTEXT)  # of [B, T, ...]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of the batch over three axes, their tokens over the fourth."""
    return NamedSharding(mesh, TOKENS)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())
