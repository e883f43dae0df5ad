"""The golden files of tests/parity, which transformers made, and random models for what compares here and now."""

import json

import numpy as np
from parity import make_golden as golden

from dots_jax.huggingface import names as hf
from dots_jax.huggingface.config import config_from_hf


class Golden:
    """One golden file, with its weights made again from the seed."""

    def __init__(self, name: str):
        with np.load(golden.FOLDER / f"{name}.npz") as file:
            self.header = json.loads(str(file["header"]))
            documents, logits = file["documents"], file["logits"]
            self.grads = {key.removeprefix("grad/"): file[key] for key in file if key.startswith("grad/")}
        lengths = np.array(self.header["lengths"])
        self.documents = np.split(documents, np.cumsum(lengths + 1)[:-1])
        self.logits = np.split(logits, np.cumsum(lengths)[:-1])
        self.config = config_from_hf(self.header["config"])
        self.tensors = {
            tensor: golden.make_tensor(tensor, hf.hf_shape(row, self.config), self.header["seed"])
            for row in (*hf.TABLE, hf.ROUTER_BIAS)
            for _, names in hf.slices(row, self.config)
            for tensor in names
        }
        assert golden.fingerprint(self.tensors) == self.header["fingerprint"], "the weights are not those of the golden"


def random_config(rng: np.random.Generator) -> dict:
    """top_k from 2 on: with one expert its weight is always 1, and the router's gradient is rounding noise around zero."""
    pick = lambda low, high: int(rng.integers(low, high + 1))
    experts = pick(4, 20)
    return golden.hf_config(
        vocab=pick(40, 200), hidden=pick(16, 64), layers=pick(2, 4), heads=pick(1, 6), head_dim=2 * pick(2, 10),
        dense_ffn=pick(20, 80), experts=experts, top_k=pick(2, min(experts - 1, 6)), expert_ffn=pick(6, 24),
        shared=pick(1, 3), scaling=float(rng.uniform(1, 3)), theta=float(10 ** rng.uniform(2, 7)),
    )  # fmt: skip
