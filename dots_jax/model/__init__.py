"""What the network computes."""

from dots_jax.model.transformer import Transformer

__all__ = ["Transformer"]
