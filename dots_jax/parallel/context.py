"""Sequences in pieces along the `context` axis of the mesh: the order of their tokens, and attention over all pieces."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dots_jax.parallel.collectives import axis_sizes
from dots_jax.parallel.mesh import CONTEXT
from dots_jax.parallel.sharding import batch_sharding


def context_order(pieces: int) -> list[int]:
    """The order of the 2 * pieces chunks of a sequence along the context axis: device i has chunks i and 2 * pieces - 1 - i,
    an early one and a late one, so that under the causal mask every device has the same work."""
    return [chunk for i in range(pieces) for chunk in (i, 2 * pieces - 1 - i)]


def along_context(batch: dict[str, jax.Array], mesh: Mesh | None, back: bool = False) -> dict[str, jax.Array]:
    """The tokens of each sequence in `context_order`, in which the context axis splits them, or from that order `back`."""
    if mesh is None or mesh.shape[CONTEXT] == 1:
        return batch
    pieces = mesh.shape[CONTEXT]
    order = context_order(pieces)
    order = [order.index(i) for i in range(2 * pieces)] if back else order
    chunks = {name: a.reshape(a.shape[0], 2 * pieces, -1) for name, a in batch.items()}
    moved = {name: jnp.stack([a[:, i] for i in order], axis=1).reshape(batch[name].shape) for name, a in chunks.items()}
    return jax.lax.with_sharding_constraint(moved, batch_sharding(mesh))


def attention_over_context(q_BTNH, k_BTNH, v_BTNH, segments_BT, attention: Callable) -> jax.Array:
    """Causal attention of sequences that may be split along the context axis, in `context_order`: [B, T, N, H].

    attention: of a device's queries to given keys, as `kernels.reference.attention`. Without a context axis it is all.
    Keys and values are gathered once: 2 * T * N * H * (devices - 1) elements a layer, a fraction 1 / T of the arithmetic.
    Each device takes its two chunks of queries to the keys up to their ends and no further; the work is the same on all.
    """
    if axis_sizes().get(CONTEXT, 1) == 1:
        return attention(q_BTNH, k_BTNH, v_BTNH, segments_BT, segments_BT, 0)
    pieces, T = jax.lax.axis_size(CONTEXT), q_BTNH.shape[1]
    chunk = T // 2
    place = [context_order(pieces).index(i) for i in range(2 * pieces)]

    def gather(a_BT):
        flat_BT = jax.lax.all_gather(a_BT.reshape(*a_BT.shape[:2], -1), CONTEXT, axis=1, tiled=True)
        flat_BT = jnp.concatenate([flat_BT[:, p * chunk : (p + 1) * chunk] for p in place], axis=1)
        return flat_BT.reshape(a_BT.shape[0], -1, *a_BT.shape[2:])

    def on_device(i: int):
        def two_chunks(q_BTNH, segments_BT, k_BSNH, v_BSNH, segments_BS):
            y = []
            for half, begin in ((0, i * chunk), (chunk, (2 * pieces - 1 - i) * chunk)):
                end, own = begin + chunk, slice(half, half + chunk)
                keys = (a[:, :end] for a in (k_BSNH, v_BSNH))
                y.append(attention(q_BTNH[:, own], *keys, segments_BT[:, own], segments_BS[:, :end], begin))
            return jnp.concatenate(y, axis=1)

        return two_chunks

    return jax.lax.switch(
        jax.lax.axis_index(CONTEXT), [on_device(i) for i in range(pieces)],
        q_BTNH, segments_BT, gather(k_BTNH), gather(v_BTNH), gather(segments_BT),
    )  # fmt: skip
