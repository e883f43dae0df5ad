"""Where copies of tokens stand: sorted by expert, and taken from there in rounds. Index arrays alone, and the two functions
that move rows by them.

Shape suffixes as in `model/layers.py`; here N counts tokens, S places of sorted copies, R the rows of one round. A token that
chose K experts has K copies; copy = token * K + choice.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name


class ExpertPermutation(NamedTuple):
    """Copies of tokens in the order of their experts. Two tokens that chose the experts (1, 0) and (1, 2) of three:

    copies        0 1 | 2 3            (token 0 | token 1)
    their experts 1 0 | 1 2
    copy_S        [1, 0, 2, 3]         the copy at each place: one for expert 0, two for expert 1, one for expert 2
    place_NK      [[1, 0], [2, 3]]     the place of each copy; past the end for copies whose expert is on another device
    ends_E        [1, 3, 4]            the place behind the last copy of each expert; places past the last hold copy 0
    """

    copy_S: jax.Array
    place_NK: jax.Array
    ends_E: jax.Array


def sort_by_expert(ids_NK: jax.Array, first_expert: jax.Array, num_experts: int) -> ExpertPermutation:
    """The copies of tokens by expert, and by token within an expert, for `num_experts` experts from `first_expert`.

    A counting sort: a copy's place is where its expert begins plus the number of earlier tokens that chose the same expert.
    """
    N, K = ids_NK.shape
    # A token sends at most one copy to each expert, so this many places hold everything that can arrive.
    S = N * min(K, num_experts)
    local_NK = ids_NK - first_expert
    chosen_NE = jnp.sum(local_NK[:, :, None] == jnp.arange(num_experts), axis=1, dtype=jnp.int32)
    up_to_NE = jnp.cumsum(chosen_NE, axis=0)
    ends_E = jnp.cumsum(up_to_NE[-1])
    start_NE = ends_E - up_to_NE[-1] + up_to_NE - chosen_NE
    here_NK = (local_NK >= 0) & (local_NK < num_experts)
    place_NK = jnp.where(here_NK, jnp.take_along_axis(start_NE, local_NK, axis=1, mode="clip"), S)
    copy_NK = jnp.arange(N * K, dtype=jnp.int32).reshape(N, K)
    copy_S = jnp.zeros((S,), jnp.int32).at[place_NK].set(copy_NK, mode="drop")
    return checkpoint_name(ExpertPermutation(copy_S, place_NK, ends_E), "routing")


def round_rows(permutation: ExpertPermutation, start: jax.Array, rows: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The places start .. start + rows as the rows of a round: copy_R, row_NK (`rows` for copies of other rounds), sizes_E."""
    copy_S = jnp.pad(permutation.copy_S, (0, -permutation.copy_S.shape[0] % rows))
    copy_R = jax.lax.dynamic_slice_in_dim(copy_S, start, rows)
    row_NK = permutation.place_NK - start
    inside = (row_NK >= 0) & (row_NK < rows) & (permutation.place_NK < permutation.copy_S.shape[0])
    ends_E = jnp.clip(permutation.ends_E - start, 0, rows)
    return copy_R, jnp.where(inside, row_NK, rows), jnp.diff(ends_E, prepend=0)


# Each of these two is the other's transpose, and both gather rather than scatter, in either direction.


@jax.custom_vjp
def dispatch(x_ND: jax.Array, source_R: jax.Array, row_NK: jax.Array) -> jax.Array:
    """x_RD: row r is the token source_R[r]. row_NK: the row of each copy; past the end for copies without a row."""
    return x_ND.at[source_R].get(mode="promise_in_bounds")


@jax.custom_vjp
def combine(y_RD: jax.Array, source_R: jax.Array, row_NK: jax.Array) -> jax.Array:
    """y_ND: the sum of a token's rows, in the order of its choices, so that the sum does not depend on the sharding."""
    # One gather for each choice: they fuse into one pass, where a gather of [N, K, D] would be written out and read again.
    return sum(y_RD.at[row_N].get(mode="fill", fill_value=0) for row_N in row_NK.T)


dispatch.defvjp(
    lambda x, source, row: (dispatch(x, source, row), (source, row)),
    lambda residuals, dx_RD: (combine(dx_RD, *residuals), None, None),
)
combine.defvjp(
    lambda y, source, row: (combine(y, source, row), (source, row)),
    lambda residuals, dy_ND: (dispatch(dy_ND, *residuals), None, None),
)
