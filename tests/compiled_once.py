"""Runs of one test file trace and compile a step once, though each run makes its functions anew: a third of the time of a
small run goes into tracing, which no cache on the disk saves."""

from dots_jax.evaluation import perplexity
from dots_jax.evaluation.score_step import jit_score_step
from dots_jax.training import loop
from dots_jax.training.step import jit_train_step


def share_steps(monkeypatch, made: dict) -> None:
    """Steps of equal settings are one function. made: where they are kept.

    A test that puts something else in the place of `jit_train_step` gets that.
    """
    new_step = loop._compiled_step

    def train_step(run, microbatches: int):
        c = run.config
        key = ("train", c.model, c.compute, c.mesh, c.optimizer, c.balance, c.guard, microbatches)
        if loop.jit_train_step is not jit_train_step:
            return new_step(run, microbatches)
        if key not in made:
            made[key] = new_step(run, microbatches)
        return made[key]

    def score_step(model_def, compute):
        key = ("score", model_def.config, model_def.mesh, compute)
        if key not in made:
            made[key] = jit_score_step(model_def, compute)
        return made[key]

    monkeypatch.setattr(loop, "_compiled_step", train_step)
    monkeypatch.setattr(perplexity, "jit_score_step", score_step)
