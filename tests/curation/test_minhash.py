"""MinHash: what a shingle is, that similarity is estimated right, who stays, and that order and shards do not matter."""

import random

import numpy as np
import pytest

from dots_jax.config import CurateConfig, MinHashConfig, UserError
from dots_jax.curation import exchange, families, minhash, near_duplicates
from dots_jax.curation.record import Document, key_of, to_line
from dots_jax.curation.unit import digest_of

CONFIG = CurateConfig()
VOCABULARY = [
    f"{a}{b}" for a in "river mill stone house garden winter bread letter".split() for b in "abcdefghijklmnop"
]


def text(seed: int, words: int = 120) -> str:
    return " ".join(random.Random(seed).choices(VOCABULARY, k=words))


def edited(original: str, edits: int, seed: int = 0) -> str:
    words, draw = original.split(), random.Random(seed)
    for place in draw.sample(range(len(words)), edits):
        words[place] = f"new{place}"
    return " ".join(words)


def test_shingles_are_five_words_of_the_normalised_text():
    assert len(minhash.shingles("one two three four five six")) == 2
    assert len(minhash.shingles("one two")) == 1
    assert len(minhash.shingles("... \n ")) == 0
    same = minhash.shingles("One, two THREE -- four\nfive; six!"), minhash.shingles("one two three four five six")
    assert (same[0] == same[1]).all()


def test_a_shingle_depends_on_its_words_and_not_on_its_place():
    a, b = minhash.shingles("x one two three four five"), minhash.shingles("one two three four five y")
    assert len(np.intersect1d(a, b)) == 1
    assert len(np.unique(minhash.shingles(text(1, 4000)))) == 4000 - 4


def test_chinese_is_cut_into_words():
    found = minhash.tokens("今天天气不错，我们去公园玩吧。Python很好")
    assert "公园" in found.split() and "python" in found.split()


def test_very_long_texts_and_odd_characters():
    long = text(1, 20_000)
    assert len(minhash.shingles(long)) == 20_000 - 4
    assert len(minhash.shingles("天\ud800气 a b c d")) >= 1
    assert len(minhash.shingles("a \ud800 b \U0001f600 c d e")) >= 1


def test_equal_values_of_two_signatures_are_the_similarity():
    """Claim: the share of equal MinHash values is the Jaccard similarity of the shingles, within 4 standard deviations."""
    original = text(5, 300)
    for edits in (1, 5, 20, 60):
        other = edited(original, edits)
        a, b = minhash.shingles(original), minhash.shingles(other)
        exact = minhash.jaccard(a, b)
        share = float((minhash.signature(a, 2048) == minhash.signature(b, 2048)).mean())
        assert abs(share - exact) < 4 * (exact * (1 - exact) / 2048) ** 0.5 + 1e-9


def test_a_signature_is_the_minimum_of_each_function():
    found = minhash.shingles(text(3, 9000))  # more than one block
    a = minhash.multipliers(1, 64)
    expected = (a[:, None].astype(np.uint64) * found.astype(np.uint64) % (1 << 32)).min(axis=1)
    assert (minhash.signature(found, 64) == expected).all()


def test_bands_are_equal_only_with_all_rows_and_their_number():
    values = np.tile(np.arange(16, dtype=np.uint32), 128)[None]
    keys = minhash.band_keys(values, 128)
    assert len(np.unique(keys)) == 128  # equal values in two bands are two buckets
    changed = values.copy()
    changed[0, 5] += 1
    assert (minhash.band_keys(changed, 128) != keys).sum() == 1


def test_bands_meet_as_often_as_theory_says():
    """A small form of benchmarks/curation_lsh.py: real shingles, exact similarities, expected hits from each pair's own."""
    hits, expected, variance = 0, 0.0, 0.0
    settings = MinHashConfig(bands=32, rows=4)
    for number in range(150):
        original = text(number, 60)
        pair = [original, edited(original, 6 + number % 6, number)]
        similarity = minhash.jaccard(*map(minhash.shingles, pair))
        probability = minhash.hit_probability(similarity, settings.bands, settings.rows)
        keys, _ = minhash.band_keys_of(pair, settings)
        hits += bool((keys[0] == keys[1]).any())
        expected += probability
        variance += probability * (1 - probability)
    assert 20 < expected < 140
    assert abs(hits - expected) < 3 * variance**0.5


def test_the_probabilities_of_the_report():
    assert minhash.hit_probability(0.8) == pytest.approx(0.9742, abs=1e-4)
    assert [minhash.hit_probability(j) for j in (0.5, 0.6, 0.7)] == pytest.approx([0.002, 0.036, 0.347], abs=6e-4)


def rows_of(documents, crawl=0):
    keys = np.array([key_of(0, document.id) for document in documents], np.uint64)
    digests = np.array([digest_of(to_line(document)) for document in documents], np.uint64)
    rows = near_duplicates.rows(documents, keys, digests, CONFIG)
    rows["crawl"] = crawl
    return rows


