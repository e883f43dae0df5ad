"""Labels, folds that share neither a site nor a near-duplicate, and areas with intervals."""

import json
import random

import numpy as np
import pytest
from web_pages import WORDS

from dots_jax.config import UserError
from dots_jax.curation_models.auc import area, macro, right_pairs
from dots_jax.curation_models.folds import assign, groups_of
from dots_jax.curation_models.labels import Row, read_labels


def write(path, *rows) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


# --- labels -----------------------------------------------------------------------------------------------------------


def test_rows_of_both_kinds(tmp_path):
    one = {"text": "a", "label": 1, "language": "en", "url": "http://Site.example/x"}
    path = write(tmp_path / "d.jsonl", one, {"text": "b", "label": "0", "site": "other"})
    assert read_labels(path, "document") == [Row("a", ("1",), "en", "site.example"), Row("b", ("0",), "", "other")]
    path = write(tmp_path / "l.jsonl", {"text": "a\n\nb", "label": ["keep", "drop", "keep"], "site": "s"})
    assert read_labels(path, "line")[0].labels == ("keep", "drop", "keep")


@pytest.mark.parametrize(
    "row, kind, sentence",
    [
        ("{", "document", "labels.jsonl:1 is no JSON line"), ([1], "document", "labels.jsonl:1 is no object"),
        ({"text": " ", "label": 1, "site": "s"}, "document", "labels.jsonl:1 has no text"),
        ({"text": "a", "label": 1}, "document", "has neither site nor url"),
        ({"text": "a", "label": None, "site": "s"}, "document", "has the label None"),
        ({"text": "a", "label": 1, "site": "s", "language": 3}, "document", "has the language 3"),
        ({"text": "a\nb", "label": [1], "site": "s"}, "line", "has 2 lines and 1 labels"),
        ({"text": "a", "label": 1, "site": "s"}, "line", "has 1 lines and no list of labels"),
        ({"text": "a", "label": 1, "site": "s"}, "document", "has 1 different labels in 2 rows"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_used(tmp_path, row, kind, sentence):
    last = {"text": "z", "label": ["1"] if kind == "line" else 1, "site": "s"}
    with pytest.raises(UserError, match=sentence):
        read_labels(write(tmp_path / "labels.jsonl", row, last), kind)


# --- folds ------------------------------------------------------------------------------------------------------------


def rows_of(sites: int, each: int) -> list[Row]:
    words = lambda number: " ".join(random.Random(number).choices(WORDS, k=40))
    return [Row(words(7 * site + n), (str(n % 2),), "en", f"s{site}") for site in range(sites) for n in range(each)]


def test_folds_share_neither_a_site_nor_a_near_duplicate():
    rows = rows_of(12, 4)
    rows[5] = rows[5]._replace(text=rows[44].text + " indeed")  # sites 1 and 11
    groups = groups_of(rows)
    fold_N = assign(rows, groups, 4, seed=3)
    assert groups[4] == groups[5] == groups[44] == groups[47] and len(set(groups.tolist())) == 11
    for first in range(len(rows)):
        for second in range(first):
            if rows[first].site == rows[second].site:
                assert fold_N[first] == fold_N[second]
    assert set(fold_N.tolist()) == {0, 1, 2, 3} and np.bincount(fold_N).max() <= 16
    assert (fold_N == assign(rows, groups, 4, seed=3)).all()


def test_rare_labels_are_spread_over_the_folds():
    rows = [Row(f"text number {n} of {n * n}", ("rare" if n < 4 else "common",), "en", f"s{n}") for n in range(40)]
    fold_N = assign(rows, np.arange(40), 4, seed=0)
    assert sorted(fold_N[:4].tolist()) == [0, 1, 2, 3] and np.bincount(fold_N).tolist() == [10] * 4


def test_too_few_groups_are_refused():
    with pytest.raises(UserError, match="have 3 groups of sites and near-duplicates, too few for --folds=5"):
        assign(rows_of(3, 4), groups_of(rows_of(3, 4)), 5, 0)
    rows = [*rows_of(4, 4), Row("alone", ("only here",), "en", "s0")]
    with pytest.raises(UserError, match="All rows of the label 'only here' are of one site"):
        assign(rows, groups_of(rows), 2, 0)


# --- areas ------------------------------------------------------------------------------------------------------------


def by_counting(score, positive, fold) -> float:
    """Every pair, one after the other."""
    right = pairs = 0.0
    for i in range(len(score)):
        for j in range(len(score)):
            if fold[i] == fold[j] and positive[i] and not positive[j]:
                pairs += 1
                right += (score[i] > score[j]) + 0.5 * (score[i] == score[j])
    return right / pairs


def test_the_area_is_that_of_all_pairs_within_folds():
    rng = np.random.default_rng(0)
    score_N, target_N = rng.integers(0, 20, 90) / 20, rng.integers(0, 2, 90)
    fold_N = rng.integers(0, 3, 90)
    score_NC = np.stack([1 - score_N, score_N], axis=1)
    found = macro(score_NC, target_N, fold_N, np.ones((1, 90)))
    assert found == pytest.approx(by_counting(score_N, target_N == 1, fold_N))
    three_N = rng.integers(0, 3, 90)
    of_three = rng.random((90, 3))
    each = [by_counting(of_three[:, c], three_N == c, fold_N) for c in range(3)]
    assert macro(of_three, three_N, fold_N, np.ones((1, 90))) == pytest.approx(np.mean(each))
    weight = rng.integers(0, 3, (1, 90)).astype(float)  # a row twice is the row written twice
    twice = np.repeat(np.arange(90), weight[0].astype(int))
    right, pairs = right_pairs(score_N, target_N == 1, weight)
    assert right / pairs == pytest.approx(by_counting(score_N[twice], target_N[twice] == 1, np.zeros(len(twice))))


def test_the_interval_is_wider_where_rows_are_of_few_groups():
    rng = np.random.default_rng(1)
    group_N, target_N = np.repeat(np.arange(20), 10), np.repeat(np.arange(20) % 2, 10)
    shift_N = rng.normal(size=20)[group_N]  # what rows of one group have in common
    score_N = 1 / (1 + np.exp(-(0.6 * target_N + shift_N)))
    score_NC, fold_N = np.stack([1 - score_N, score_N], axis=1), np.zeros(200, int)
    grouped = area(score_NC, target_N, fold_N, group_N, 0)
    alone = area(score_NC, target_N, fold_N, np.arange(200), 0)
    assert grouped.auc == alone.auc and grouped.groups == 20
    assert grouped.low < grouped.auc < grouped.high and grouped.high - grouped.low > 1.2 * (alone.high - alone.low)
    assert area(score_NC, target_N, fold_N, group_N, 0) == grouped


def test_chance_is_seen_in_about_nineteen_of_twenty():
    rng = np.random.default_rng(2)
    chance = 0
    for seed in range(60):
        score_N, target_N = rng.random(120), rng.integers(0, 2, 120)
        score_NC = np.stack([1 - score_N, score_N], axis=1)
        chance += area(score_NC, target_N, np.arange(120) % 4, np.arange(120), seed).at_chance
    assert chance >= 54


def test_rows_of_one_class_have_no_area():
    found = area(np.full((4, 2), 0.5), np.ones(4, int), np.zeros(4, int), np.arange(4), 0)
    assert found.auc is None and found.at_chance and str(found) == "none"
