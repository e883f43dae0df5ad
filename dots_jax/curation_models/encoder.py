"""The project's own transformer as an encoder, and a linear head: pure functions of arrays.

Hidden states after the final norm are averaged over the tokens of `Batch.pool`; a line's tokens stand behind its neighbours,
which they see. The vocabulary's own head has no part in it. Shape suffixes as in `model/layers.py`; C: classes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dots_jax.config import ComputeConfig, ModelConfig
from dots_jax.curation_models.examples import Batch, Example, batches
from dots_jax.model.model_def import ModelDef
from dots_jax.model.router import update_bias

COMPUTE = ComputeConfig(dtype="float32", remat="none")
INIT_STD = 0.02
HEAD = "head"  # of the vocabulary: the name of its part of the parameters


def small_model(vocab_size: int, hidden_size: int, num_layers: int, length: int) -> ModelConfig:
    """The architecture in small: heads of 32, 4 experts of which a token uses 2, and a shared one."""
    return ModelConfig(
        vocab_size=vocab_size, num_layers=num_layers, hidden_size=hidden_size, num_heads=max(hidden_size // 32, 1),
        head_dim=32, dense_ffn_size=2 * hidden_size, num_experts=4, experts_per_token=2, expert_ffn_size=hidden_size,
        num_shared_experts=1, routed_scaling_factor=1.0, rope_theta=10_000.0, max_seq_len=length,
    )  # fmt: skip


class Encoder:
    """params: {"model": as of ModelDef without the vocabulary's head, "w_DC", "b_C"}; bias_LE: of the routers."""

    def __init__(self, model: ModelConfig, classes: int):
        self.model, self.classes = model, classes
        self._definition = ModelDef(model, COMPUTE, None, init_std=INIT_STD)

    def init(self, seed: int) -> tuple[dict, jax.Array]:
        """Random parameters, and the bias of the routers."""
        params, bias_LE = self._definition.init(seed)
        return self.with_head(params, seed), bias_LE

    def with_head(self, params: dict, seed: int) -> dict:
        """Parameters of a model, as of a checkpoint, with a new head for the classes."""
        w_DC = INIT_STD * jax.random.normal(jax.random.key(seed + 1), (self.model.hidden_size, self.classes))
        rest = {name: value for name, value in params.items() if name != HEAD}
        return {"model": rest, "w_DC": w_DC, "b_C": jnp.zeros(self.classes)}

    def abstract(self) -> tuple[dict, jax.ShapeDtypeStruct]:
        """Shapes of both, without memory."""
        return jax.eval_shape(lambda: self.init(0))

    def decays(self, params: dict) -> dict:
        """Which parameters have weight decay: matrices, and no norms or biases."""
        declared = self._definition.weight_decays()
        return {"model": {name: declared[name] for name in params["model"]}, "w_DC": True, "b_C": False}

    def logits(self, params: dict, bias_LE: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """float32 [B, C], and the load of every expert, int32 [L, E]."""
        unused = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), self._definition.abstract()[0][HEAD])  # compiled away
        module = self._definition.bind({**params["model"], HEAD: unused}, bias_LE)
        positions_BT = jnp.broadcast_to(jnp.arange(batch.ids.shape[1], dtype=jnp.int32), batch.ids.shape)
        x_BTD, stats = module(batch.ids, positions_BT, batch.segments)
        pool_BT = batch.pool.astype(jnp.float32)
        pooled_BD = jnp.einsum("btd,bt->bd", x_BTD.astype(jnp.float32), pool_BT) / pool_BT.sum(axis=1, keepdims=True)
        return pooled_BD @ params["w_DC"] + params["b_C"], stats.load_E

    def loss(self, params: dict, bias_LE: jax.Array, batch: Batch, target_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean cross-entropy in nats, and the experts' loads."""
        logits_BC, load_LE = self.logits(params, bias_LE, batch)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits_BC), target_B[:, None], axis=1)), load_LE


class Predictor:
    """Probabilities of examples, in batches of one shape: compiled once, and no result depends on the other rows."""

    def __init__(self, encoder: Encoder, length: int, rows: int = 32):
        self._rows, self._length = rows, length
        self._probabilities = jax.jit(lambda *arguments: jax.nn.softmax(encoder.logits(*arguments)[0]))
        self.classes = encoder.classes

    def __call__(self, params: dict, bias_LE: jax.Array, examples: Sequence[Example]) -> np.ndarray:
        """float32 [N, C]."""
        found_NC = np.empty((len(examples), self.classes), np.float32)
        for places, batch in batches(examples, self._rows, self._length):
            found_NC[places] = np.asarray(self._probabilities(params, bias_LE, batch))[: places.stop - places.start]
        return found_NC


def even_out(bias_LE: jax.Array, load_LE: jax.Array) -> jax.Array:
    """The routers' bias after a step, as in pre-training."""
    return update_bias(bias_LE, load_LE, 1e-3)
