"""The config contract: what each setting refuses, and in which words."""

import dataclasses
import json

import pytest

from dots_jax import config
from dots_jax.config import (
    BalanceConfig,
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    EvalConfig,
    GuardConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    Source,
    Stage,
    TrainConfig,
    UserError,
)


def stage(**changes) -> Stage:
    settings = dict(
        name="stable", tokens=40_960, mixture="text", seq_len=128, batch_tokens=((0, 1024), (8192, 2048)),
        learning_rate_start=3e-4, learning_rate_end=3e-4,
    )  # fmt: skip
    return Stage(**{**settings, **changes})


def train(**changes) -> TrainConfig:
    return TrainConfig(**{"model": config.tiny(), "stages": (stage(),), **changes})


def evaluation(**changes) -> EvalConfig:
    return EvalConfig(**{"tasks": ("text",), "seq_len": 128, "batch_tokens": 1024, **changes})


def test_published_numbers():
    model = config.dots_llm1()
    assert (model.num_layers, model.num_moe_layers, model.shared_ffn_size) == (62, 61, 2816)
    optimizer = OptimizerConfig()
    assert (optimizer.beta1, optimizer.beta2, optimizer.weight_decay, optimizer.clip_norm) == (0.9, 0.95, 0.1, 1.0)
    assert optimizer.init_std == 0.006


def test_configs_are_frozen_and_equal_by_value():
    assert train() == train() and hash(train()) == hash(train())
    with pytest.raises(dataclasses.FrozenInstanceError):
        train().seed = 3
    assert stage(batch_tokens=[[0, 1024], [8192, 2048]]) == stage()  # gin may write lists
    assert hash(stage(batch_tokens=[[0, 1024]]))


def test_a_model_survives_json():
    model = config.tiny()
    fields = json.loads(json.dumps(config.to_dict(train())))["model"]
    assert config.model_from_dict(fields) == model
    with pytest.raises(UserError, match="fields this version does not know: num_towers"):
        config.model_from_dict({**fields, "num_towers": 2})


