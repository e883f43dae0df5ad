"""Generation with a cache: against transformers' `generate`, against the full forward pass, on several devices.

Claim: greedy tokens after four prompts of unequal length are those of transformers' `generate`, on one device and
  on eight.
Claim: decoding with a cache, and `--score`, give the logits of the full forward pass to 1e-5.
Claim: the tokens of a row do not depend on the other rows.
"""

import dataclasses
import functools
import json
import secrets

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_model import Golden, random_config
from numerics import MODULE, assert_close
from parity import make_generate_golden as generate_golden
from parity import make_golden as golden

from dots_jax.config import MeshConfig
from dots_jax.huggingface import names as hf
from dots_jax.huggingface.config import config_from_hf
from dots_jax.inference import prefix as prefix_module
from dots_jax.inference.decoder import Decoder
from dots_jax.inference.experts import block_layout, expert_blocks
from dots_jax.inference.generation import Generator, Request
from dots_jax.inference.prefix import Prefix, common_prefix, slots_for
from dots_jax.inference.sampling import GREEDY, Sampling
from dots_jax.inference.scoring import Scorer
from dots_jax.inference.weights import define, serving_mesh, shard_weights
from dots_jax.kernels.reference.grouped_matmul import grouped_matmul_reference
from dots_jax.model.experts.local import local_experts
from dots_jax.parallel.mesh import make_mesh


@functools.cache
def plain() -> Golden:
    return Golden("plain")


def make_weights(case, mesh, dtype="float32"):
    return shard_weights(define(case.config, dtype), *hf.from_hf(case.tensors, case.config), mesh)


def make_generator(case, mesh=None, sampling=GREEDY, dtype="float32"):
    mesh = mesh or serving_mesh(case.config, 1)
    return Generator(case.config, dtype, mesh, make_weights(case, mesh, dtype), sampling)


def run(generator, prompts, number, stop_ids=(), rows=None, batch_size=None, **options) -> list[list[int]]:
    requests = [Request(prompt, row, number) for prompt, row in zip(prompts, rows or range(len(prompts)))]
    return collect(generator, requests, stop_ids, batch_size=batch_size or len(prompts), **options)[0]


def collect(generator, requests, stop_ids=(), **options) -> tuple[list[list[int]], list[list[float]]]:
    """(tokens, logprobs) of each request."""
    new, logprobs = ([[] for _ in requests] for _ in range(2))

    def on_tokens(number: int, tokens: list[int], found: list[float]) -> bool:
        new[number] += tokens
        logprobs[number] += found
        return True

    ended = list(generator.generate(requests, stop_ids, on_tokens, **options))
    assert sorted(ended) == list(range(len(requests)))
    return new, logprobs


@pytest.fixture(scope="module")
def generator():
    return make_generator(plain())


@pytest.fixture(scope="module")
def transformers_said() -> dict:
    return json.loads(generate_golden.PATH.read_text())


def full_logits(case, tokens) -> np.ndarray:
    """[T, V] of one text, by the model that training uses, without a cache."""
    definition = define(case.config, "float32")
    tokens_BT = jnp.asarray(tokens)[None]

    @jax.jit
    def logits(params, router_bias, tokens_BT):
        model = definition.bind(params, router_bias)
        x_BTD, _ = model(tokens_BT, jnp.arange(tokens_BT.shape[1])[None], jnp.ones_like(tokens_BT))
        return model.head(x_BTD)[0]

    return np.asarray(logits(*hf.from_hf(case.tensors, case.config), tokens_BT))


# --- the same as others -----------------------------------------------------------------------------------------------


def test_greedy_tokens_are_those_of_transformers(generator, transformers_said):
    assert len({len(p) for p in transformers_said["prompts"]}) == 4 and any(
        0 in p for p in transformers_said["prompts"]
    )
    assert run(generator, transformers_said["prompts"], 64) == transformers_said["new_tokens"]


