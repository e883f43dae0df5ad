"""A complete run in seconds, for tests: two small tasks, two mixtures, a batch ramp, microbatches and three stages.

This module is also the run's DataConfig.tasks_modules: importing it registers the tasks. The helpers that start a run
import the library late, so that a process that only wants the tasks stays light.
"""

import json
import os
import random
import shutil
import subprocess
import sys

import seqio

from dots_jax import storage
from dots_jax.data.sources.text_task import register_text_task

GIN = """
TrainConfig.model = @ModelConfig()
ModelConfig.vocab_size = 259
ModelConfig.num_layers = 3
ModelConfig.hidden_size = 16
ModelConfig.num_heads = 2
ModelConfig.head_dim = 8
ModelConfig.dense_ffn_size = 32
ModelConfig.num_experts = 8
ModelConfig.experts_per_token = 2
ModelConfig.expert_ffn_size = 16
ModelConfig.num_shared_experts = 1
ModelConfig.rope_theta = 10000.0
ModelConfig.max_seq_len = 64

TrainConfig.stages = (@stable/Stage(), @anneal/Stage(), @long/Stage())
stable/Stage.name = 'stable'
stable/Stage.tokens = 8_960
stable/Stage.mixture = 'small_plain'
stable/Stage.seq_len = 32
stable/Stage.batch_tokens = ((0, 256), (3_840, 512))
stable/Stage.microbatch_tokens = 256
stable/Stage.learning_rate_start = 3e-3
stable/Stage.learning_rate_end = 3e-3
stable/Stage.warmup_steps = 5
anneal/Stage.name = 'anneal'
anneal/Stage.tokens = 2_560
anneal/Stage.mixture = 'small_mixed'
anneal/Stage.seq_len = 32
anneal/Stage.batch_tokens = ((0, 256),)
anneal/Stage.learning_rate_start = 3e-3
anneal/Stage.learning_rate_end = 3e-4
anneal/Stage.learning_rate_shape = 'cosine'
long/Stage.name = 'long'
long/Stage.tokens = 2_560
long/Stage.mixture = 'small_mixed'
long/Stage.seq_len = 64
long/Stage.batch_tokens = ((0, 512),)
long/Stage.learning_rate_start = 3e-4
long/Stage.learning_rate_end = 3e-4

TrainConfig.compute = @ComputeConfig()
ComputeConfig.dtype = 'float32'
ComputeConfig.remat = 'none'
TrainConfig.mesh = @MeshConfig()
MeshConfig.fsdp = 1
TrainConfig.optimizer = @OptimizerConfig()
OptimizerConfig.init_std = 0.05
TrainConfig.checkpoint = @CheckpointConfig()
CheckpointConfig.every_steps = 5
CheckpointConfig.keep_last = 2
TrainConfig.data = @DataConfig()
DataConfig.tasks_modules = ('small_run',)
TrainConfig.log_every = 1
"""
# stable: 15 steps of 8 sequences and 10 of 16 in 2 microbatches; anneal: 10 of 8; long: 5 of 8.
NUM_STEPS = 40
TIMES = ("step_seconds", "first_step_seconds", "tokens_per_second", "mfu")  # of a row: what no two runs share

EVAL_GIN = """
EvalConfig.tasks = ('small_prose', 'small_numbers')
EvalConfig.seq_len = 32
EvalConfig.batch_tokens = 256
EvalConfig.compute = @ComputeConfig()
ComputeConfig.dtype = 'float32'
ComputeConfig.remat = 'none'
EvalConfig.mesh = @MeshConfig()
MeshConfig.fsdp = 1
EvalConfig.data = @DataConfig()
DataConfig.tasks_modules = ('small_run',)
"""


def _documents(words: list[str], seed: int, number: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=rng.randrange(3, 30))) for _ in range(number)]


for _name, _words in (
    ("small_prose", "the quick brown fox jumps over a lazy dog and sleeps".split()),
    ("small_numbers", "0 1 2 3 5 8 13 21 34 55".split()),
):
    if _name not in seqio.TaskRegistry.names():
        register_text_task(_name, {"train": _documents(_words, 0, 60), "validation": _documents(_words, 1, 12)})
for _name, _rates in (
    ("small_plain", [("small_prose", 0.7), ("small_numbers", 0.3)]),
    ("small_mixed", [("small_prose", 0.2), ("small_numbers", 0.8)]),
):
    if _name not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(_name, _rates)


class Workdir:
    """One run's folder, and how its commands are started on it, here or as processes."""

    def __init__(self, folder, cache, env=None, name="run"):
        self._folder, self._cache, self._env = folder, cache, env
        self.path = storage.folder(name) if storage.in_bucket(name) else folder / name
        self.gin, self.eval_gin = folder / "run.gin", folder / "eval.gin"
        self.gin.write_text(GIN + f"DataConfig.cache_dir = '{cache}'\n")
        self.eval_gin.write_text(EVAL_GIN + f"DataConfig.cache_dir = '{cache}'\n")

    def _arguments(self, gin, bindings, flags) -> list[str]:
        bound = [f"--gin_bindings={binding}" for binding in bindings]
        return [f"--gin_file={gin}", f"--workdir={self.path}", *bound, *flags]

    def train(self, *bindings: str, flags: tuple[str, ...] = ()) -> int:
        """The train command in this process; returns its exit status."""
        from dots_jax.cli.main import main

        return main(["train", *self._arguments(self.gin, bindings, flags)])

    def evaluate(self, *bindings: str, flags: tuple[str, ...] = ()) -> int:
        from dots_jax.cli.main import main

        return main(["eval", *self._arguments(self.eval_gin, bindings, flags)])

    def another(self, name: str) -> "Workdir":
        """A second folder of the same run."""
        return Workdir(self._folder, self._cache, self._env, name)

    def copy(self, name: str) -> "Workdir":
        other = self.another(name)
        shutil.copytree(self.path, other.path)
        return other

    def start(self, *bindings: str, flags: tuple[str, ...] = (), **env: str) -> subprocess.Popen:
        """The same train command as a process of its own."""
        path = os.pathsep.join([self._env["PYTHONPATH"], os.path.dirname(__file__)])
        return subprocess.Popen(
            [sys.executable, "-m", "dots_jax.train", *self._arguments(self.gin, bindings, flags)],
            env={**self._env, **env, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def rows(self) -> list[dict]:
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def history(self) -> list[str]:
        """The rows as text, without what depends on the clock."""
        return [json.dumps({k: v for k, v in row.items() if k not in TIMES}) for row in self.rows()]

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are complete."""
        return sorted(int(entry.name) for entry in (self.path / "checkpoints").iterdir() if entry.name.isdecimal())


def restored(workdir: Workdir, step: int):
    """Every array of a checkpoint, by path, as it lies on the disk."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    arrays = {}
    for item in ("model", "training"):
        tree = ocp.StandardCheckpointer().restore(workdir.path / "checkpoints" / str(step) / item)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            arrays[item + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return arrays
