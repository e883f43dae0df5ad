"""Makes the golden files of tests/model/test_parity.py: what transformers' `Dots1ForCausalLM` computes, in float32.

    python tests/parity/make_golden.py        (needs torch and transformers, see requirements-dev.txt; about a minute)

A golden holds the config, a seed, tokens, targets, and as answers the logits and the gradient of every parameter.
Weights are not stored: they are a pure function of the seed and of each tensor's name, in the checkpoint's layout.
"""

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
# Where two scores of a router are closer than this at the border of its choice, rounding could choose another expert.
MIN_ROUTER_GAP = 2e-4
MIN_CHANGED_BY_BIAS = 0.2  # share of tokens for which the correction bias chooses other experts

_FIXED = dict(
    model_type="dots1", first_k_dense_replace=1, n_group=1, topk_group=1, norm_topk_prob=True, hidden_act="silu",
    attention_bias=False, tie_word_embeddings=False, sliding_window=None, max_position_embeddings=128,
)  # fmt: skip


def hf_config(
    *, vocab, hidden, layers, heads, head_dim, dense_ffn, experts, top_k, expert_ffn, shared,
    scaling=2.5, theta=1e4, eps=1e-5,
) -> dict:  # fmt: skip
    """A config.json in the names of Hugging Face."""
    return _FIXED | dict(
        vocab_size=vocab, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, head_dim=head_dim, intermediate_size=dense_ffn, n_routed_experts=experts,
        num_experts_per_tok=top_k, moe_intermediate_size=expert_ffn, n_shared_experts=shared,
        routed_scaling_factor=scaling, rms_norm_eps=eps,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )  # fmt: skip


# Name -> (config, lengths of the documents). Each document is run alone; the loss is the mean over all their tokens.
CASES = {
    "plain": (
        hf_config(
            vocab=61, hidden=32, layers=3, heads=2, head_dim=16, dense_ffn=56, experts=8, top_k=2, expert_ffn=12, shared=2
        ),
        (37, 37),
    ),
    "wide_choice": (
        hf_config(
            vocab=53, hidden=40, layers=2, heads=3, head_dim=8, dense_ffn=44, experts=16, top_k=6, expert_ffn=10, shared=1,
            theta=1e7,
        ),
        (53,),
    ),
    "deep": (
        hf_config(
            vocab=47, hidden=24, layers=5, heads=5, head_dim=4, dense_ffn=36, experts=6, top_k=3, expert_ffn=8, shared=3,
            scaling=1.7, theta=500.0, eps=1e-4,
        ),
        (29, 29, 29),
    ),
    "packed": (
        hf_config(
            vocab=59, hidden=28, layers=3, heads=4, head_dim=6, dense_ffn=40, experts=10, top_k=4, expert_ffn=9, shared=2
        ),
        (19, 26),
    ),
}  # fmt: skip

# --- weights and tokens: the same on any machine and with any numpy ---------------------------------------------------


def uniform(shape: tuple[int, ...], *key) -> np.ndarray:
    """float32 in [-1, 1), a pure function of shape and key: raw bits of PCG64, whose stream numpy keeps for ever."""
    seed = int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:8], "little")
    bits = np.random.PCG64(seed).random_raw(int(np.prod(shape)))
    return ((bits >> np.uint64(40)).astype(np.float32) / 2**23 - 1).reshape(shape)


def make_tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A checkpoint tensor with values large enough that norms, rotations, gates and biases all show in the logits."""
    values = uniform(shape, seed, name)
    if "norm" in name:
        return 1 + values / 2
    if name.endswith("e_score_correction_bias"):
        return values / 3
    deviation = 1.0 if "embed_tokens" in name else 1.3 / np.sqrt(shape[1])
    return (values * np.float32(deviation * np.sqrt(3))).astype(np.float32)


def make_documents(lengths: tuple[int, ...], vocab: int, seed: int) -> list[np.ndarray]:
    """For each document its tokens and one more: the target of the last."""
    return [((uniform((n + 1,), seed, "tokens", i) + 1) / 2 * vocab).astype(np.int32) for i, n in enumerate(lengths)]


def fingerprint(tensors: dict[str, np.ndarray]) -> str:
    """So that a test whose weights came out differently says so, and does not blame the model."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


# --- transformers -----------------------------------------------------------------------------------------------------


