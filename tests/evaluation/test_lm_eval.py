"""The adapter for lm-evaluation-harness, with the harness's two names that it imports stood in for.

`benchmarks/lm_eval_peer.py` compares it with the real harness's own Hugging Face backend.
"""

import sys
import types

import pytest

from dots_jax.config import UserError
from dots_jax.inference.sampling import GREEDY, Sampling


@pytest.fixture
def adapter(monkeypatch):
    class LM:
        def __init__(self):
            self.cache_hook = types.SimpleNamespace(add_partial=lambda *args: None)

    names = {"lm_eval": {}, "lm_eval.api": {}, "lm_eval.api.model": {"LM": LM},
             "lm_eval.api.registry": {"register_model": lambda name: lambda cls: cls}}  # fmt: skip
    for name, content in names.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "dots_jax.evaluation.lm_eval", raising=False)
    import dots_jax.evaluation.lm_eval as found

    yield found
    sys.modules.pop("dots_jax.evaluation.lm_eval", None)


def test_rolling_rows_score_each_token_once(adapter):
    """The harness's own example: ten tokens, a context of four."""
    rows = list(adapter.rolling_rows(list(range(10)), 99, 4))
    assert [(row[:begin], row[begin:]) for row, begin in rows] == [
        ([99], [0, 1, 2, 3]), ([3], [4, 5, 6, 7]), ([5, 6, 7], [8, 9])
    ]  # fmt: skip
    assert list(adapter.rolling_rows([], 99, 4)) == []
    assert list(adapter.rolling_rows([1], 99, 4)) == [([99, 1], 1)]


def test_pairs_are_split_as_the_harness_splits_them(adapter):
    pieces = {"wa": 1, "ter": 2, "water": 3, "w": 4, "ate": 5, "r": 6, " B": 7, "is": 8}

    def encode(text: str) -> list[int]:
        ids = []
        while text:
            piece = next(text[:n] for n in range(len(text), 0, -1) if text[:n] in pieces)
            ids.append(pieces[piece])
            text = text[len(piece) :]
        return ids

    assert adapter.harness_pair("is", " B", encode, 99) == adapter.harness_pair("is ", "B", encode, 99) == ([8, 7], 1)
    assert adapter.harness_pair("", "is", encode, 99) == ([99, 8], 1)
    # The word is one token; the harness fails, and the word counts.
    assert adapter.harness_pair("wa", "ter", encode, 99) == ([99, 3], 1)
    # Its first token differs from the context's own: the harness feeds the context's own.
    assert adapter.harness_pair("wa", "teris", encode, 99) == ([1, 8], 1)


def test_settings_of_a_task(adapter):
    settings = adapter.generation_settings
    assert settings({"until": ["\n", ""], "max_gen_toks": 9, "do_sample": False}) == (("\n",), 9, GREEDY)
    assert settings({"until": "。", "temperature": 0.0}) == (("。",), 256, GREEDY)
    assert settings({"do_sample": True, "temperature": 0.7, "top_p": 0.9}) == ((), 256, Sampling(0.7, 0, 0.9, 0))
    with pytest.raises(UserError, match="repetition_penalty, which dots does not have"):
        settings({"repetition_penalty": 1.1})
    with pytest.raises(UserError, match="ask for beams"):
        settings({"num_beams": 4})


def test_windows_keep_prompts_of_one_beginning_together(adapter):
    rows = [[1] * 50 + [n] for n in range(4)] + [[2] * 50 + [n] for n in range(3)]
    assert list(adapter.windows(range(7), rows.__getitem__)) == [[0, 1, 2, 3], [4, 5, 6]]
    short = [[n, n] for n in range(5)]
    assert list(adapter.windows(range(5), short.__getitem__)) == [[0, 1, 2, 3, 4]]


def test_answers_come_back_in_the_order_of_the_requests(adapter):
    """The engine sees requests by their tokens."""

    class Engine:
        def answers(self, window):
            for request in window:
                ((tokens, _),) = request.rows
                yield [(request, types.SimpleNamespace(logprobs=(-float(sum(tokens)),), greedy=(tokens[-1] == 1,)))]

    model = adapter.DotsLM.__new__(adapter.DotsLM)
    model.cache_hook = types.SimpleNamespace(add_partial=lambda *args: None)
    model._answerer, model.max_length = Engine(), 4
    model._vocabulary = types.SimpleNamespace(encode=lambda text: [ord(c) - 96 for c in text], eos_id=0)
    requests = [types.SimpleNamespace(args=args) for args in (("zz", "a"), ("b", "ab"), ("", "c"), ("abcdefgh", "a"))]
    assert model.loglikelihood(requests, disable_tqdm=True) == [
        (-53.0, True),
        (-5.0, False),
        (-3.0, False),
        (-27.0, True),
    ]
    assert model.loglikelihood_rolling([types.SimpleNamespace(args=("ab",))], disable_tqdm=True) == [-3.0]
