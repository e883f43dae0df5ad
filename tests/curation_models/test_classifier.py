"""Heads from labels to a folder: documents and lines, the same bytes again, and a head at chance that is refused."""

import json
import random

import numpy as np
import pytest
from synthetic_checkpoint import write_small

from dots_jax.cli.main import main
from dots_jax.cli.options import ClassifierOptions
from dots_jax.config import UserError
from dots_jax.curation_models import command, folder
from dots_jax.curation_models.encoder import Encoder, Predictor, small_model
from dots_jax.curation_models.examples import Example, documents, lines, load_tokenizer, pad
from dots_jax.curation_models.training import Recipe, rows_of_step

GOOD = "the theory explains why measured results agree with careful observation of nature".split()
BAD = "buy cheap discount offer click sale casino bonus free shipping deal coupon".split()
GOOD_ZH, BAD_ZH = list("科学研究表明理论观察结果历史文化"), list("点击购买优惠折扣免费注册彩票赌场")
QUICK = ["--steps=60", "--folds=3", "--hidden_size=32", "--length=48", "--vocab_size=400", "--batch_size=16"]


def texts(number: int = 96, seed: int = 0, by_label: bool = True) -> list[dict]:
    """Of 24 sites; a third is Chinese. by_label: whether text and label have anything to do with each other."""
    rng, rows = random.Random(seed), []
    for n in range(number):
        label, chinese = rng.random() < 0.5, n % 3 == 0
        good = label if by_label else rng.random() < 0.5
        words = (GOOD_ZH if good else BAD_ZH) if chinese else (GOOD if good else BAD)
        other = (BAD_ZH if good else GOOD_ZH) if chinese else (BAD if good else GOOD)
        drawn = rng.choices(words, k=18) + rng.choices(other, k=10)
        rng.shuffle(drawn)
        text = ("" if chinese else " ").join(drawn) + f" {n * 7919}"
        rows.append({"text": text, "label": int(label), "language": "zh" if chinese else "en", "site": f"s{n % 24}"})
    return rows


def pages(number: int = 30, seed: int = 0) -> list[dict]:
    """Lines of which some are clutter. `Read more` is clutter only behind a line of the same kind: neighbours decide."""
    rng, rows = random.Random(seed), []
    for n in range(number):
        found = []
        for _ in range(5):
            found.append((" ".join(rng.choices(GOOD, k=12)) + ".", "keep"))
            found += [(" ".join(rng.choices(BAD, k=3)), "clutter"), ("Read more", "clutter")] * (rng.random() < 0.7)
            found += [("Read more", "keep")] * (rng.random() < 0.4)
        text, label = zip(*found)
        rows.append({"text": "\n".join(text), "label": list(label), "language": "en", "site": f"s{n % 15}"})
    return rows


def train(tmp_path, rows: list[dict], *flags: str, name: str = "out") -> int:
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return main(["classifier", f"--labels={labels}", f"--output={tmp_path / name}", *QUICK, *flags])


def test_documents_end_to_end(tmp_path, capfd):
    assert train(tmp_path, texts()) == 0
    out = capfd.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["auc"]["auc"] > 0.8 and report["auc"]["low"] > 0.6 and report["auc"]["rows"] == 96
    assert set(report["languages"]) == {"en", "zh"} and len(report["folds"]) == 3
    assert sum(fold["rows"] for fold in report["folds"]) == 96 and report["sites"] == 24
    assert abs(report["baseline_length_auc"] - 0.5) < 0.25 and "length alone" in out and "fold 2" in out
    assert [row["kept"] for row in report["thresholds"]] == [0.1, 0.25, 0.5, 0.75, 0.9]
    assert (tmp_path / "out" / "report.png").read_bytes()[:4] == b"\x89PNG"

    model = folder.load(str(tmp_path / "out"), "ModelsConfig.quality", "document")
    predict = Predictor(model.encoder(), model.length)
    good, bad = documents(model.tokenizer, [" ".join(GOOD), " ".join(BAD)], model.length)
    score_NC = predict(model.params, model.bias_LE, [good, bad])
    assert model.classes == ("0", "1") and score_NC[0, 1] > 0.6 > 0.4 > score_NC[1, 1]
    many = predict(model.params, model.bias_LE, [bad, *[good] * 40])  # other rows, another place in the batch
    assert (many[0] == score_NC[1]).all() and (many[1:] == score_NC[0]).all()

    assert train(tmp_path, texts(), name="again") == 0
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    assert main(["classifier", "--labels=x", f"--output={tmp_path / 'out'}"]) == 2
    assert "is there already" in capfd.readouterr().err


