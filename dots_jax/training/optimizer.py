"""AdamW as published (report, section 3): beta 0.9 / 0.95, weight decay 0.1, gradients clipped to norm 1."""

import optax

from dots_jax.config import OptimizerConfig


def make_optimizer(config: OptimizerConfig, weight_decays: dict | bool) -> optax.GradientTransformation:
    """Gradients -> updates of unit learning rate. The caller multiplies by -learning_rate, which the host knows.

    weight_decays: whether weight decay applies, for each parameter (`ModelDef.weight_decays`) or for all.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=weight_decays),
    )
