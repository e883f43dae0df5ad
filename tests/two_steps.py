"""A run of two checkpoints with random weights, of the tiny byte model."""

from synthetic_checkpoint import small_state

from dots_jax.checkpoint.metadata import CheckpointMetadata
from dots_jax.checkpoint.store import Checkpoints
from dots_jax.config import ComputeConfig, ModelConfig, tiny
from dots_jax.model.model_def import ModelDef
from dots_jax.training.state import to_items


def save_two_steps(workdir: str, config: ModelConfig | None = None) -> str:
    """Steps 1 and 2, which have other weights. Returns `workdir`."""
    config = config or tiny()
    checkpoints = Checkpoints(workdir, is_milestone=lambda step: False)
    stack_axes = ModelDef(config, ComputeConfig(), None, 1.0).stack_axes()
    for step in (1, 2):
        metadata = CheckpointMetadata(
            step=step, model=config, config={"data": {"tokenizer": ""}, "compute": {"dtype": "float32"}}
        )
        checkpoints.save(step, to_items(small_state(config, step)), metadata, stack_axes)
    checkpoints.wait()
    checkpoints.close()
    return workdir
