"""Fine-tuning on packed conversations against transformers on the same ones, each alone.

Claim: packed conversations give transformers' loss to 1e-6 and its gradients to 1e-4, the mean over learned tokens, in 1, 2 and
  4 microbatches and on 8 devices.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import make_chat
from parity import make_golden as golden
from registered import gone_afterwards

from dots_jax.config import BalanceConfig, ComputeConfig, GuardConfig, MeshConfig, OptimizerConfig
from dots_jax.data.sequences.mixture_sequences import MixtureSequences
from dots_jax.data.sources.chat_task import add_chat_task
from dots_jax.data.sources.text_task import DocumentsSource
from dots_jax.data.tokenizers import chat
from dots_jax.data.tokenizers.tokenizer import TokenizerVocabulary
from dots_jax.huggingface import names as hf
from dots_jax.huggingface.config import config_from_hf
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.mesh import make_mesh
from dots_jax.training.optimizer import make_optimizer
from dots_jax.training.state import init_state, state_shardings
from dots_jax.training.step import jit_train_step

pytestmark = pytest.mark.slow
ROWS, SEQ_LEN, SEED = 16, 96, 5
CONFIG = golden.hf_config(
    vocab=320, hidden=32, layers=3, heads=2, head_dim=16, dense_ffn=56, experts=8, top_k=2, expert_ffn=12, shared=2
)
OPTIMIZER = OptimizerConfig(clip_norm=1e9, init_std=1.0)  # nothing is clipped
COMPUTE = ComputeConfig(dtype="float32", remat="none", loss_chunk_tokens=64)


def conversations() -> list[list[dict]]:
    """One to three exchanges, some with a system message, of very unequal answers."""
    rng = np.random.default_rng(SEED)
    words = "the capital of France is Paris 你好 请问 weather 12 + 7 =".split(" ")
    text = lambda most: " ".join(rng.choice(words, rng.integers(1, most)))
    found = []
    for number in range(24):
        turns = [{"role": "system", "content": text(4)}] if number % 3 == 0 else []
        for _ in range(1 + number % 3):
            turns += [{"role": "user", "content": text(6)}, {"role": "assistant", "content": text(8)}]
        found.append(turns)
    return found


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """(the packed batch, [(ids, weights) of each conversation])."""
    path = tmp_path_factory.mktemp("parity") / "tokenizer.json"
    path.write_text(make_chat.tokenizer_json())
    vocabulary, records = TokenizerVocabulary(path), [json.dumps(one) for one in conversations()]
    with gone_afterwards():
        add_chat_task("parity_chat", DocumentsSource({"train": records}), vocabulary, field="text")
        sequences = MixtureSequences("parity_chat", SEQ_LEN, 0, path.parent / "cache", epochs=1.0)
        assert 4 < sequences.length <= ROWS and not any(sequences.left_out.values())
        batch = sequences.rows(range(ROWS))
    alone = [chat.encode(one, vocabulary) for one in conversations()]
    assert batch["weights"].sum() == sum(sum(weights) for _, weights in alone)
    assert batch["segments"].max() > 1  # several conversations in a sequence
    return batch, alone


@pytest.fixture(scope="module")
def theirs(packed):
    """transformers' loss, its gradients, and the weights: one conversation after the other, none padded."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    model = golden.build(CONFIG, experts_implementation="eager")
    tensors = golden.load(model, SEED)
    alone, loss = packed[1], 0.0
    learned = sum(sum(weights) for _, weights in alone)
    model.zero_grad()
    for ids, weights in alone:
        labels = [token if weight else -100 for token, weight in zip(ids, weights)]
        out = model(
            input_ids=torch.tensor([ids]), labels=torch.tensor([labels]), num_items_in_batch=learned, use_cache=False
        )
        out.loss.backward()
        loss += out.loss.item()
    grads = golden.to_checkpoint(
        {name: parameter.grad.numpy() for name, parameter in model.named_parameters() if parameter.grad is not None}
    )
    return loss, grads, tensors


@functools.cache
def program(mesh: MeshConfig, microbatches: int):
    definition = ModelDef(config_from_hf(CONFIG), COMPUTE, make_mesh(mesh), OPTIMIZER.init_std)
    optimizer = make_optimizer(OPTIMIZER, definition.weight_decays())
    still = BalanceConfig(expert_bias_update_rate=0.0, sequence_aux_loss_coef=0.0)
    step = jit_train_step(
        definition, optimizer, compute=COMPUTE, balance=still, guard=GuardConfig(), microbatches=microbatches
    )
    return definition, optimizer, step


@pytest.mark.parametrize(
    "mesh, microbatches",
    [
        (MeshConfig(fsdp=1), 1),
        (MeshConfig(fsdp=1), 2),
        (MeshConfig(fsdp=1), 4),
        (MeshConfig(data=2, fsdp=2, expert=2), 2),
    ],
)
def test_a_packed_step_is_transformers_on_each_conversation_alone(packed, theirs, mesh, microbatches):
    loss, grads, tensors = theirs
    definition, optimizer, step = program(mesh, microbatches)
    params, bias = hf.from_hf(tensors, definition.config)
    state = jax.device_get(jax.jit(lambda: init_state(definition, optimizer, 0))())
    state = jax.device_put(
        state.__class__(state.step, params, bias, state.opt_state, state.guard), state_shardings(definition, optimizer)
    )
    after, metrics = jax.device_get(step(state, packed[0], jnp.float32(0.0)))
    assert abs(float(metrics["loss"]) - loss) <= 1e-6 * loss
    (adam,) = [s for s in after.opt_state if hasattr(s, "mu")]
    ours = hf.to_hf(jax.tree.map(lambda mu: mu / (1 - OPTIMIZER.beta1), adam.mu), np.asarray(bias), definition.config)
    assert set(grads) <= set(ours)
    for name, expected in grads.items():
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=name)
