"""dots.llm1 in JAX: train, evaluate and use a mixture-of-experts language model."""

from dots_jax import moved

moved.install()


def open_checkpoint(path: str, step: int | None = None):
    """A training workdir, what `convert from_hf` wrote, or one checkpoint, local or `gs://`, without loading its arrays.

    step: of a workdir's checkpoints; default: the newest. The object shows what is there; `.load(...)` reads part of the
    arrays, `.restore()` all of a small model. See `dots_jax.analysis.opened.OpenCheckpoint`.
    """
    from dots_jax.analysis.opened import open_checkpoint

    return open_checkpoint(path, step)
