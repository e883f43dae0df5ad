"""AdamW as published (report, section 3): beta 0.9 / 0.95, weight decay 0.1, gradients clipped to norm 1."""

import jax
import optax

from dots_jax.config import OptimizerConfig


def decays(path: tuple, _leaf) -> bool:
    """The rule of weight decay: every matrix decays (embedding, projections, experts, router, head), no norm does."""
    return path[-1].key != "scale"


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Gradients -> updates of unit learning rate. The caller multiplies by -learning_rate, which the host knows."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=lambda p: jax.tree_util.tree_map_with_path(decays, p)),
    )