def judged(documents, rows, config=CONFIG):
    """{id: (id of the one that is kept, score)} of those that go."""
    decisions, found = near_duplicates.decide(exchange.sort_rows(rows), config), {}
    names = {key_of(0, document.id): document.id for document in documents}
    for document in documents:
        mine = decisions[decisions["key"] == key_of(0, document.id)]
        for row in near_duplicates.apply(document, mine, lambda key: names.get(key, "earlier"), config).removed:
            found[row.id] = (row.other, row.score)
    return found


def family(seed: int, number: int = 4) -> list[Document]:
    return [Document(f"{seed}-{n}", "", edited(text(seed, 400), n, n)) for n in range(number)]


def test_one_of_a_family_stays_and_the_ledger_names_it():
    """Claim: of near-duplicates the document of the smallest key stays; the row of the others has its id and a similarity."""
    documents = [
        *family(1),
        *family(2),
        Document("single", "", text(99, 300)),
        Document("empty", "", "!"),
        Document("e2", "", "?"),
    ]
    found = judged(documents, rows_of(documents))
    for seed in (1, 2):
        members = sorted(
            (document.id for document in documents if document.id.startswith(f"{seed}-")), key=lambda id: key_of(0, id)
        )
        assert members[0] not in found
        assert {found[id][0] for id in members[1:]} == {members[0]}
        assert all(found[id][1] > 0.85 for id in members[1:])
    assert not {"single", "empty", "e2"} & set(found)


def test_who_stays_does_not_depend_on_order_or_shards():
    documents = [document for seed in range(5) for document in family(seed)]
    expected = judged(documents, rows_of(documents))
    shuffled = random.Random(2).sample(documents, len(documents))
    for shards in (1, 3, 7):
        assert judged(documents, np.concatenate([rows_of(shuffled[n::shards]) for n in range(shards)])) == expected


def test_a_later_crawl_loses_against_the_state_of_an_earlier_one():
    """Claim: bands of a crawl are judged after another crawl's state as if both were read at once."""
    first = [document for seed in range(3) for document in family(seed, 2)]
    second = [Document(f"b{seed}", "", edited(text(seed, 400), 3, 9)) for seed in (0, 1, 7)]
    together = np.concatenate([rows_of(first), rows_of(second, crawl=1)])
    state = near_duplicates.condense(exchange.sort_rows(rows_of(first)), CONFIG)
    after = np.concatenate([state, rows_of(second, crawl=1)])
    everyone = first + second
    expected = judged(everyone, together)
    assert {id for id in expected if id.startswith("b")} == {"b0", "b1"}
    assert {id: row for id, row in expected.items() if not id.startswith("b")} == judged(first, rows_of(first))
    assert {id: row[1] for id, row in judged(second, after).items()} == {id: expected[id][1] for id in ("b0", "b1")}


def test_min_jaccard_guards_documents_that_share_few_bands():
    documents = [Document("a", "", text(1, 400)), Document("b", "", edited(text(1, 400), 12))]
    strict = CurateConfig(minhash=MinHashConfig(min_jaccard=0.97))
    assert len(judged(documents, rows_of(documents))) == 1
    assert judged(documents, rows_of(documents), strict) == {}


def test_families_are_the_same_for_every_order_of_pairs():
    draw, number = random.Random(4), 60
    pairs = np.array([(draw.randrange(number), draw.randrange(number)) for _ in range(40)])
    priority = np.array(draw.sample(range(1000), number))
    expected = families.components(pairs, priority)
    for _ in range(5):
        shuffled = pairs[np.array(draw.sample(range(len(pairs)), len(pairs)))][:, :: draw.choice([1, -1])]
        assert (families.components(shuffled, priority) == expected).all()
    for root in set(expected.tolist()):
        assert priority[root] == priority[expected == root].min()


def test_a_list_to_exclude_between_sources():
    """Texts of a second source that resemble the first one's; what the first holds stays."""
    first, second = [text(1, 300), text(2, 300)], [edited(text(2, 300), 2), text(3, 300), "!"]
    keys, has = minhash.band_keys_of([*first, *second], MinHashConfig())
    keep = families.keepers(keys, has, np.arange(5))
    assert keep.tolist() == [0, 1, 1, 3, 4]


def test_sorting_rows_equals_sorting_by_all_fields():
    draw = np.random.default_rng(0)
    rows = np.zeros(500, near_duplicates.ROW)
    for name in rows.dtype.names:
        rows[name] = draw.integers(0, 6, 500)
    rows["band"] *= np.uint64(1) << np.uint64(61)
    assert (exchange.sort_rows(rows) == np.sort(rows)).all()
    assert len(exchange.sort_rows(rows[:0])) == 0


@pytest.mark.parametrize("settings", [{"bands": 0}, {"rows": 0}, {"ngram": 0}, {"min_jaccard": 1.5}, {"seed": -1}])
def test_settings_that_make_no_sense_get_one_sentence(settings):
    with pytest.raises(UserError, match="MinHashConfig"):
        MinHashConfig(**settings)
