"""Where a new run begins: with random parameters, or with those of a checkpoint (fine-tuning)."""

import dataclasses

import jax
import optax

from dots_jax.checkpoint.store import Checkpoints, check_same_model
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
    checkpoints, step = _newest(config.initial_checkpoint)
    model = checkpoints.restore_model(step, {"params": abstract.params, "router_bias": abstract.router_bias})
    checkpoints.close()
    if jax.process_index() == 0:
        print(f"starts      with the weights of {checkpoints.folder / str(step)}", flush=True)
    # All but the parameters, which are not even drawn: nothing of what is left depends on them.
    rest = jax.jit(
        lambda: dataclasses.replace(init_state(model_def, optimizer, config.seed), params=None, router_bias=None),
        out_shardings=dataclasses.replace(shardings, params=None, router_bias=None),
    )()
    return dataclasses.replace(rest, params=model["params"], router_bias=model["router_bias"])


def check_initial(config: TrainConfig, workdir: str | None) -> None:
    """Refuses an initial checkpoint that is not there or is of another model. A run that has begun no longer needs it."""
    if not config.initial_checkpoint or (workdir and _has_checkpoints(workdir)):
        return
    checkpoints, step = _newest(config.initial_checkpoint)
    try:
        record = checkpoints.record(step)
    except Exception as error:
        raise UserError(f"The checkpoint {checkpoints.folder / str(step)} cannot be read: it is damaged.") from error
    finally:
        checkpoints.close()
    check_same_model(
        record["model"], config.model, f"TrainConfig.initial_checkpoint {config.initial_checkpoint}",
        mend="Set ModelConfig to that model, or start from another checkpoint.",
    )  # fmt: skip


def _has_checkpoints(workdir: str) -> bool:
    path = folder(workdir) / "checkpoints"
    return path.is_dir() and any(path.iterdir())


def _newest(path: str) -> tuple[Checkpoints, int]:
    if not (folder(path) / "checkpoints").is_dir():
        raise UserError(
            f"TrainConfig.initial_checkpoint: there are no checkpoints in {path}: name a folder that convert from_hf wrote, "
            "or the workdir of a run."
        )
    checkpoints = Checkpoints(path)
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"TrainConfig.initial_checkpoint: there is no finished checkpoint in {checkpoints.folder}.")
    return checkpoints, steps[-1]
