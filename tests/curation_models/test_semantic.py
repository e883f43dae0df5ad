"""Semantic duplicates (mark 13): pairs planted at a cosine of .96 go and those at .94 stay, found as brute force finds them."""

import numpy as np
import pytest

from dots_jax.curation_models.semantic import duplicates_among, find_duplicates, kmeans, nearest


def unit(rng, *shape: int) -> np.ndarray:
    found = rng.normal(size=shape)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def topics(rng, count: int, size: int) -> np.ndarray:
    """Vectors around 40 topics, as embeddings of a corpus are: cosines of about .5 within a topic."""
    found = unit(rng, 40, size)[rng.integers(0, 40, count)] + unit(rng, count, size)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def at_cosine(rng, vectors: np.ndarray, cosine: float) -> np.ndarray:
    """Another unit vector for each, at exactly this cosine."""
    other = unit(rng, *vectors.shape)
    across = other - (other * vectors).sum(axis=1, keepdims=True) * vectors
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    return cosine * vectors + (1 - cosine**2) ** 0.5 * across


def planted(seed: int, count: int, size: int, pairs: int) -> tuple[np.ndarray, set[int], set[int]]:
    """(vectors, those with an earlier one at .96, those with one at .94)."""
    rng = np.random.default_rng(seed)
    base = topics(rng, count, size)
    close, far = at_cosine(rng, base[:pairs], 0.96), at_cosine(rng, base[pairs : 2 * pairs], 0.94)
    vectors = np.concatenate([base, close, far]).astype(np.float32)
    return vectors, set(range(count, count + pairs)), set(range(count + pairs, count + 2 * pairs))


def brute_force(vectors: np.ndarray, threshold: float) -> dict[int, int]:
    found = {}
    for first in range(0, len(vectors), 500):
        close = np.round(vectors[first : first + 500] @ vectors.T, 4) >= np.float32(threshold)
        for row in range(len(close)):
            earlier = np.flatnonzero(close[row, : first + row])
            if len(earlier):
                found[first + row] = int(earlier[0])
    return found


def test_planted_pairs_and_recall():
    vectors, close, far = planted(0, 3000, 128, 200)
    found = find_duplicates(vectors, 0.95)
    expected = brute_force(vectors, 0.95)
    got = dict(zip(found.later.tolist(), found.earlier.tolist()))
    assert close <= expected.keys() and not far & expected.keys()
    assert len(got.keys() & expected.keys()) >= 0.99 * len(expected) and got.keys() <= expected.keys()
    assert all(expected[number] == earlier for number, earlier in got.items())
    assert len(close & got.keys()) >= 0.99 * 200 and abs(np.median(found.cosine) - 0.96) < 1e-4
    again = find_duplicates(vectors, 0.95)
    assert all((a == b).all() for a, b in zip(found, again))


@pytest.mark.slow
def test_planted_pairs_at_the_size_of_bge_m3():
    vectors, close, far = planted(1, 20_000, 1024, 200)
    found = find_duplicates(vectors, 0.95, clusters=128)
    got = set(found.later.tolist())
    expected = brute_force(vectors, 0.95)
    assert len(got & expected.keys()) >= 0.99 * len(expected) and not got & far and len(close & got) >= 198


def test_the_earliest_is_named_across_blocks():
    rng = np.random.default_rng(2)
    one = unit(rng, 1, 64)
    others = unit(rng, 1500, 64)
    vectors = np.concatenate([others[:5], one, others[5:], one, one]).astype(np.float32)
    found = duplicates_among(vectors, 0.95)
    assert found.later.tolist() == [1501, 1502] and found.earlier.tolist() == [5, 5] and (found.cosine == 1).all()


def test_kmeans_finds_the_topics():
    rng = np.random.default_rng(3)
    centres = unit(rng, 4, 32)
    labels = rng.integers(0, 4, 1100)
    vectors = centres[labels] + 0.05 * rng.normal(size=(1100, 32))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    centroids = kmeans(vectors, 12, seed=0)
    assert np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    chosen = nearest(vectors, centroids, 1)[:, 0]
    assert all(len(set(labels[chosen == cluster].tolist())) <= 1 for cluster in range(12))
    assert (kmeans(vectors, 12, seed=0) == centroids).all() and kmeans(vectors[:3], 12, 0).shape == (3, 32)


def test_one_vector_and_none():
    one = unit(np.random.default_rng(4), 1, 8).astype(np.float32)
    assert len(find_duplicates(one, 0.95).later) == 0
    assert len(duplicates_among(one[:0], 0.95).later) == 0
