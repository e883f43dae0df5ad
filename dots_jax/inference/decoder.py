"""The model one piece at a time: new tokens against a cache of the keys and values of those before them.

Shape suffixes as in `model/layers.py`; S counts the slots of the cache. A batch holds rows of unequal length: the token at
position p of a row is in slot p of its row, so a row that ended gives its slots to another one. Slots behind a row's last
token hold what was there before, and are never seen.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from dots_jax.config import ModelConfig
from dots_jax.inference.experts import routed_experts
from dots_jax.inference.weights import Weights, cache_sharding, define
from dots_jax.model import router
from dots_jax.model.rope import rope_table
from dots_jax.model.transformer import Transformer


class Cache(NamedTuple):
    """Keys and values of every layer, each [B, N, S, H]: one array a layer, which a step updates where it lies."""

    k: tuple[jax.Array, ...]
    v: tuple[jax.Array, ...]

    @property
    def slots(self) -> int:
        return self.k[0].shape[2]


class Decoder:
    """The pure functions of one model on one mesh; jit them."""

    def __init__(self, config: ModelConfig, dtype: str, mesh: Mesh):
        self.config, self.mesh, self.dtype = config, mesh, jnp.dtype(dtype)
        self.definition = define(config, dtype)

    # --- the cache ----------------------------------------------------------------------------------------------------

    @functools.partial(jax.jit, static_argnums=(0, 1, 2))
    def empty_cache(self, batch: int, slots: int) -> Cache:
        """A cache of zeros, made where it belongs."""
        c = self.config
        shape = (batch, c.num_heads, slots, c.head_dim)
        make = lambda: tuple(self._constrain(jnp.zeros(shape, self.dtype)) for _ in range(c.num_layers))
        return Cache(make(), make())

    @functools.partial(jax.jit, static_argnums=(0, 2))
    def resize(self, cache: Cache, slots: int) -> Cache:
        """The same cache with more slots behind, or with fewer."""
        more = ((0, 0), (0, 0), (0, max(0, slots - cache.slots)), (0, 0))
        return jax.tree.map(lambda a: self._constrain(jnp.pad(a[:, :, :slots], more)), cache)

    @functools.partial(jax.jit, static_argnums=(0, 2, 3))
    def repeat(self, cache: Cache, batch: int, slots: int) -> Cache:
        """The cache of a batch of which every row begins as row 0 of `cache`, with room for `slots`."""
        more = ((0, 0), (0, 0), (0, slots - cache.slots), (0, 0))
        spread = lambda a: jnp.broadcast_to(jnp.pad(a[:1], more), (batch, a.shape[1], slots, a.shape[3]))
        return jax.tree.map(lambda a: self._constrain(spread(a)), cache)

    def place(self, cache: Cache, source: Cache, source_B: jax.Array) -> Cache:
        """The cache with row source_B[b] of `source`, which has no more slots, as the beginning of row b; -1 keeps a row."""
        taken_B111 = (source_B >= 0)[:, None, None, None]

        def one(to_BNSH, from_GNSH):
            here_BNSH = to_BNSH[:, :, : source.slots]
            moved_BNSH = jnp.where(taken_B111, from_GNSH[jnp.maximum(source_B, 0)], here_BNSH)
            return self._constrain(lax.dynamic_update_slice_in_dim(to_BNSH, moved_BNSH, 0, axis=2))

        return jax.tree.map(one, cache, source)

    # --- the model ----------------------------------------------------------------------------------------------------

    def prefill(self, weights: Weights, cache: Cache, tokens_BT, start, lengths_B) -> tuple[jax.Array, Cache]:
        """A chunk of the prompts, slots start .. start + T - 1: hidden states [B, T, D] before the head."""
        slot_T = start + jnp.arange(tokens_BT.shape[1])
        visible_TS = jnp.arange(cache.slots) <= slot_T[:, None]
        token_mask_BT = slot_T < lengths_B[:, None]
        # A token past the end of its row sees the row's own prompt, so that nothing is divided by zero.
        visible_BTS = visible_TS & (jnp.arange(cache.slots) < lengths_B[:, None])[:, None]
        positions_BT = jnp.broadcast_to(slot_T, tokens_BT.shape)
        write = lambda to_BNSH, new_BNTH: lax.dynamic_update_slice_in_dim(to_BNSH, new_BNTH, start, axis=2)
        return self._forward(weights, cache, tokens_BT, positions_BT, write, visible_BTS, token_mask_BT)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
    def fill(self, weights: Weights, cache: Cache, tokens_BT, start, lengths_B) -> Cache:
        """`prefill` of tokens that nothing is asked about."""
        return self.prefill(weights, cache, tokens_BT, start, lengths_B)[1]

    def step(self, weights: Weights, cache: Cache, tokens_B, positions_B, live_B) -> tuple[jax.Array, Cache]:
        """Feeds one token of each row, at its position: float32 logits [B, V] of the next."""

        def write(to_BNSH, new_BNTH):
            row = lambda to_NSH, new_NTH, slot: lax.dynamic_update_slice_in_dim(to_NSH, new_NTH, slot, axis=1)
            return jax.vmap(row)(to_BNSH, new_BNTH, positions_B)

        visible_BTS = (jnp.arange(cache.slots) <= positions_B[:, None])[:, None]
        x_B1D, cache = self._forward(
            weights, cache, tokens_B[:, None], positions_B[:, None], write, visible_BTS, live_B[:, None]
        )
        return self.logits(weights, x_B1D)[:, 0], cache

    def logits(self, weights: Weights, x_BTD: jax.Array) -> jax.Array:
        return self._bind(weights, 0).head(x_BTD)

    def token_nll(self, weights: Weights, x_BTD: jax.Array, targets_BT: jax.Array, chunk_tokens: int) -> jax.Array:
        return self._bind(weights, 0).head.token_nll(x_BTD, targets_BT, chunk_tokens)

    def is_likeliest(self, weights: Weights, x_BTD: jax.Array, targets_BT: jax.Array, chunk_tokens: int) -> jax.Array:
        """Whether each target is the token that greedy decoding takes, bool [B, T]. Logits exist for a chunk at a time."""
        rows = targets_BT.size
        chunk = min(chunk_tokens, rows)
        x_RD = jnp.pad(x_BTD.reshape(rows, -1), ((0, -rows % chunk), (0, 0)))
        targets_R = jnp.pad(targets_BT.reshape(rows), (0, -rows % chunk))
        one = lambda pair: jnp.argmax(self.logits(weights, pair[0][None])[0], axis=-1) == pair[1]
        found = lax.map(one, (x_RD.reshape(-1, chunk, x_RD.shape[1]), targets_R.reshape(-1, chunk)))
        return found.reshape(-1)[:rows].reshape(targets_BT.shape)

    def _bind(self, weights: Weights, layer: int) -> Transformer:
        """The module with the arrays of one layer in place of the stack, but all the layers' experts."""
        block = {**weights.layers[layer], "moe": {**weights.layers[layer]["moe"], "experts": weights.experts}}
        return self.definition.bind({**weights.outer, "moe_blocks": block}, weights.biases[layer])

    def _forward(self, weights, cache, tokens_BT, positions_BT, write: Callable, visible_BTS, token_mask_BT):
        c = self.config
        models = [self._bind(weights, layer) for layer in range(c.num_moe_layers)]
        rope = rope_table(positions_BT, c.head_dim, c.rope_theta)
        x_BTD, keys, values = models[0].embed(tokens_BT), [], []
        for layer, block in enumerate([models[0].dense_block, *(model.moe_blocks for model in models)]):
            q_BTNH, k_BTNH, v_BTNH = block.attention.qkv(block.attention_norm(x_BTD), rope)
            keys.append(self._write(cache.k[layer], k_BTNH, write))
            values.append(self._write(cache.v[layer], v_BTNH, write))
            x_BTD += block.attention.out_proj(_attend(q_BTNH, keys[-1], values[-1], visible_BTS))
            h_BTD = block.ffn_norm(x_BTD)
            x_BTD += block.ffn(h_BTD) if layer == 0 else self._moe(block.moe, h_BTD, layer - 1, token_mask_BT)
        return models[0].final_norm(x_BTD), Cache(tuple(keys), tuple(values))

    def _moe(self, moe, x_BTD, layer: int, token_mask_BT) -> jax.Array:
        c = self.config
        ids_BTK, gates_BTK, _ = router.route(
            x_BTD, moe.router.w_DE[...], moe.router.bias_E[...],
            experts_per_token=c.experts_per_token, scaling_factor=c.routed_scaling_factor,
        )  # fmt: skip
        ids_BTK = jnp.where(
            token_mask_BT[:, :, None], ids_BTK, c.num_experts
        )  # padding and rows that ended cost nothing
        stacks = moe.experts.w_gate_up_EDF[...], moe.experts.w_down_EFD[...]
        stacks = (w.astype(self.dtype) for w in stacks)
        return routed_experts(x_BTD, ids_BTK, gates_BTK, *stacks, layer, self.mesh) + moe.shared(x_BTD)

    def _write(self, cache_BNSH, new_BTNH, write: Callable) -> jax.Array:
        return self._constrain(write(cache_BNSH, new_BTNH.swapaxes(1, 2).astype(cache_BNSH.dtype)))

    def _constrain(self, cache_BNSH) -> jax.Array:
        return lax.with_sharding_constraint(cache_BNSH, cache_sharding(self.mesh, self.config))


def _attend(q_BTNH, k_BNSH, v_BNSH, visible_BTS) -> jax.Array:
    """Softmax attention over the slots that each query may see, in float32: [B, T, N, H]."""
    scores_BNTS = jnp.einsum("BTNH,BNSH->BNTS", q_BTNH, k_BNSH, preferred_element_type=jnp.float32)
    scores_BNTS = jnp.where(visible_BTS[:, None], scores_BNTS * q_BTNH.shape[3] ** -0.5, -1e30)
    weights_BNTS = jnp.exp(scores_BNTS - jnp.max(scores_BNTS, axis=-1, keepdims=True))
    total_BNT1 = jnp.sum(weights_BNTS, axis=-1, keepdims=True)
    y_BNTH = jnp.einsum(
        "BNTS,BNSH->BNTH", weights_BNTS.astype(v_BNSH.dtype), v_BNSH, preferred_element_type=jnp.float32
    )
    return (y_BNTH / total_BNT1).swapaxes(1, 2).astype(q_BTNH.dtype)
