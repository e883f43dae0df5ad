"""What is measured of a checkpoint: expert load, specialisation, drift, attention; and the pictures of it."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from synthetic_checkpoint import write_small

import dots_jax
from dots_jax.analysis import expert_load, learning_dynamics
from dots_jax.analysis import figures as pictures
from dots_jax.analysis.attention_map import attention_map
from dots_jax.analysis.expert_load import DomainScore, score_domains, specialisation
from dots_jax.analysis.learning_dynamics import Milestone, drift, measure
from dots_jax.analysis.text_ids import TextIds
from dots_jax.checkpoint.metadata import read_metadata
from dots_jax.config import CheckpointConfig, Stage, UserError, tiny, to_dict
from dots_jax.model.model_def import declared_parameters

TEXT = "The quick brown fox jumps over the lazy dog, 12 times: é."


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("small")
    states = write_small(workdir, tiny(), 3, 5, 8)
    return workdir, states


@pytest.fixture(scope="module")
def model(small):
    return dots_jax.open_checkpoint(str(small[0])).restore()


# --- expert load ----------------------------------------------------------------------------------------------------------


def test_load_and_loss_of_a_domain(model, monkeypatch):
    """Whatever the length of the rows, a short text is scored as the model scores it alone, and padding counts nothing."""
    ids = TextIds().encode(TEXT)
    inputs = jnp.asarray(ids[:-1])[None]
    forward = jax.jit(lambda tokens: model.bind()(tokens, jnp.arange(len(ids) - 1)[None], jnp.ones_like(tokens)))
    x_BTD, stats = forward(inputs)
    logits_TV = (x_BTD @ model.params["head"]["w_DV"])[0]
    nll_T = -jax.nn.log_softmax(logits_TV)[jnp.arange(len(ids) - 1), jnp.asarray(ids[1:])]

    monkeypatch.setattr(expert_load, "ROWS", 2)
    score = score_domains(model, {"text": ids}, seq_len=64)["text"]
    assert score.tokens == len(ids) - 1
    np.testing.assert_array_equal(score.load_LE * score.tokens, stats.load_E)
    np.testing.assert_allclose(score.load_LE.sum(axis=1), model.config.experts_per_token)
    assert score.loss == pytest.approx(float(nll_T.mean()), abs=1e-5)

    # Many rows and batches: the same as one row at a time.
    long = TextIds().encode(TEXT * 20)
    rows = [long[i : i + 65] for i in range(0, len(long) - 1, 64)]
    complete = score_domains(model, {"long": long}, seq_len=64)["long"]
    parts = score_domains(model, {str(i): row for i, row in enumerate(rows)}, seq_len=64)
    assert complete.tokens == sum(p.tokens for p in parts.values()) == len(long) - 1
    np.testing.assert_allclose(complete.load_LE, sum(p.load_LE * p.tokens for p in parts.values()) / complete.tokens)
    assert complete.loss == pytest.approx(sum(p.loss * p.tokens for p in parts.values()) / complete.tokens, abs=1e-5)


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        ([5], r"The domain 'x' has 1 token\(s\): two are the least"),
        ([5, 259], r"The domain 'x' has the id 259, and the model's vocabulary is 259: is this the tokenizer"),
        ([5, -1], r"has the id -1"),
    ],
)
def test_domains_that_cannot_be_scored(model, ids, sentence):
    with pytest.raises(UserError, match=sentence):
        score_domains(model, {"x": ids})


def score_of(load_LE, loss=1.0) -> DomainScore:
    return DomainScore(np.asarray(load_LE, float), loss, 100)


def test_specialisation():
    same, other = [[1, 1, 0, 0], [1, 1, 0, 0]], [[0, 0, 1, 1], [1, 0, 1, 0]]
    np.testing.assert_allclose(specialisation({"a": score_of(same), "b": score_of(same)}), [0, 0])
    np.testing.assert_allclose(specialisation({"a": score_of(same), "b": score_of(other)}), [1, 0.5])
    three = {"a": score_of(same), "b": score_of(same), "c": score_of(other)}
    np.testing.assert_allclose(specialisation(three), [2 / 3, 1 / 3])
    with pytest.raises(UserError, match="give at least two"):
        specialisation({"a": score_of(same)})


# --- from checkpoint to checkpoint ------------------------------------------------------------------------------------------


def test_milestones_are_measured_apart(small):
    opened, text = dots_jax.open_checkpoint(str(small[0])), TextIds()
    domains = {"words": text.encode(TEXT), "numbers": text.encode("1 2 3 5 8 13 21 34")}
    found = measure(opened, domains, steps=[8, 3], seq_len=64)
    assert [(m.step, m.tokens) for m in found] == [(3, 3000), (8, 8000)]
    for milestone in found:
        alone = score_domains(opened.at(milestone.step).restore(), domains, seq_len=64)
        assert {n: s.loss for n, s in milestone.scores.items()} == {n: s.loss for n, s in alone.items()}
        np.testing.assert_array_equal(milestone.specialisation, specialisation(alone))
    assert found[0].scores["words"].loss != found[1].scores["words"].loss


def expected_drift(before, after, layers=None) -> dict[str, float]:
    sums = {}
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(before.params), jax.tree.leaves(after.params)):
        name = "/".join(key.key for key in path)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if layers is not None and name.startswith("moe_blocks/"):
            places = [layer - 1 for layer in layers if layer]
            a, b = a[places], b[places]
        elif layers is not None and not (name.startswith("dense_block/") and 0 in layers):
            continue
        total = sums.setdefault(declared_parameters(tiny())[name].part, np.zeros(2))
        total += np.square(b - a).sum(), np.square(a).sum()
    return {part: float(np.sqrt(d / s)) for part, (d, s) in sums.items() if s}


@pytest.mark.parametrize(("piece", "layers"), [(2**30, None), (1, None), (20_000, [0, 2]), (1, slice(1, 2))])
def test_drift(small, piece, layers, monkeypatch):
    monkeypatch.setattr(learning_dynamics, "PIECE_BYTES", piece)
    workdir, states = small
    moved = drift(dots_jax.open_checkpoint(str(workdir)), layers=layers)
    chosen = [1] if isinstance(layers, slice) else layers
    for place, (before, after) in enumerate(((3, 5), (5, 8))):
        expected = expected_drift(states[before], states[after], chosen)
        assert {part: values[place] for part, values in moved.items()} == pytest.approx(expected, rel=1e-5)
    if layers is None:
        assert set(moved) == set(learning_dynamics.PARTS)


def test_drift_needs_two(small):
    with pytest.raises(UserError, match="Drift is between two checkpoints, and there is one: that of step 5"):
        drift(dots_jax.open_checkpoint(str(small[0])), steps=[5])


def test_milestones_of_a_record(small, tmp_path):
    """Those that `Schedule.is_milestone` says, of the steps that are there."""
    shutil.copytree(small[0], tmp_path / "run")
    stage = Stage(
        name="only", tokens=8192, mixture="m", seq_len=64, batch_tokens=((0, 1024),), learning_rate_start=1e-3,
        learning_rate_end=1e-3,
    )  # fmt: skip
    assert dots_jax.open_checkpoint(str(tmp_path / "run")).milestones == []
    config = {"stages": [to_dict(stage)], "checkpoint": to_dict(CheckpointConfig(every_steps=1, milestone_tokens=3000))}
    for path in (tmp_path / "run").glob("checkpoints/*/record/metadata"):
        metadata = dataclasses.replace(read_metadata(epath.Path(path.parents[1])), config=config)
        path.write_text(json.dumps(metadata.to_json()))
    assert dots_jax.open_checkpoint(str(tmp_path / "run")).milestones == [3, 8]


# --- attention --------------------------------------------------------------------------------------------------------------


def test_attention_is_the_models_own(model):
    seen, transformer = [], model.bind()
    attention = transformer.dense_block.attention.kernels.attention

    def record(q_BTNH, k_BSNH, v_BSNH, *rest):
        y_BTNH = attention(q_BTNH, k_BSNH, v_BSNH, *rest)
        jax.debug.callback(lambda v, y: seen.append((v[0], y[0])), v_BSNH, y_BTNH, ordered=True)
        return y_BTNH

    for block in (transformer.dense_block, transformer.moe_blocks):
        block.attention.kernels = block.attention.kernels._replace(attention=record)
    ids = TextIds().encode(TEXT)
    tokens = jnp.asarray(ids)[None]
    jax.jit(lambda t: transformer(t, jnp.arange(len(ids))[None], jnp.ones_like(t)))(tokens)
    jax.effects_barrier()
    assert len(seen) == model.config.num_layers
    for layer in (0, 2):
        weights_NTS = attention_map(model, ids, layer)
        values_SNH, result_TNH = seen[layer]
        np.testing.assert_allclose(np.einsum("NTS,SNH->TNH", weights_NTS, values_SNH), result_TNH, atol=1e-5)
        np.testing.assert_allclose(weights_NTS.sum(axis=2), 1, atol=1e-5)


def test_attention_that_cannot_be_shown(model):
    with pytest.raises(UserError, match="^3 is out of range: the layers are 0 to 2"):
        attention_map(model, [5, 6], 3)
    with pytest.raises(UserError, match="The text has 300 tokens, and the model takes 1 to 256"):
        attention_map(model, [5] * 300, 1)


# --- text -------------------------------------------------------------------------------------------------------------------


def test_text_is_that_of_the_data(tmp_path):
    import seqio

    from dots_jax.data.tokenizers.tokenizer import TokenizerVocabulary
    from dots_jax.data.tokenizers.training import train_tokenizer

    assert TextIds().encode(TEXT) == seqio.ByteVocabulary().encode(TEXT)
    assert "".join(TextIds().pieces(TextIds().encode("a b\n"))) == "a b\n"
    path = str(tmp_path / "tokenizer.json")
    train_tokenizer([TEXT] * 50, 300).save(path)
    text = TextIds(path)
    for words in (TEXT, "<|endoftext|> is text"):
        assert text.encode(words) == TokenizerVocabulary(path).encode(words)
        assert "".join(text.pieces(text.encode(words))).replace("\ufffd", "") in (words, words.replace("é", ""))
    # Special tokens behind unused ids keep the numbers of the file, on both sides.
    fields = json.loads((tmp_path / "tokenizer.json").read_text())
    highest = max(fields["model"]["vocab"].values())
    for i, token in enumerate(fields["added_tokens"]):
        token["id"] = highest + 8 + 3 * i
    gap = tmp_path / "gap.json"
    gap.write_text(json.dumps(fields))
    vocabulary, text = TokenizerVocabulary(str(gap)), TextIds(str(gap))
    for i in range(highest + 1, vocabulary.vocab_size):
        assert text.decode([i]) == vocabulary._decode([i]), i
    with pytest.raises(UserError, match="The tokenizer nowhere.json cannot be read"):
        TextIds("nowhere.json")


# --- pictures ---------------------------------------------------------------------------------------------------------------


def labels(figure) -> list[tuple[str, str]]:
    return [(axis.get_xlabel(), axis.get_ylabel()) for axis in figure.axes]


@pytest.mark.parametrize(("L", "E"), [(1, 2), (3, 16), (61, 128)])
def test_maps(L, E, tmp_path):
    rng = np.random.default_rng(0)
    scores = {name: score_of(rng.gamma(2, size=(L, E))) for name in ("one", "two", "three")}
    figure = pictures.load_map(scores)
    assert [y for _, y in labels(figure)] == ["layer"] * 3 + ["load / even load"] and labels(figure)[2][0] == "expert"
    even = np.concatenate([axis.images[0].get_array().ravel() for axis in figure.axes[:3]])
    assert even.mean() == pytest.approx(1)
    figure.savefig(tmp_path / "load.png")
    bias = pictures.bias_map(rng.normal(size=(L, E)))
    assert labels(bias) == [("expert", "layer"), ("", "bias")]
    low, high = bias.axes[0].images[0].get_clim()
    assert low == -high  # white is zero
    bias.savefig(tmp_path / "bias.png")


def test_curves(tmp_path):
    rows = [
        {"tokens": 1000 * i, "loss": 5 / i, "stage": "one" if i < 50 else "two", "learning_rate": 1e-3 / i}
        for i in range(1, 101)
    ]
    figure = pictures.loss_curve(rows)
    upper, lower = figure.axes
    assert upper.get_ylabel() == "loss, nats per token" and lower.get_xlabel() == "tokens, thousands"
    np.testing.assert_allclose(upper.lines[0].get_ydata(), [row["loss"] for row in rows])
    assert upper.lines[1].get_ydata()[-1] == pytest.approx(np.mean([row["loss"] for row in rows[-5:]]))
    assert [text.get_text() for text in upper.texts] == ["one", "two"]
    figure.savefig(tmp_path / "loss.png")
    upper = pictures.loss_curve(rows, {"a guess": 5.5, "the end": 0.04}).axes[0]
    assert [line.get_ydata()[0] for line in upper.lines if line.get_linestyle() == "--"] == [5.5, 0.04]
    assert {"a guess: 5.50", "the end: 0.04"} < {text.get_text() for text in upper.texts}
    low, high = upper.get_ylim()
    assert low < 0.04 and high > 5.5
    with pytest.raises(UserError, match="There are no rows of metrics"):
        pictures.loss_curve([])

    milestones = [
        Milestone(
            i, i * 10**12, {"a": score_of([[1, 1]], 2 / i), "b": score_of([[2, 0]], 1.5 / i)}, np.array([0.5 / i])
        )
        for i in (1, 2, 3)
    ]
    figure = pictures.dynamics(milestones, {"experts": [0.3, 0.1], "norms": [0.01, 0.002]})
    assert [axis.get_title() for axis in figure.axes] == ["loss", "specialisation", "drift"]
    assert {x for x, _ in labels(figure)} == {"tokens at the milestone, trillions"}
    np.testing.assert_allclose(figure.axes[2].lines[0].get_xydata(), [[2, 0.3], [3, 0.1]])
    figure.savefig(tmp_path / "dynamics.png")
    figure = pictures.attention_picture(np.tril(np.full((4, 4), 0.25)), list("a b\n"), "layer 1, head 0")
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["a", "␣", "b", "↵"]
    figure.savefig(tmp_path / "attention.png")
