"""A small stage, to be changed setting by setting."""

from dots_jax.config import Stage


def stage(**changes):
    fields = dict(
        name="stable", tokens=1000, mixture="text", seq_len=10, batch_tokens=((0, 20),), learning_rate_start=1e-3,
        learning_rate_end=1e-3,
    )  # fmt: skip
    return Stage(**fields | changes)