def test_many_small_chunks_and_a_growing_cache_give_the_same(generator, transformers_said, monkeypatch):
    monkeypatch.setattr(prefix_module, "PREFILL_TOKENS", 64)
    monkeypatch.setattr(prefix_module, "FIRST_SLOTS", 16)
    new = run(generator, transformers_said["prompts"], 64, tokens_per_call=7)
    assert new == transformers_said["new_tokens"]


@pytest.mark.parametrize("data, expert", [(1, 8), (4, 2)])
def test_eight_devices_give_the_same_tokens(data, expert, transformers_said):
    mesh = make_mesh(MeshConfig(data=data, fsdp=1, expert=expert))
    generator = make_generator(plain(), mesh)
    stack = generator.weights.experts["w_down_EFD"]
    assert stack.sharding.shard_shape(stack.shape)[1] == 8 // expert  # each device holds its own experts only
    # Three prompts of four: one row of the batch is without work.
    new = run(generator, transformers_said["prompts"][:3], 16)
    assert new == [row[:16] for row in transformers_said["new_tokens"][:3]]


@pytest.mark.slow
def test_live_parity():
    """A new random model each time."""
    pytest.importorskip("transformers")
    seed = secrets.randbits(31)
    print(f"seed {seed}")  # pytest shows it when the test fails
    config = random_config(np.random.default_rng(seed)) | {"max_position_embeddings": 256}
    model = golden.build(config, experts_implementation="eager")
    tensors = golden.load(model, seed)
    lengths = (3, 11, 30, 64, 65)
    prompts, theirs = generate_golden.find_prompts(model, config["vocab_size"], range(seed, seed + 50), lengths)

    @dataclasses.dataclass
    class Case:
        config: object
        tensors: dict

    assert run(make_generator(Case(config_from_hf(config), tensors)), prompts, 64) == theirs


def test_cached_logits_are_those_of_the_full_forward_pass():
    case = plain()
    mesh = serving_mesh(case.config, 1)
    decoder, weights = Decoder(case.config, "float32", mesh), make_weights(case, mesh)
    texts = [case.documents[0][:21], case.documents[1][:30]]
    lengths = jnp.array([5, 14])
    prefill, step = jax.jit(decoder.prefill), jax.jit(decoder.step)
    tokens = np.zeros((2, 16), np.int32)
    tokens[0, :5], tokens[1, :14] = texts[0][:5], texts[1][:14]
    x_BTD, cache = prefill(weights, decoder.empty_cache(2, 64), tokens, 0, lengths)
    found = [[row] for row in np.asarray(decoder.logits(weights, x_BTD))[[0, 1], [4, 13]]]
    for n in range(16):
        token_B = jnp.array([texts[0][5 + n], texts[1][14 + n]])
        logits_BV, cache = step(weights, cache, token_B, lengths + n, jnp.ones(2, bool))
        for row, logits in zip(found, np.asarray(logits_BV)):
            row.append(logits)
    for text, length, rows in zip(texts, (5, 14), found):
        assert_close(np.stack(rows), full_logits(case, text)[length - 1 :], MODULE)


def test_scores_are_those_of_the_full_forward_pass(monkeypatch):
    monkeypatch.setattr(prefix_module, "PREFILL_TOKENS", 48)  # several chunks
    monkeypatch.setattr(prefix_module, "FIRST_SLOTS", 16)
    case = plain()
    mesh = serving_mesh(case.config, 1)
    texts = [case.documents[0].tolist(), case.documents[1][:9].tolist(), [0, 0], [7]]
    scores = Scorer(case.config, "float32", mesh, make_weights(case, mesh)).logprobs(texts)
    assert [len(s) for s in scores] == [len(t) - 1 for t in texts]
    for text, found in zip(texts[:3], scores):
        expected = np.asarray(jax.nn.log_softmax(full_logits(case, text)))[np.arange(len(text) - 1), text[1:]]
        assert_close(np.array(found), expected, MODULE)


