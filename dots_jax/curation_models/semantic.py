"""Semantic duplicates among unit vectors: spherical k-means, then blocked cosine within clusters (SemDeDup, arXiv 2303.09540).

Every vector is compared in the clusters of its nearest `probes` centroids, since pairs at the border of two clusters would else not
meet. A vector is a duplicate if an earlier one, in the order in which the vectors come, has a cosine of at least the threshold; one
that is a duplicate itself counts too. Shape suffixes: N vectors, D size, K clusters, P probes.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TILE = 1024  # vectors of a block of cosines: 4 MiB
HIGHEST = jax.lax.Precision.HIGHEST


class Duplicates(NamedTuple):
    """Of each vector its earliest duplicate: number of the vector, of the earlier one, and their cosine, 4 decimals."""

    later: np.ndarray
    earlier: np.ndarray
    cosine: np.ndarray


def number_of_clusters(count: int) -> int:
    """About the square root, as SemDeDup's."""
    return max(1, round(count**0.5))


@functools.partial(jax.jit, static_argnames="probes")
def _nearest(block_BD: jax.Array, centroids_KD: jax.Array, probes: int) -> jax.Array:
    return jax.lax.top_k(jnp.matmul(block_BD, centroids_KD.T, precision=HIGHEST), probes)[1]


@jax.jit
def _sums(block_BD: jax.Array, weight_B: jax.Array, centroids_KD: jax.Array) -> tuple[jax.Array, jax.Array]:
    chosen_B = jnp.argmax(jnp.matmul(block_BD, centroids_KD.T, precision=HIGHEST), axis=1)
    add = functools.partial(jax.ops.segment_sum, segment_ids=chosen_B, num_segments=centroids_KD.shape[0])
    return add(block_BD * weight_B[:, None]), add(weight_B)


@jax.jit
def _cosines(left_AD: jax.Array, right_BD: jax.Array) -> jax.Array:
    return jnp.matmul(left_AD, right_BD.T, precision=HIGHEST)


def _block(vectors_ND: np.ndarray, first: int) -> tuple[np.ndarray, int]:
    """TILE vectors from `first` on, the missing ones as zeros: one shape for the compiler."""
    part = vectors_ND[first : first + TILE]
    padded = np.zeros((TILE, vectors_ND.shape[1]), np.float32)
    padded[: len(part)] = part
    return padded, len(part)


def kmeans(vectors_ND: np.ndarray, clusters: int, seed: int, rounds: int = 10) -> np.ndarray:
    """Unit centroids, float32 [K, D]; a function of (vectors, seed). A cluster that loses all vectors keeps its centroid."""
    count = len(vectors_ND)
    clusters = min(clusters, count)
    chosen = np.random.default_rng((seed, count)).permutation(count)[:clusters]
    centroids_KD = np.array(vectors_ND[np.sort(chosen)], np.float32)
    for _ in range(rounds):
        sums_KD, counts_K = np.zeros(centroids_KD.shape), np.zeros(clusters)
        for first in range(0, count, TILE):
            block, size = _block(vectors_ND, first)
            some_KD, some_K = _sums(block, (np.arange(TILE) < size).astype(np.float32), centroids_KD)
            sums_KD += np.asarray(some_KD)
            counts_K += np.asarray(some_K)
        lengths_K = np.linalg.norm(sums_KD, axis=1)
        moved_K = (counts_K > 0) & (lengths_K > 1e-6)
        centroids_KD[moved_K] = (sums_KD[moved_K] / lengths_K[moved_K, None]).astype(np.float32)
    return centroids_KD


def nearest(vectors_ND: np.ndarray, centroids_KD: np.ndarray, probes: int) -> np.ndarray:
    """int32 [N, P]: the clusters in which each vector is compared, the nearest first."""
    probes = min(probes, len(centroids_KD))
    found_NP = np.empty((len(vectors_ND), probes), np.int32)
    for first in range(0, len(vectors_ND), TILE):
        block, size = _block(vectors_ND, first)
        found_NP[first : first + size] = np.asarray(_nearest(block, centroids_KD, probes))[:size]
    return found_NP


def duplicates_among(vectors_MD: np.ndarray, threshold: float) -> Duplicates:
    """Every pair of a cluster is compared, in blocks; vectors come in their order."""
    count = len(vectors_MD)
    first_M, cosine_M = np.full(count, -1, np.int64), np.zeros(count)
    blocks = [_block(vectors_MD, first)[0] for first in range(0, count, TILE)]
    for row, later in enumerate(blocks):
        for column in range(row + 1):
            cosines = np.round(np.asarray(_cosines(later, blocks[column]), np.float64), 4)
            close = cosines >= threshold
            if row == column:
                close &= np.tri(TILE, k=-1, dtype=bool)
            for place in np.flatnonzero(close.any(axis=1)):
                number = row * TILE + place
                if number < count and first_M[number] < 0:
                    found = int(close[place].argmax())
                    first_M[number], cosine_M[number] = column * TILE + found, cosines[place, found]
    later = np.flatnonzero(first_M >= 0)
    return Duplicates(later, first_M[later], cosine_M[later])


def find_duplicates(
    vectors_ND: np.ndarray, threshold: float, *, clusters: int = 0, probes: int = 3, seed: int = 0
) -> Duplicates:
    """clusters: 0: the square root of N. vectors: unit length, the ones that stay first."""
    centroids_KD = kmeans(vectors_ND, clusters or number_of_clusters(len(vectors_ND)), seed)
    member_NP = nearest(vectors_ND, centroids_KD, probes)
    best: dict[int, tuple[int, float]] = {}
    for cluster in range(len(centroids_KD)):
        members = np.flatnonzero((member_NP == cluster).any(axis=1))
        found = duplicates_among(vectors_ND[members], threshold)
        for later, earlier, cosine in zip(members[found.later], members[found.earlier], found.cosine):
            if int(later) not in best or int(earlier) < best[int(later)][0]:
                best[int(later)] = int(earlier), float(cosine)
    later = sorted(best)
    return Duplicates(
        np.array(later, np.int64),
        np.array([best[n][0] for n in later], np.int64),
        np.array([best[n][1] for n in later]),
    )
