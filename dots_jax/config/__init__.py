"""The configuration of a run: frozen, typed dataclasses that check themselves.

Standard library only. `cli.gin_config` builds these from gin files; tests and notebooks build them in Python. A value that
cannot work raises `UserError` with one sentence that names the setting and the fix. Every number that the report publishes
is a default here or a line in `gin/`; the comment of a field says where its default comes from.
"""

from dots_jax.config.checks import UserError, home_path
from dots_jax.config.commands import CacheConfig, EvalConfig
from dots_jax.config.compute import EXPERT_STRATEGIES, LAYER_INPUT, REMAT_POLICIES, SAVEABLE, ComputeConfig
from dots_jax.config.curriculum import Stage, Untie
from dots_jax.config.data import DataConfig, Group, Mixture, Source
from dots_jax.config.fit import check_batch, check_experts, check_ids, check_seq_len
from dots_jax.config.mesh import MeshConfig
from dots_jax.config.model import ModelConfig, dots_llm1, model_from_dict, tiny, to_dict
from dots_jax.config.training import (
    BalanceConfig,
    CheckpointConfig,
    GuardConfig,
    OptimizerConfig,
    ProfileConfig,
    TrainConfig,
)

__all__ = [
    "EXPERT_STRATEGIES",
    "LAYER_INPUT",
    "REMAT_POLICIES",
    "SAVEABLE",
    "BalanceConfig",
    "CacheConfig",
    "CheckpointConfig",
    "ComputeConfig",
    "DataConfig",
    "EvalConfig",
    "Group",
    "GuardConfig",
    "MeshConfig",
    "Mixture",
    "ModelConfig",
    "OptimizerConfig",
    "ProfileConfig",
    "Source",
    "Stage",
    "TrainConfig",
    "Untie",
    "UserError",
    "check_batch",
    "check_experts",
    "check_ids",
    "check_seq_len",
    "dots_llm1",
    "home_path",
    "model_from_dict",
    "tiny",
    "to_dict",
]
