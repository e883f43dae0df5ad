"""The order of a sequence's tokens along the `context` axis of the mesh."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dots_jax.parallel.mesh import CONTEXT
from dots_jax.parallel.sharding import batch_sharding


def context_order(pieces: int) -> list[int]:
    """In which order the 2 * pieces chunks of a sequence lie along the context axis: device i has chunks i and
    2 * pieces - 1 - i, an early one and a late one, so that the causal mask leaves every device as much to do."""
    return [chunk for i in range(pieces) for chunk in (i, 2 * pieces - 1 - i)]


def along_context(batch: dict[str, jax.Array], mesh: Mesh | None, back: bool = False) -> dict[str, jax.Array]:
    """The tokens of each sequence in the order in which they lie along the context axis, or from there `back`."""
    if mesh is None or mesh.shape[CONTEXT] == 1:
        return batch
    pieces = mesh.shape[CONTEXT]
    order = context_order(pieces)
    order = [order.index(i) for i in range(2 * pieces)] if back else order
    chunks = {name: a.reshape(a.shape[0], 2 * pieces, -1) for name, a in batch.items()}
    moved = {name: jnp.stack([a[:, i] for i in order], axis=1).reshape(batch[name].shape) for name, a in chunks.items()}
    return jax.lax.with_sharding_constraint(moved, batch_sharding(mesh))
