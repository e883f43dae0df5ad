"""The log-likelihood that a model gives to each target: pure, jittable, no I/O. Shape suffixes as in `model/layers.py`."""

import functools

import jax

from dots_jax.config import ComputeConfig
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.batches import BATCH_KEYS
from dots_jax.parallel.compiler_options import compiler_options
from dots_jax.parallel.context import along_context
from dots_jax.parallel.sharding import batch_sharding, replicated


def score_step(
    params: dict, router_bias: jax.Array, batch: dict[str, jax.Array], *, model_def: ModelDef, compute: ComputeConfig
) -> tuple[jax.Array, jax.Array]:
    """What the model gives to each target: weighted negative log-likelihood, float32 [B, T] in nats, and the load of
    the routers, int32 [L, E]."""
    model = model_def.bind(params, router_bias)
    batch = along_context(batch, model_def.mesh)
    x_BTD, stats = model(batch["tokens"], batch["positions"], batch["segments"])
    nll_BT = batch["weights"] * model.head.token_nll(x_BTD, batch["targets"], compute.loss_chunk_tokens)
    return along_context({"nll": nll_BT}, model_def.mesh, back=True)["nll"], stats.load_E


def jit_score_step(model_def: ModelDef, compute: ComputeConfig):
    """`score_step` for the model's mesh: (params, router_bias, batch) -> (nll, load), on every device, so that
    every process can read them."""
    params, bias = model_def.shardings()
    return jax.jit(
        functools.partial(score_step, model_def=model_def, compute=compute),
        in_shardings=(params, bias, dict.fromkeys(BATCH_KEYS, batch_sharding(model_def.mesh))),
        out_shardings=replicated(model_def.mesh),
        compiler_options=compiler_options(model_def.mesh),
    )
