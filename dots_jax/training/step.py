"""One training step: pure, jittable, no I/O. Shape suffixes as in `model/layers.py`."""

import functools

import jax
import jax.numpy as jnp
import optax

from dots_jax.config import BalanceConfig, ComputeConfig, GuardConfig
from dots_jax.model.model_def import ModelDef
from dots_jax.model.router import update_bias
from dots_jax.parallel.batches import BATCH_KEYS
from dots_jax.parallel.compiler_options import compiler_options
from dots_jax.parallel.context import along_context
from dots_jax.parallel.sharding import batch_sharding, replicated
from dots_jax.training.state import StepHealth, TrainState, state_shardings

LOSS_AVERAGE_DECAY = 0.98


def _batch_loss(params, router_bias, batch, scale, *, model_def: ModelDef, compute: ComputeConfig, alpha: float):
    """The share of one (micro)batch in the step's loss; `scale` = (1 / real tokens, 1 / sequences) of all microbatches together."""
    model = model_def.bind(params, router_bias)
    batch = along_context(batch, model_def.mesh)
    x_BTD, stats = model(batch["tokens"], batch["positions"], batch["segments"])
    per_token, per_sequence = scale
    nll = per_token * model.head.loss_sum(x_BTD, batch["targets"], batch["weights"], compute.loss_chunk_tokens)
    balance = per_sequence * jnp.sum(stats.balance)
    return nll + alpha * balance, (nll, balance, stats.load_E, (jnp.max(stats.overflow_rounds), jnp.sum(stats.dropped)))


def _gradients(params, router_bias, batch, microbatches: int, loss_fn):
    """(nll, balance, load_LE, (extra blocks, dropped)) and gradients of the step's loss, accumulated over microbatches in
    float32; a microbatch's own are in the dtypes of `params`.

    Microbatch m takes the rows m, m + M, m + 2M ...: each device splits its own rows, and nothing moves.
    The scale comes from the complete batch, so that a microbatch counts by its real tokens.
    """
    scale = 1 / jnp.maximum(jnp.sum(batch["weights"]), 1), 1 / batch["tokens"].shape[0]
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    if microbatches == 1:
        (_, aux), grads = gradient(params, router_bias, batch, scale)
        return aux, jax.tree.map(lambda g: g.astype(jnp.float32), grads)

    pieces = jax.tree.map(lambda a: a.reshape(-1, microbatches, *a.shape[1:]).swapaxes(0, 1), batch)

    def add_one(total, piece):
        (_, aux), grads = gradient(params, router_bias, piece, scale)
        return jax.tree.map(jnp.add, total, (aux, grads)), None

    # Written out: jax.eval_shape would trace the model and its gradient once more, half of the time before the compilation.
    count = jnp.zeros((), jnp.int32)
    aux = jnp.float32(0), jnp.float32(0), jnp.zeros(router_bias.shape, jnp.int32), (count, count)
    zeros = aux, jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32)), params)
    return jax.lax.scan(add_one, zeros, pieces)[0]


def compute_copy(params: dict, compute_dtypes: dict) -> dict:
    """The parameters in the dtypes that the layers compute with (`ModelDef.compute_dtypes`), cast once a step.

    Their gradients have the same dtypes, in which the shards are exchanged in any case: half the memory of float32.
    """
    return jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), params, compute_dtypes)