def test_a_head_at_chance_is_refused(tmp_path, capfd):
    assert train(tmp_path, texts(by_label=False)) == 2
    out, err = capfd.readouterr()
    assert err.splitlines()[-1].startswith("error: The head is at chance: AUC 0.") and "holds 0.5" in err and out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.jsonl"]


@pytest.mark.slow
def test_lines_are_judged_by_their_neighbours(tmp_path):
    assert train(tmp_path, pages(), "--kind=line", "--steps=150") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["auc"]["auc"] > 0.9 and report["score_of"] == "keep" and report["texts"] == 30
    model = folder.load(str(tmp_path / "out"), "ModelsConfig.clutter", "line")
    text = "\n".join([" ".join(GOOD), "cheap casino bonus", "Read more", " ".join(GOOD), "Read more"])
    (found,) = lines(model.tokenizer, [text], model.length)
    keep = Predictor(model.encoder(), model.length)(model.params, model.bias_LE, found)[:, 1]
    assert keep[0] > 0.5 > keep[1] and keep[4] > keep[2] + 0.1  # the same line behind another one
    with pytest.raises(UserError, match="is a model of kind line, but this step needs one of --kind=document"):
        folder.load(str(tmp_path / "out"), "ModelsConfig.quality", "document")


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--kind=page"], "--kind must be one of document, line, but is 'page'"), (["--length=3"], "at least 16 tokens"),
        (["--hidden_size=48"], "must be a multiple of 32"), (["--tokenizer=/nowhere.json"], "no tokenizer file"),
        (["--checkpoint=/nowhere"], "There is no folder /nowhere"), (["--learning_rate=3"], "between 0 and 1"),
        (["--vocab_size=40"], "too small"), (["--labels=/nowhere.jsonl"], "cannot be read"),
    ],
)  # fmt: skip
def test_flags_that_cannot_work(tmp_path, capfd, flags, sentence):
    assert train(tmp_path, texts(30), *flags) == 2
    err = capfd.readouterr().err.splitlines()
    assert len(err) == 1 and sentence in err[0] and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_many_classes(tmp_path):
    rng = random.Random(1)
    words = [f"{a}{b}" for a in ("ba", "ko", "mi", "su", "te") for b in ("ra", "lo", "ni", "zu")]
    rows = [
        {"text": " ".join(rng.choices([words[n % 5], words[5 + n % 5], *words[10:]], [9, 9] + [1] * 10, k=20)),
         "label": f"class {n % 5}", "language": "en", "site": f"s{n % 16}"}
        for n in range(100)
    ]  # fmt: skip
    assert train(tmp_path, rows, "--steps=120") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["auc"]["auc"] > 0.8 and set(report["class_auc"]) == {f"class {n}" for n in range(5)}
    assert "thresholds" not in report and report["accuracy"] > report["majority"]