def test_bfloat16_follows_float32():
    case = plain()
    mesh = serving_mesh(case.config, 1)
    text = case.documents[0].tolist()
    exact, rounded = (
        np.array(Scorer(case.config, dtype, mesh, make_weights(case, mesh, dtype)).logprobs([text])[0])
        for dtype in ("float32", "bfloat16")
    )
    assert 0 < np.abs(exact - rounded).mean() < 0.1


@pytest.mark.parametrize("block", [1, 4, 16])
@pytest.mark.parametrize("tokens", [1, 5, 33])
def test_experts_in_blocks_are_those_of_training(block, tokens):
    L, E, K, D, F = 2, 6, 3, 12, 10
    rng = np.random.default_rng(tokens)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    x_ND, gates_NK = draw(tokens, D), draw(tokens, K)
    w_gate_up_LEDF, w_down_LEFD = draw(L, E, D, 2 * F), draw(L, E, F, D)
    ids_NK = np.stack([rng.permutation(E)[:K] for _ in range(tokens)]).astype(np.int32)
    ids_NK[-1] = E  # a token without experts
    # Of the six experts this device holds two, from the third on.
    for first, held in ((0, E), (2, 2)):
        here = slice(first, first + held)
        stacks = w_gate_up_LEDF[:, here], w_down_LEFD[:, here]
        local_NK = jnp.asarray(ids_NK) - first
        found = expert_blocks(x_ND, local_NK, gates_NK, *stacks, 1, block)
        experts = stacks[0][1], stacks[1][1]
        expected = local_experts(x_ND, local_NK, gates_NK, *experts, grouped_matmul=grouped_matmul_reference).y_ND
        np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, float(jnp.abs(expected).max())))
        assert not np.asarray(found[-1]).any()


def test_the_worked_example_of_a_block_layout():
    layout = block_layout(jnp.array([[1], [0], [1]]), 2, rows=2)
    assert layout.token_S[:4].tolist() == [1, 3, 0, 2] and (layout.token_S[4:] == 3).all()
    assert layout.slot_NK.tolist() == [[2], [0], [3]] and layout.expert_X[:2].tolist() == [0, 1]
    assert layout.num_blocks == 2


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_does_not_depend_on_its_neighbours(transformers_said):
    generator = make_generator(plain(), sampling=Sampling(temperature=1.0, top_k=20, top_p=0.9, seed=3))
    prompts = transformers_said["prompts"]
    together = run(generator, prompts, 24)
    assert run(generator, prompts[::-1], 24, rows=[3, 2, 1, 0]) == together[::-1]
    assert run(generator, [prompts[2]], 24, rows=[2]) == [together[2]]
    assert run(generator, [prompts[2]], 24, rows=[5]) != [together[2]]  # another row draws otherwise
    # ... nor on how many tokens a call makes.
    assert run(generator, prompts, 24, tokens_per_call=5) == together


def test_a_stop_id_ends_its_row_alone(generator, transformers_said):
    prompts, expected = transformers_said["prompts"], transformers_said["new_tokens"]
    stop = expected[1][5]
    cut = [row[: row.index(stop) + 1] if stop in row else row for row in expected]
    assert len(cut[1]) <= 6 and len({len(row) for row in cut}) > 1
    assert run(generator, prompts, 64, stop_ids=[stop]) == cut


def test_a_row_can_be_ended_from_outside(generator, transformers_said):
    requests = [Request(prompt, row, 64) for row, prompt in enumerate(transformers_said["prompts"][:2])]
    new = [[], []]

    def on_tokens(number, tokens, _):
        new[number] += tokens
        return number == 1

    assert list(generator.generate(requests, (), on_tokens, batch_size=2, tokens_per_call=4)) == [0, 1]
    assert new == [transformers_said["new_tokens"][0][:1], transformers_said["new_tokens"][1]]


