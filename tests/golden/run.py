"""A training run whose losses are kept in loss.json: 50 steps of a small dots.llm1 on a made-up text.

    python -m tests.golden.run            # writes loss.json again, after a change that is meant to change the losses

Everything is fixed: the text comes from a generator written out here (a library's would differ between versions), the
initial values from a seed, the schedule from `gin/tiny.gin`'s first stage with a shorter warm-up.
"""

import dataclasses
import functools
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dots_jax.config import BalanceConfig, ComputeConfig, GuardConfig, MeshConfig, ModelConfig, OptimizerConfig
from dots_jax.curriculum.learning_rate import warmup
from dots_jax.data.sequences.packing import pack, stack
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.mesh import make_mesh
from dots_jax.training.optimizer import make_optimizer
from dots_jax.training.state import init_state, state_shardings
from dots_jax.training.step import jit_train_step

CURVE = Path(__file__).parent / "loss.json"
STEPS, ROWS, SEQ_LEN, WARMUP_STEPS, PEAK, EOS = 50, 16, 64, 10, 3e-3, 1
CONFIG = ModelConfig(
    vocab_size=259, num_layers=3, hidden_size=64, num_heads=2, head_dim=32, dense_ffn_size=176, num_experts=8,
    experts_per_token=2, expert_ffn_size=32, num_shared_experts=2, rope_theta=10_000.0, max_seq_len=64,
)  # fmt: skip
COMPUTE = ComputeConfig(dtype="float32", remat="none", loss_chunk_tokens=600)
OPTIMIZER = OptimizerConfig(init_std=0.02)
ONE_DEVICE = MeshConfig(fsdp=1)


# --- the text ---------------------------------------------------------------------------------------------------------


def random_numbers(seed: int):
    """Whole numbers below 2**31 without end (Park and Miller's minimal standard, in exact integers)."""
    while True:
        seed = seed * 48_271 % 2_147_483_647
        yield seed


def documents(seed: int):
    """Little programs without end: definitions that call what was defined before, as bytes."""
    numbers = random_numbers(seed)
    pick = lambda choices: choices[next(numbers) // 1009 % len(choices)]
    word = lambda: pick(["load", "store", "token", "expert", "route", "balance"]) + pick(["", "_all", "_one", "s"])
    while True:
        names, lines = [word()], []
        for _ in range(1 + next(numbers) // 1009 % 4):
            name, argument = word(), pick("abcxyz")
            lines += [
                f"def {name}({argument}):",
                f"    {argument} = {pick(names)}({argument}) {pick('+-*')} {pick('12')}",
            ]
            lines += [f"    return {argument}", ""]
            names.append(name)
        yield "\n".join(lines).encode()


def batches(seed: int):
    """Training batches, packed as the loader packs: documents end to end, each closed by EOS."""
    stream, ends, source = [EOS], [], documents(seed)
    while True:
        rows = []
        for _ in range(ROWS):
            while len(stream) < SEQ_LEN + 1:
                stream += [byte + 3 for byte in next(source)] + [EOS]
                ends.append(len(stream) - 2)
            here = [end for end in ends if end < SEQ_LEN]
            rows.append(pack(np.array(stream[: SEQ_LEN + 1], np.int32), np.array(here), SEQ_LEN))
            stream, ends = stream[SEQ_LEN:], [end - SEQ_LEN for end in ends if end >= SEQ_LEN]
        yield stack(rows)


# --- the run ----------------------------------------------------------------------------------------------------------


@functools.cache
def programs(mesh: MeshConfig, microbatches: int):
    """Jitted: what makes the initial state, and the step."""
    definition = ModelDef(CONFIG, COMPUTE, make_mesh(mesh), OPTIMIZER.init_std)
    optimizer = make_optimizer(OPTIMIZER, definition.weight_decays())
    initial = jax.jit(
        lambda: init_state(definition, optimizer, 0), out_shardings=state_shardings(definition, optimizer)
    )
    static = dict(compute=COMPUTE, balance=BalanceConfig(), guard=GuardConfig(), microbatches=microbatches)
    return initial, jit_train_step(definition, optimizer, **static)


def losses(mesh: MeshConfig = ONE_DEVICE, microbatches: int = 2, change=lambda params: params) -> list[float]:
    """The loss of each step. change: what is done to the initial parameters, to measure how far rounding goes."""
    initial, step = programs(mesh, microbatches)
    state, values = initial(), []
    params = jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), change(state.params), state.params)
    state = dataclasses.replace(state, params=params)
    for number, batch in zip(range(STEPS), batches(1)):
        rate = warmup(PEAK, number, WARMUP_STEPS) if number < WARMUP_STEPS else PEAK
        state, metrics = step(state, batch, jnp.float32(rate))
        values.append(metrics["loss"])
    return [float(value) for value in values]


if __name__ == "__main__":
    CURVE.write_text(json.dumps({"made_with": f"jax {jax.__version__}", "loss": losses()}, indent=1) + os.linesep)
    print(CURVE.read_text())
