"""Checks of two sections against each other: model and mesh, sequences and model, batches and mesh."""

from dots_jax.config.checks import require
from dots_jax.config.curriculum import Untie
from dots_jax.config.mesh import MeshConfig
from dots_jax.config.model import ModelConfig


def check_seq_len(where: str, seq_len: int, model: ModelConfig) -> None:
    require(
        seq_len <= model.max_seq_len,
        f"{where}: seq_len {seq_len} is longer than ModelConfig.max_seq_len {model.max_seq_len}: shorten it, or raise the maximum.",
    )


def check_ids(where: str, untie: Untie, vocabulary_size: int, model: ModelConfig) -> None:
    last = untie.first_id + untie.num_ids - 1
    require(
        vocabulary_size <= untie.first_id and last < model.vocab_size,
        f"{where}: untie's ids {untie.first_id} to {last} must lie outside the vocabulary, whose ids end at "
        f"{vocabulary_size - 1}, and below ModelConfig.vocab_size, {model.vocab_size}: set Untie.first_id to "
        f"{vocabulary_size} and vocab_size to {vocabulary_size + untie.num_ids} or more.",
    )


def check_experts(model: ModelConfig, mesh: MeshConfig) -> None:
    require(
        model.num_experts % mesh.expert == 0,
        f"ModelConfig.num_experts ({model.num_experts}) must be a multiple of MeshConfig.expert ({mesh.expert}).",
    )


def check_batch(where: str, batch_tokens: int, seq_len: int, mesh: MeshConfig) -> None:
    sequences, ways = batch_tokens // seq_len, mesh.size // mesh.context
    require(
        sequences % ways == 0,
        f"{where}: {batch_tokens} tokens are {sequences} sequences of {seq_len}, which cannot be split over "
        f"{ways} of the devices of the mesh ({mesh}): make the batch a multiple of {ways * seq_len} tokens.",
    )
    require(
        mesh.context == 1 or seq_len % (2 * mesh.context) == 0,
        f"{where}: sequences of {seq_len} tokens cannot be split over MeshConfig.context = {mesh.context}: make the length a "
        f"multiple of {2 * mesh.context}.",
    )