def to_checkpoint(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The fused expert tensors of a live model under the names and shapes of a released checkpoint."""
    out = {}
    for name, array in tensors.items():
        prefix, fused, leaf = name.partition(".mlp.experts.")
        if not fused:
            out[name] = array
            continue
        for e, matrix in enumerate(array):
            parts = ("gate_proj", "up_proj") if leaf == "gate_up_proj" else ("down_proj",)
            for part, piece in zip(parts, np.split(matrix, len(parts))):
                out[f"{prefix}.mlp.experts.{e}.{part}.weight"] = piece
    return out


def build(config: dict, **options):
    """A float32 `Dots1ForCausalLM` in training mode, weights as transformers draws them."""
    import torch
    from transformers import Dots1Config, Dots1ForCausalLM

    torch.manual_seed(0)
    return Dots1ForCausalLM._from_config(Dots1Config.from_dict(config), dtype=torch.float32, **options).train()


def load(model, seed: int) -> dict[str, np.ndarray]:
    """Fills a model with the weights of a seed, in place; returns them in the checkpoint's layout."""
    import torch

    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    # Views of the model's own memory, so that writing to a checkpoint tensor writes into the fused one.
    tensors = to_checkpoint(state)
    with torch.no_grad():
        for name, view in tensors.items():
            view[...] = make_tensor(name, view.shape, seed)
    return {name: view.copy() for name, view in tensors.items()}


def router_margins(model, documents) -> tuple[float, float]:
    """The smallest gap between the last chosen and the first refused score + bias of any token, and the share of
    tokens for which the bias changes the choice."""
    import torch

    gaps, changed = [], []

    def watch(router, _inputs, outputs):
        scores = outputs[0].sigmoid()
        k = router.top_k
        top = (scores + router.e_score_correction_bias).topk(k + 1, dim=-1)
        gaps.append((top.values[:, k - 1] - top.values[:, k]).min().item())
        plain = scores.topk(k, dim=-1).indices.sort(-1).values
        changed.append((plain != top.indices[:, :k].sort(-1).values).any(-1).float().mean().item())

    handles = [m.register_forward_hook(watch) for m in model.modules() if type(m).__name__ == "Dots1TopkRouter"]
    with torch.no_grad():
        for document in documents:
            model(input_ids=torch.tensor(document[None, :-1]).long(), use_cache=False)
    for handle in handles:
        handle.remove()
    return min(gaps), min(changed)


def answers(model, documents) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Each document's logits [T, V], and the gradients, in the checkpoint's layout, of the mean cross-entropy over
    all tokens of all documents. Targets are explicit, so no library shifts anything."""
    import torch

    model.zero_grad()
    count, logits = sum(len(d) - 1 for d in documents), []
    for document in documents:
        document = torch.tensor(document).long()
        out = model(input_ids=document[None, :-1], use_cache=False).logits[0]
        (torch.nn.functional.cross_entropy(out, document[1:], reduction="sum") / count).backward()
        logits.append(out.detach().numpy())
    # An expert that no token chose may have no gradient at all.
    grads = {
        n: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy() for n, p in model.named_parameters()
    }
    return logits, to_checkpoint(grads)


def find_seed(model, lengths: tuple[int, ...], vocab: int, seeds) -> tuple[int, dict, list[np.ndarray]]:
    """The first seed that leaves no near tie in a router and whose biases matter; the model is left filled with it."""
    for seed in seeds:
        tensors, documents = load(model, seed), make_documents(lengths, vocab, seed)
        gap, changed = router_margins(model, documents)
        if gap > MIN_ROUTER_GAP and changed > MIN_CHANGED_BY_BIAS:
            return seed, tensors, documents
    raise AssertionError("no seed without near ties")


def main() -> None:
    for name, (config, lengths) in CASES.items():
        model = build(config, attn_implementation="eager", experts_implementation="eager")
        seed, tensors, documents = find_seed(model, lengths, config["vocab_size"], itertools.count())
        logits, grads = answers(model, documents)
        header = dict(config=config, seed=seed, lengths=lengths, fingerprint=fingerprint(tensors))
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(
            path,
            header=np.array(json.dumps(header)),
            documents=np.concatenate(documents),
            logits=np.concatenate(logits),
            **{f"grad/{n}": g for n, g in grads.items()},
        )
        spread = float(np.std(np.concatenate(logits)))
        print(f"{path.name}: {path.stat().st_size // 1000} kB, seed {seed}, standard deviation of logits {spread:.2f}")


if __name__ == "__main__":
    main()
