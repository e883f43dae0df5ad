"""The configuration of a run: frozen, typed dataclasses that check themselves.

Standard library only. `cli.gin_config` builds these from gin files; tests and notebooks build them in Python. A value that
cannot work raises `UserError` with one sentence that names the setting and the fix. Every number that the report publishes
is a default here or a line in `gin/`; the comment of a field says where its default comes from.
"""

from dots_jax.config.checks import UserError, home_path
from dots_jax.config.commands import CacheConfig, EvalConfig
from dots_jax.config.compute import EXPERT_STRATEGIES, LAYER_INPUT, REMAT_POLICIES, SAVEABLE, ComputeConfig
from dots_jax.config.curation import (
    CURATION_STEPS,
    CurateConfig,
    DecodingConfig,
    ExtractConfig,
    InputConfig,
    LanguageConfig,
    UrlConfig,
)
from dots_jax.config.curation_duplicates import LineConfig, MinHashConfig
from dots_jax.config.curation_models import ClassesConfig, ClutterConfig, QualityConfig, SemanticConfig, WebTypeConfig
from dots_jax.config.curation_rules import (
    ChineseRules,
    DecontaminationConfig,
    EnglishRules,
    PiiConfig,
    RulesConfig,
    RuleThresholds,
)
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
    SamplesConfig,
    TrainConfig,
)

__all__ = [
    "CURATION_STEPS",
    "EXPERT_STRATEGIES",
    "LAYER_INPUT",
    "REMAT_POLICIES",
    "SAVEABLE",
    "BalanceConfig",
    "CacheConfig",
    "CheckpointConfig",
    "ChineseRules",
    "ClassesConfig",
    "ClutterConfig",
    "ComputeConfig",
    "CurateConfig",
    "DataConfig",
    "DecodingConfig",
    "DecontaminationConfig",
    "EnglishRules",
    "EvalConfig",
    "ExtractConfig",
    "Group",
    "GuardConfig",
    "InputConfig",
    "LanguageConfig",
    "LineConfig",
    "MeshConfig",
    "MinHashConfig",
    "Mixture",
    "ModelConfig",
    "OptimizerConfig",
    "PiiConfig",
    "ProfileConfig",
    "QualityConfig",
    "SamplesConfig",
    "SemanticConfig",
    "RuleThresholds",
    "RulesConfig",
    "Source",
    "Stage",
    "TrainConfig",
    "Untie",
    "UrlConfig",
    "UserError",
    "WebTypeConfig",
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