def test_a_damaged_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="has no classifier.json: name a folder that `dots classifier` wrote"):
        folder.load(str(tmp_path), "ModelsConfig.quality")
    (tmp_path / "classifier.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match="is damaged"):
        folder.load(str(tmp_path), "ModelsConfig.quality")
    (tmp_path / "classifier.json").write_text('{"format": 2}')
    with pytest.raises(UserError, match="later version"):
        folder.load(str(tmp_path), "ModelsConfig.quality")


# --- the parts --------------------------------------------------------------------------------------------------------


def byte_tokenizer():
    from dots_jax.data.tokenizers.training import SMALLEST, train_tokenizer

    return load_tokenizer(train_tokenizer(["a"], SMALLEST).to_str())


def test_examples():
    tokenizer = byte_tokenizer()
    end = tokenizer.token_to_id("<|endoftext|>")
    (one,) = documents(tokenizer, ["x" * 100], 16)
    assert len(one.ids) == 16 and one.ids[-1] == end and one.start == 0
    ((first, empty, last),) = lines(tokenizer, ["abcdefgh\n\n" + "z" * 50], 16)
    assert len(first.ids) - first.start == 8 and first.ids[: first.start].tolist() == [end, end]
    assert empty.ids.tolist()[3:] == [end, *[tokenizer.token_to_id("z")] * 3, end, end] and empty.start == 8
    assert len(last.ids) == 10 and last.start == 2
    batch = pad([one, empty], 3, 16)
    assert batch.pool[1].tolist() == [0] * 8 + [1] + [0] * 7 and batch.segments[1].sum() == 9
    assert batch.pool[2].sum() == batch.segments[2].sum() == 1
    assert documents(tokenizer, ["<|endoftext|>\ud800"], 64)[0].ids.tolist().count(end) == 1


def test_batches_are_a_function_of_seed_and_step():
    recipe = Recipe(16, 10, 8, 1e-3, 5)
    epoch = np.concatenate([rows_of_step(number, 20, recipe) for number in range(5)])  # 40: two epochs
    assert sorted(epoch[:20].tolist()) == sorted(epoch[20:].tolist()) == list(range(20))
    assert (rows_of_step(3, 20, recipe) == rows_of_step(3, 20, recipe)).all()
    assert not (rows_of_step(0, 20, recipe) == rows_of_step(0, 20, recipe._replace(seed=6))).all()


def test_padding_and_other_rows_do_not_change_a_result():
    encoder = Encoder(small_model(300, 32, 2, 24), 3)
    params, bias_LE = encoder.init(0)
    rng = np.random.default_rng(0)
    many = [Example(rng.integers(0, 300, size).astype(np.int32), 0) for size in (5, 24, 1, 13)]
    short, long = Predictor(encoder, 24, rows=4), Predictor(encoder, 48, rows=4)
    np.testing.assert_allclose(short(params, bias_LE, many), long(params, bias_LE, many), atol=1e-5)
    assert (short(params, bias_LE, many[:1]) == short(params, bias_LE, many)[0]).all()


def test_a_checkpoint_of_the_projects_own_training_is_a_beginning(tmp_path, capfd):
    model = small_model(500, 32, 2, 64)
    states = write_small(tmp_path / "run", model, 3)
    flag = f"--checkpoint={tmp_path / 'run'}"
    assert train(tmp_path, texts(48), flag) == 2
    assert "has no tokenizer.json (its tokens are bytes)" in capfd.readouterr().err
    (tmp_path / "run" / "tokenizer.json").write_text(byte_tokenizer().to_str())
    assert train(tmp_path, texts(48), flag) == 2
    assert "--hidden_size is decided by --checkpoint" in capfd.readouterr().err
    labels = f"--labels={tmp_path / 'labels.jsonl'}"
    quick = ["--steps=1", "--folds=2", "--batch_size=2", "--learning_rate=1e-30"]
    assert main(["classifier", labels, flag, "--output=x", "--length=128", *quick]) == 2
    assert "has 500 ids and a context of 64" in capfd.readouterr().err
    options = ClassifierOptions(checkpoint=str(tmp_path / "run"))
    pretrained = command.Pretrained(options.checkpoint)
    params, bias_LE = pretrained.start(Encoder(pretrained.model, 2), seed=0)
    np.testing.assert_array_equal(params["model"]["embed"]["w_VD"], states[3].params["embed"]["w_VD"])
    np.testing.assert_array_equal(bias_LE, states[3].router_bias)
    assert "head" not in params["model"] and params["w_DC"].shape == (32, 2)
