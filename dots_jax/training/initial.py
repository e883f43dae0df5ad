"""Where a new run begins: with random parameters, or with those of a checkpoint (fine-tuning)."""

import dataclasses

import jax
import optax

from dots_jax.checkpoint.open import Opened, open_checkpoint
from dots_jax.checkpoint.store import check_same_model
from dots_jax.config import TrainConfig, UserError
from dots_jax.model.model_def import ModelDef
from dots_jax.storage import folder
from dots_jax.training.state import TrainState, init_state


def first_state(
    config: TrainConfig, model_def: ModelDef, optimizer: optax.GradientTransformation, abstract: TrainState
) -> TrainState:
    """The state before the first step, in the shardings of `abstract`."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    if not config.initial_checkpoint:
        return jax.jit(lambda: init_state(model_def, optimizer, config.seed), out_shardings=shardings)()
    opened = _open(config.initial_checkpoint)
    params, router_bias = opened.restore(
        (abstract.params, abstract.router_bias), (shardings.params, shardings.router_bias)
    )
    if jax.process_index() == 0:
        print(f"starts      with the weights of {opened.path}", flush=True)
    # Everything but the parameters, which are not even drawn: the rest does not depend on them.
    rest = jax.jit(
        lambda: dataclasses.replace(init_state(model_def, optimizer, config.seed), params=None, router_bias=None),
        out_shardings=dataclasses.replace(shardings, params=None, router_bias=None),
    )()
    return dataclasses.replace(rest, params=params, router_bias=router_bias)


def check_initial(config: TrainConfig, workdir: str | None) -> None:
    """Refuses an initial checkpoint that is not there or is of another model. A run that has begun no longer needs it."""
    if not config.initial_checkpoint or (workdir and _has_checkpoints(workdir)):
        return
    check_same_model(
        _open(config.initial_checkpoint).model, config.model,
        f"TrainConfig.initial_checkpoint {config.initial_checkpoint}",
        fix="Set ModelConfig to that model, or start from another checkpoint.",
    )  # fmt: skip


def _has_checkpoints(workdir: str) -> bool:
    path = folder(workdir) / "checkpoints"
    return path.is_dir() and any(path.iterdir())


def _open(path: str) -> Opened:
    try:
        return open_checkpoint(path)
    except UserError as error:
        raise UserError(f"TrainConfig.initial_checkpoint: {error}") from error
