"""Plain JAX, for every backend; the tests hold every kernel to these."""