def train_step(
    state: TrainState, batch: dict[str, jax.Array], learning_rate: jax.Array, *,
    model_def: ModelDef, optimizer: optax.GradientTransformation,
    compute: ComputeConfig, balance: BalanceConfig, guard: GuardConfig, microbatches: int,
) -> tuple[TrainState, dict[str, jax.Array]]:  # fmt: skip
    """One step on the global batch: loss, gradients, clipped AdamW, then the router biases.

    A non-finite loss or gradient leaves parameters, optimizer and biases as they are; only `step` and the guard move.

    Args:
      batch: tokens, targets, positions, segments int32 [B, T]; weights float32 [B, T].
      learning_rate: float32 scalar.
    Returns:
      The next state, and the step's metrics: float32 scalars, counters, load_LE int32.
    """
    loss_fn = functools.partial(_batch_loss, model_def=model_def, compute=compute, alpha=balance.sequence_aux_loss_coef)
    (nll, balance_loss, load_LE, (overflow_rounds, dropped)), grads = _gradients(
        compute_copy(state.params, model_def.compute_dtypes()), state.router_bias, batch, microbatches, loss_fn
    )
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(nll) & jnp.isfinite(balance_loss) & jnp.isfinite(grad_norm)

    def update(_, before):
        params, router_bias, moments = before
        moments = _move(moments, jax.memory.Space.Device, model_def)
        with jax.named_scope("optimizer"):
            updates, moments = optimizer.update(grads, moments, params)
            params = jax.tree.map(lambda p, u: p - learning_rate * u, params, updates)
        router_bias = update_bias(router_bias, load_LE, balance.expert_bias_update_rate)
        return params, router_bias, _move(moments, jax.memory.Space.Host, model_def)

    # A loop of one turn or none, not a selection: the state changes where it lies, and moments that are on the host come
    # when the gradients are there, not before.
    before = (state.params, state.router_bias, state.opt_state)
    params, router_bias, opt_state = jax.lax.fori_loop(0, finite.astype(jnp.int32), update, before)

    next_guard, spike = update_health(state.guard, nll, finite, guard.spike_nats)
    load = load_LE.astype(jnp.float32)
    metrics = {
        "loss": nll,
        "balance_loss": balance_loss / load_LE.shape[0],
        "grad_norm": grad_norm,
        "param_norm": optax.tree.norm(params),
        "bias_norm": jnp.sqrt(jnp.sum(jnp.square(router_bias))),
        "expert_load_imbalance": jnp.max(load, axis=1) / jnp.maximum(jnp.mean(load, axis=1), 1),
        "load": load_LE,
        "expert_overflow_rounds": overflow_rounds,
        "dropped_tokens": dropped,
        "spike": spike,
        "nonfinite_streak": next_guard.nonfinite_streak,
        "nonfinite_total": next_guard.nonfinite_total,
        "spike_total": next_guard.spike_total,
    }
    return TrainState(state.step + 1, params, router_bias, opt_state, next_guard), metrics


def _move(opt_state, space: jax.memory.Space, model_def: ModelDef):
    """The moments in the devices' or in the host's memory, where `offload_optimizer` asks for it; the step count stays."""
    if not model_def.offload_optimizer:
        return opt_state
    return jax.tree.map(lambda a: jax.device_put(a, space) if a.ndim else a, opt_state)


def update_health(
    guard: StepHealth, loss: jax.Array, finite: jax.Array, spike_nats: float
) -> tuple[StepHealth, jax.Array]:
    """Counts non-finite steps and spikes; the average follows finite losses only."""
    spike = finite & (loss > guard.loss_average + spike_nats)
    average = guard.loss_average + (1 - LOSS_AVERAGE_DECAY) * (loss - guard.loss_average)
    average = jnp.where(jnp.isinf(guard.loss_average), loss, average)
    return StepHealth(
        nonfinite_streak=jnp.where(finite, 0, guard.nonfinite_streak + 1),
        nonfinite_total=guard.nonfinite_total + ~finite,
        spike_total=guard.spike_total + spike,
        loss_average=jnp.where(finite, average, guard.loss_average),
    ), spike


def jit_train_step(model_def: ModelDef, optimizer: optax.GradientTransformation, **static):
    """`train_step` for the model's mesh: (state, batch, learning_rate) -> (state, metrics), where the memory of the
    given state is reused for the new one. `static`: compute, balance, guard, microbatches. The planner compiles this."""
    state, everywhere = state_shardings(model_def, optimizer), replicated(model_def.mesh)
    return jax.jit(
        functools.partial(train_step, model_def=model_def, optimizer=optimizer, **static),
        in_shardings=(state, dict.fromkeys(BATCH_KEYS, batch_sharding(model_def.mesh)), everywhere),
        out_shardings=(state, everywhere),
        donate_argnums=0,
        compiler_options=compiler_options(model_def.mesh),
    )
