"""A model that was restored from a checkpoint, on one device of this machine."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dots_jax.checkpoint.open import Opened
from dots_jax.config import ComputeConfig, MeshConfig, ModelConfig
from dots_jax.inference.completion import complete, in_order
from dots_jax.inference.generation import Generator, Request
from dots_jax.inference.sampling import Sampling
from dots_jax.inference.weights import check_tokens, define, serving_mesh, shard_weights
from dots_jax.model.model_def import ModelDef
from dots_jax.model.transformer import Transformer
from dots_jax.parallel.mesh import make_mesh

BATCH_SIZE = 16  # rows that are generated at the same time


@dataclasses.dataclass(frozen=True)
class RestoredModel:
    """params: nested dicts of arrays. router_bias: [L, E] float32. step: of the checkpoint."""

    config: ModelConfig
    compute: ComputeConfig
    definition: ModelDef
    params: dict
    router_bias: jax.Array
    step: int

    def bind(self) -> Transformer:
        """The module with these arrays."""
        return self.definition.bind(self.params, self.router_bias)

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_ids: Sequence[int] = (), **sampling
    ) -> list[list[int]]:
        """The tokens that follow each prompt. sampling: `temperature`, `top_k`, `top_p`, `seed`; by default greedy."""
        for number, prompt in enumerate(prompts):
            check_tokens(f"prompt {number}", list(prompt), self.config, 0)
        if not prompts:
            return []
        mesh, dtype = serving_mesh(self.config, 1), self.compute.dtype
        params = jax.tree.map(lambda array: array, self.params)  # dicts of its own, since they are emptied
        weights = shard_weights(define(self.config, dtype), params, self.router_bias, mesh)
        generator = Generator(self.config, dtype, mesh, weights, Sampling(**sampling))
        requests = [Request(prompt, row, max_new_tokens) for row, prompt in enumerate(prompts)]
        found = complete(generator, requests, stop_ids, None, batch_size=min(len(prompts), BATCH_SIZE))
        return [completion.tokens for _, completion in in_order(found)]


@functools.lru_cache(maxsize=8)
def _definition(config: ModelConfig, dtype: str) -> tuple[ModelDef, ComputeConfig]:
    """One for all checkpoints of a run, so that what was compiled for one serves the others."""
    compute = ComputeConfig(dtype=dtype, remat="none")
    return ModelDef(config, compute, make_mesh(MeshConfig(fsdp=1))), compute


def restore_model(opened: Opened, dtype: str) -> RestoredModel:
    """The model of a checkpoint on one device, computing in `dtype`.

    Raises:
      UserError: an array is missing, damaged, or of another shape than the config gives it.
    """
    definition, compute = _definition(opened.model, dtype)
    params, router_bias = opened.restore(definition.abstract(), definition.shardings(), stored_dtypes=True)
    params = jax.tree.map(lambda array: array.astype(jnp.dtype(dtype)), params)
    return RestoredModel(opened.model, compute, definition, params, router_bias.astype(jnp.float32), opened.step)
