"""What the tests of the model share: how two trees of arrays are compared, batches of packed documents, and a look into jaxprs."""

import jax
import numpy as np

# Largest difference allowed in float32, relative to the largest entry of each array.
MODULE, MODEL = 1e-5, 1e-4


def assert_close(actual, expected, tolerance: float) -> None:
    """Every array of one tree against the other's. Relative to the largest entry: rounding grows with the sums, not with
    what they happen to cancel to."""
    actual, expected = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (actual, expected))
    assert actual.keys() == expected.keys()
    for path, e in expected.items():
        a, e = np.asarray(actual[path], np.float64), np.asarray(e, np.float64)
        assert a.shape == e.shape, f"{jax.tree_util.keystr(path)}: {a.shape}, expected {e.shape}"
        assert np.isfinite(a).all(), f"{jax.tree_util.keystr(path)} is not finite"
        difference, largest = np.abs(a - e).max(initial=0), np.abs(e).max(initial=0)
        assert difference <= tolerance * largest, (
            f"{jax.tree_util.keystr(path)}: off by {difference:.2e} with a largest entry of {largest:.2e}"
        )


def assert_same_bits(actual, expected) -> None:
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(e))


def random_weights(abstract: dict, std: float, seed: int = 0) -> dict:
    """Arrays for an abstract tree of parameters: matrices from normal(0, std), norm weights between 1/2 and 2."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        is_norm = path[-1].key == "scale"
        values = rng.uniform(0.5, 2, leaf.shape) if is_norm else rng.normal(0, std, leaf.shape)
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract)


def random_batch(rows: list[list[int]], seq_len: int, vocab_size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A training batch of random tokens: for each row the lengths of its documents, padding after them."""
    rng = np.random.default_rng(seed)
    batch = {name: np.zeros((len(rows), seq_len), np.int32) for name in ("tokens", "targets", "positions", "segments")}
    for r, lengths in enumerate(rows):
        begins = np.cumsum([0, *lengths])
        for segment, (begin, end) in enumerate(zip(begins[:-1], begins[1:], strict=True), start=1):
            batch["tokens"][r, begin:end] = rng.integers(vocab_size, size=end - begin)
            batch["targets"][r, begin:end] = rng.integers(vocab_size, size=end - begin)
            batch["positions"][r, begin:end] = np.arange(end - begin)
            batch["segments"][r, begin:end] = segment
    batch["weights"] = (batch["segments"] != 0).astype(np.float32)
    return batch


def equations(jaxpr):
    """Every equation of a jaxpr, those of the jaxprs inside it too."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            if hasattr(parameter, "eqns") or hasattr(parameter, "jaxpr"):
                yield from equations(parameter)


def input_dtypes(jaxpr, *primitives: str) -> set[str]:
    """The dtypes that operations of these names are given, anywhere in a jaxpr."""
    found = [e for e in equations(jaxpr) if e.primitive.name in primitives]
    assert found, f"no {' or '.join(primitives)} in the jaxpr"
    return {str(v.aval.dtype) for e in found for v in e.invars if hasattr(v.aval, "dtype")}
