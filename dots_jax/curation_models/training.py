"""Training of an encoder with its head by optax, on labels: the batch of a step is a function of (seed, step)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax

from dots_jax.curation_models.encoder import Encoder, even_out
from dots_jax.curation_models.examples import Example, pad


class Recipe(NamedTuple):
    """length: tokens of an example. rows: examples of a step."""

    length: int
    steps: int
    rows: int
    learning_rate: float
    seed: int


def rows_of_step(number: int, count: int, recipe: Recipe) -> np.ndarray:
    """The examples of step `number`, int64 [rows]: each epoch is a permutation of its own, and batches run across its end."""
    places = np.arange(number * recipe.rows, (number + 1) * recipe.rows)
    epochs = {epoch: np.random.default_rng((recipe.seed, epoch)).permutation(count) for epoch in set(places // count)}
    return np.array([epochs[place // count][place % count] for place in places])


class Trainer:
    """Compiles once, and trains any number of heads of these shapes: all folds have the same."""

    def __init__(self, encoder: Encoder, recipe: Recipe):
        self._encoder, self._recipe = encoder, recipe
        rate = optax.warmup_cosine_decay_schedule(
            0.0, recipe.learning_rate, max(recipe.steps // 10, 1), max(recipe.steps, 2), recipe.learning_rate / 10
        )
        self._optimizer = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adamw(rate, b1=0.9, b2=0.95, weight_decay=0.1, mask=encoder.decays),
        )
        self._step = jax.jit(self._one_step, donate_argnums=(0, 1, 2))

    def _one_step(self, params, bias_LE, moments, batch, target_B):
        (loss, load_LE), gradients = jax.value_and_grad(self._encoder.loss, has_aux=True)(
            params, bias_LE, batch, target_B
        )
        updates, moments = self._optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), even_out(bias_LE, load_LE), moments, loss

    def train(
        self, start: tuple[dict, jax.Array], examples: Sequence[Example], targets_N: np.ndarray, tick=lambda: None
    ) -> tuple[dict, jax.Array, float]:
        """Parameters, the routers' bias, and the mean loss of the last tenth of the steps. start: is not changed."""
        recipe = self._recipe
        params, bias_LE = jax.tree.map(lambda leaf: leaf.copy(), start)
        moments, losses = self._optimizer.init(params), []
        for number in range(recipe.steps):
            chosen = rows_of_step(number, len(examples), recipe)
            batch = pad([examples[place] for place in chosen], recipe.rows, recipe.length)
            params, bias_LE, moments, loss = self._step(params, bias_LE, moments, batch, targets_N[chosen])
            losses.append(loss)
            tick()
        return params, bias_LE, float(np.mean(jax.device_get(losses[-max(recipe.steps // 10, 1) :])))