def test_a_row_that_ends_makes_room_for_the_next(transformers_said):
    """Rows of 1 to 40 tokens, three prompts and several samples of each, give the same tokens alone and three at a time."""
    generator = make_generator(plain(), sampling=Sampling(temperature=1.0, seed=3))
    limits = [40, 1, 3, 17, 5, 2, 30, 9]
    requests = [
        Request(transformers_said["prompts"][n // 3], n // 3, limit, sample=n % 3) for n, limit in enumerate(limits)
    ]
    alone = [collect(generator, [request], batch_size=1)[0][0] for request in requests]
    assert list(map(len, alone)) == limits
    assert collect(generator, requests, batch_size=3, tokens_per_call=4)[0] == alone
    assert len({tuple(row[:2]) for row in alone if len(row) > 1}) > 4  # samples of a prompt differ


def test_a_prompt_is_fed_once_for_all_its_samples(transformers_said, monkeypatch):
    generator = make_generator(plain(), sampling=Sampling(temperature=1.0, seed=3))
    fed = []
    prefill = generator.prefill
    monkeypatch.setattr(generator, "prefill", lambda tokens, *more: fed.append(tokens) or prefill(tokens, *more))
    prompts = transformers_said["prompts"][:2]
    requests = [Request(prompt, row, 3, sample) for row, prompt in enumerate(prompts) for sample in range(7)]
    collect(generator, requests, batch_size=4)
    assert len(fed) == 2 and all(len(tokens) == 1 for tokens in fed)


def test_logprobs_are_those_of_the_scores(transformers_said):
    """Of tokens drawn warm and among few: the model's own, as `score` gives them."""
    case, prompts = plain(), transformers_said["prompts"]
    generator = make_generator(case, sampling=Sampling(temperature=1.7, top_k=9, seed=1))
    new, found = collect(generator, [Request(p, n, 12) for n, p in enumerate(prompts)], batch_size=3)
    texts = [list(prompt) + tokens for prompt, tokens in zip(prompts, new)]
    scores = Scorer(case.config, "float32", generator.mesh, generator.weights).logprobs(texts)
    for prompt, mine, score in zip(prompts, found, scores):
        assert_close(np.array(mine), np.array(score[len(prompt) - 1 :]), MODULE)


def test_a_row_ends_where_the_context_does(generator):
    room = generator.config.max_seq_len - 120
    assert list(map(len, run(generator, [[1] * 120, [2] * 20], 20))) == [room, 20]


def test_one_new_token(generator, transformers_said):
    assert run(generator, transformers_said["prompts"], 1) == [row[:1] for row in transformers_said["new_tokens"]]


def test_sizes_of_caches():
    sizes = [slots_for(needed) for needed in range(1, 3000)]
    assert all(size >= needed for needed, size in enumerate(sizes, start=1))
    assert sorted(set(sizes)) == [128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072]  # few, so that few are compiled


def test_a_prefix_is_fed_once_and_changes_nothing():
    case = plain()
    generator = make_generator(case)
    prompts = [[5, 6, 7, 8, 9], [5, 6, 7, 3], [5, 6, 7, 8, 2, 4, 1]]
    assert common_prefix(prompts) == 3 and common_prefix([[5, 6], [5, 6]]) == 1
    prefix = Prefix(generator.decoder, generator.weights, generator.mesh, prompts[0][:3], slots=256)
    alone = run(generator, prompts, 6)
    assert alone == run(generator, prompts, 6, prefix=prefix, batch_size=2, slots=256)
    scorer = Scorer(case.config, "float32", generator.mesh, generator.weights)
    for complete, rest in zip(scorer.logprobs(prompts), scorer.logprobs(prompts, prefix=prefix, batch=4, slots=256)):
        assert len(rest) == len(complete) - 3
        np.testing.assert_allclose(rest, complete[3:], atol=1e-5)
