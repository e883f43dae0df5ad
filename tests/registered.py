"""Tasks and mixtures that a test registers go with it."""

import contextlib
from collections.abc import Iterator

import seqio

from dots_jax.config import DataConfig
from dots_jax.data import mixtures
from dots_jax.data.registry import import_tasks


@contextlib.contextmanager
def gone_afterwards() -> Iterator[None]:
    """Leaves seqio's registries as they were.

    The built-in tasks are registered before: a block that imports them first would take them along at its end, and no later
    import registers them again.
    """
    import_tasks(DataConfig().tasks_modules)
    before = [(registry, set(registry.names())) for registry in (seqio.TaskRegistry, seqio.MixtureRegistry)]
    ours = dict(mixtures._OURS)
    try:
        yield
    finally:
        for registry, names in before:
            for name in set(registry.names()) - names:
                registry.remove(name)
        mixtures._OURS.clear()
        mixtures._OURS.update(ours)