BAD = {
    # wrong types
    "text for int": (lambda: ModelConfig(num_layers="sixty-two"), "num_layers must be an integer, but is 'sixty-two' (str)."),
    "float for int": (lambda: ModelConfig(num_layers=62.0), "ModelConfig.num_layers must be an integer, but is 62.0 (float)."),
    "float for steps": (lambda: stage(warmup_steps=2000.5), "Stage.warmup_steps must be an integer, but is 2000.5 (float)"),
    "float for tokens": (lambda: stage(tokens=1e6), "Stage.tokens must be an integer, but is 1000000.0"),
    "bool for int": (lambda: train(seed=True), "TrainConfig.seed must be an integer, but is True (bool)."),
    "None for int": (lambda: train(log_every=None), "TrainConfig.log_every must be an integer, but is None"),
    "text for float": (lambda: OptimizerConfig(epsilon="1e-8"), "OptimizerConfig.epsilon must be a number, but is '1e-8'"),
    "bool for float": (lambda: OptimizerConfig(clip_norm=True), "OptimizerConfig.clip_norm must be a number"),
    "nan": (lambda: OptimizerConfig(clip_norm=float("nan")), "OptimizerConfig.clip_norm must be a number"),
    "infinity": (lambda: stage(learning_rate_start=float("inf")), "Stage.learning_rate_start must be a number"),
    "int for text": (lambda: stage(name=3), "Stage.name must be a string"),
    "pairs": (lambda: stage(batch_tokens=(0, 1024)), "Stage.batch_tokens must be a tuple of"),
    "one number": (lambda: stage(batch_tokens=1024), "Stage.batch_tokens must be a tuple of"),
    "one text": (lambda: train(validation="text"), "TrainConfig.validation must be a tuple of"),
    "wrong class": (lambda: train(model=OptimizerConfig()), "TrainConfig.model must be ModelConfig"),
    "one stage": (lambda: train(stages=stage()), "TrainConfig.stages must be a tuple of (Stage, ...)"),
    # model
    "one layer": (lambda: ModelConfig(num_layers=1), "ModelConfig.num_layers must be at least 2"),
    "zero": (lambda: ModelConfig(vocab_size=0), "ModelConfig.vocab_size must be above 0, but is 0."),
    "odd head": (lambda: ModelConfig(head_dim=33), "ModelConfig.head_dim must be even for RoPE, but is 33."),
    "top-k": (lambda: ModelConfig(num_experts=4, experts_per_token=6), "experts_per_token (6) must not exceed num_experts (4)"),
    # compute
    "dtype": (lambda: ComputeConfig(dtype="float16"), "ComputeConfig.dtype must be one of bfloat16, float32, but is 'float16'."),
    "remat": (lambda: ComputeConfig(remat="some"), "remat must be 'none', 'full', 'matmuls', or a tuple of names from qkv, "),
    "remat, one of them": (lambda: ComputeConfig(remat=("qkv", "v")), "but is ('qkv', 'v')."),
    "remat, nothing": (lambda: ComputeConfig(remat=""), "but is ''."),
    "remat, two kinds": (lambda: ComputeConfig(remat=("full", "qkv")), "but is ('full', 'qkv')."),
    "strategy": (lambda: ComputeConfig(expert_strategy="pigeon"), "expert_strategy must be one of all_gather, all_to_all, gather_"),
    "buffer": (lambda: ComputeConfig(expert_capacity_factor=0.9), "expert_capacity_factor must be at least 1, but is 0.9."),
    "chunk": (lambda: ComputeConfig(loss_chunk_tokens=-1), "ComputeConfig.loss_chunk_tokens must not be negative"),
    # values of older versions
    "old strategy": (
        lambda: ComputeConfig(expert_strategy="weights"),
        "ComputeConfig.expert_strategy = 'weights' is now written 'gather_weights'.",
    ),
    "old remat": (
        lambda: ComputeConfig(remat="attention+qkv"),
        "ComputeConfig.remat = 'attention+qkv' is now written ('attention', 'qkv').",
    ),
    "old remat, one": (lambda: ComputeConfig(remat="hidden"), "remat = 'hidden' is now written ('expert_ffn_hidden',)."),
    "old remat in a tuple": (lambda: ComputeConfig(remat=["attended", "qkv"]), "is now written ('attn_out', 'qkv')."),
    "old offload": (
        lambda: ComputeConfig(offload_activations="inputs+attention"),
        "ComputeConfig.offload_activations = 'inputs+attention' is now written ('layer_input', 'attention').",
    ),
    "old offload, nothing": (lambda: ComputeConfig(offload_activations=""), "offload_activations = '' is now written ()."),
    # mesh
    "context of zero": (lambda: MeshConfig(context=0), "MeshConfig.context must be above 0, or -1 for the rest, but is 0."),
    "mesh of zero": (lambda: MeshConfig(data=0), "MeshConfig.data must be above 0, or -1 for the rest, but is 0."),
    "two rests": (lambda: MeshConfig(data=-1, fsdp=-1), "only one of data, fsdp, expert and context may be -1"),
    "mesh too large": (lambda: MeshConfig(data=2, fsdp=2, expert=4).resolve(8), "needs 16 devices, but there are 8: make an"),
    "mesh too large, rest": (lambda: MeshConfig(expert=16).resolve(8), "but there are 8: make an axis smaller"),
    "mesh uneven": (lambda: MeshConfig(expert=3).resolve(8), "cannot use 8 devices: 8 is not a multiple of 3"),
    # stage
    "name": (lambda: stage(name="stage one"), "the name must be a plain word"),
    "no mixture": (lambda: stage(mixture=""), "mixture must name a seqio mixture or task"),
    "no tokens": (lambda: stage(tokens=0), "tokens or epochs must be above 0"),
    "negative rate": (lambda: stage(learning_rate_end=-1e-4), "Stage.learning_rate_end must be above 0"),
    "shape": (lambda: stage(learning_rate_shape="sawtooth"), "Stage.learning_rate_shape must be one of constant, linear, cosine"),
    "constant": (lambda: stage(learning_rate_end=1e-5), "a constant learning rate must end where it starts"),
    "warm-up": (lambda: stage(warmup_steps=-1), "warmup_steps must not be negative"),
    "empty ramp": (lambda: stage(batch_tokens=()), "batch_tokens must be ((0, size), (from, size), ...)"),
    "ramp start": (lambda: stage(batch_tokens=((5, 1024),)), "batch_tokens must be ((0, size), (from, size), ...)"),
    "ramp order": (lambda: stage(batch_tokens=((0, 1024), (9, 1024), (9, 2048))), "with rising `from`"),
    "ramp end": (lambda: stage(batch_tokens=((0, 1024), (40_960, 2048))), "inside the stage"),
    "batch": (lambda: stage(batch_tokens=((0, 1000),)), "a batch of 1000 tokens is not a multiple of seq_len (128)"),
    "batch of none": (lambda: stage(batch_tokens=((0, 0),)), "a batch of 0 tokens"),
    "microbatch": (lambda: stage(microbatch_tokens=384), "microbatch_tokens (384) must divide the batch (1024)"),
    "microbatch part": (lambda: stage(microbatch_tokens=64), "and be a multiple of seq_len (128)"),
    # the rest
    "beta": (lambda: OptimizerConfig(beta2=1.0), "OptimizerConfig.beta2 must be in [0, 1), but is 1.0."),
    "decay": (lambda: OptimizerConfig(weight_decay=-0.1), "OptimizerConfig.weight_decay must not be negative"),
    "bias rate": (lambda: BalanceConfig(expert_bias_update_rate=-1.0), "expert_bias_update_rate must not be negative"),
    "guard": (lambda: GuardConfig(max_nonfinite=0), "GuardConfig.max_nonfinite must be above 0"),
    "cache": (lambda: DataConfig(cache_dir=""), "DataConfig.cache_dir must name a folder"),
    "no such home": (lambda: DataConfig(cache_dir="~nowhere-user/x"), "there is no home folder ~nowhere-user; a folder of"),
    "never save": (lambda: CheckpointConfig(every_steps=0), "CheckpointConfig.every_steps must be above 0"),
    "milestone": (lambda: CheckpointConfig(milestone_tokens=-1), "CheckpointConfig.milestone_tokens must not be negative"),
    # the run
    "no stages": (lambda: train(stages=()), "TrainConfig.stages must hold at least one Stage"),
    "twins": (lambda: train(stages=(stage(), stage())), "names must differ, but are ['stable', 'stable']"),
    "seed": (lambda: train(seed=2**31), "TrainConfig.seed must be in [0, 2**31)"),
    "log": (lambda: train(log_every=0), "TrainConfig.log_every must be above 0"),
    "long sequence": (
        lambda: train(stages=(stage(seq_len=512, batch_tokens=((0, 1024),)),)),
        "Stage 'stable': seq_len 512 is longer than ModelConfig.max_seq_len 256",
    ),
    "experts": (
        lambda: train(mesh=MeshConfig(expert=3)).for_devices(3),
        "ModelConfig.num_experts (8) must be a multiple of MeshConfig.expert (3)",
    ),
    "batch over devices": (
        lambda: train(stages=(stage(batch_tokens=((0, 512),)),)).for_devices(8),
        "Stage 'stable': 512 tokens are 4 sequences of 128, which cannot be split over 8 of the devices of the mesh (data 1 x ",
    ),
    "microbatch over devices": (
        lambda: train(stages=(stage(microbatch_tokens=512),)).for_devices(8),
        "make the batch a multiple of 1024 tokens",
    ),
    "batch over devices, with context": (
        lambda: train(mesh=MeshConfig(context=2), stages=(stage(batch_tokens=((0, 384),)),)).for_devices(8),
        "Stage 'stable': 384 tokens are 3 sequences of 128, which cannot be split over 4 of the devices",
    ),
    "context": (
        lambda: train(mesh=MeshConfig(context=4), stages=(stage(seq_len=100, batch_tokens=((0, 1000),)),)).for_devices(8),
        "Stage 'stable': sequences of 100 tokens cannot be split over MeshConfig.context = 4: make the length a multiple of 8.",
    ),
    "train mesh": (lambda: train(mesh=MeshConfig(data=16)).for_devices(8), "data 16 x fsdp -1 x expert 1 x context 1 needs 16 "),
    "kept on host": (
        lambda: ComputeConfig(offload_activations=("layer_input", "logits")),
        "ComputeConfig.offload_activations must be a tuple of names from layer_input, qkv, attention, attn_out, routing",
    ),
    "kept twice": (
        lambda: ComputeConfig(remat=("attention", "qkv"), offload_activations=("layer_input", "attention")),
        "ComputeConfig.remat = ('attention', 'qkv') saves attention on the device",
    ),
    "kept without remat": (
        lambda: ComputeConfig(remat="none", offload_activations=("layer_input",)),
        "ComputeConfig.remat = 'none' saves layer_input on the device",
    ),
    # evaluation
    "no tasks": (lambda: evaluation(tasks=()), "EvalConfig.tasks must name at least one task"),
    "which": (lambda: evaluation(checkpoint="newest"), "EvalConfig.checkpoint must be 'latest', 'all' or a step number"),
    "step as a number": (lambda: evaluation(checkpoint=300), "EvalConfig.checkpoint must be a string, but is 300"),
    "eval batch": (lambda: evaluation(batch_tokens=1000), "EvalConfig.batch_tokens (1000) is not a multiple of seq_len (128)"),
    "eval long": (
        lambda: evaluation(seq_len=1024).for_devices(config.tiny(), 1),
        "EvalConfig: seq_len 1024 is longer than ModelConfig.max_seq_len 256",
    ),
    "eval over devices": (lambda: evaluation(batch_tokens=512).for_devices(config.tiny(), 8), "be split over 8 of the devices"),
    "eval context": (
        lambda: evaluation(seq_len=100, batch_tokens=1000, mesh=MeshConfig(context=4)).for_devices(config.tiny(), 4),
        "EvalConfig: sequences of 100 tokens cannot be split over MeshConfig.context = 4",
    ),
    "eval experts": (
        lambda: evaluation(mesh=MeshConfig(expert=3)).for_devices(config.tiny(), 3),
        "num_experts (8) must be a multiple of MeshConfig.expert (3)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_refused_with_one_sentence(case):
    make, expected = BAD[case]
    with pytest.raises(UserError) as caught:
        make()
    sentence = str(caught.value)
    assert expected in sentence
    assert "\n" not in sentence and sentence.endswith(".")


def test_good_configs_resolve():
    resolved = train(mesh=MeshConfig(data=2, expert=2)).for_devices(8)
    assert resolved.mesh == MeshConfig(data=2, fsdp=2, expert=2) and resolved.mesh.size == 8
    assert MeshConfig(data=2, fsdp=2, expert=2).resolve(8) == resolved.mesh
    assert MeshConfig(data=2, fsdp=1).resolve(8).size == 2  # fewer than there are is a choice
    assert evaluation().for_devices(config.tiny(), 8).mesh.fsdp == 8
    long = train(mesh=MeshConfig(context=4), stages=(stage(batch_tokens=((0, 256),)),)).for_devices(8)
    assert long.mesh == MeshConfig(fsdp=2, context=4) and str(long.mesh) == "data 1 x fsdp 2 x expert 1 x context 4"
    assert ComputeConfig(remat=["attention", "qkv"]).remat == ("attention", "qkv")
    assert train(seed=0, validation=["text"]).validation == ("text",)


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    source = Source(name="mine", files=(("train", "~/corpus/*.jsonl"), ("validation", "gs://b/~/x")))
    assert source.files == (("train", "/home/me/corpus/*.jsonl"), ("validation", "gs://b/~/x"))
    data = DataConfig(cache_dir="~/cache", tokenizer="~/tokenizer.json")
    assert (data.cache_dir, data.tokenizer) == ("/home/me/cache", "/home/me/tokenizer.json")
    assert train(initial_checkpoint="~").initial_checkpoint == "/home/me"
