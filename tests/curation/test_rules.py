"""Rules: every one with its own reason and number, two languages with their own thresholds, lines of clutter, sites."""

import dataclasses
import gzip
import json
import random
import re

import numpy as np
import pytest
from web_pages import shared_web

from dots_jax.config import ChineseRules, CurateConfig, EnglishRules, RulesConfig, UserError
from dots_jax.curation.books import Books
from dots_jax.curation.language import identify
from dots_jax.curation.record import Document
from dots_jax.curation.rules import clutter, ngrams, sites, step
from dots_jax.curation.rules.judge import RULES, first_failure
from dots_jax.curation.rules.measure import measure

ENGLISH = "\n".join(
    (
        "In spring the river runs past the old mill, and people that live there have walked along it with their children.",
        "Its wheel stopped turning when the railway came, but two brothers repaired it last year and sell flour again.",
        "By autumn the water falls so low that stones appear which nobody remembers, some of them carved with dates.",
        "An engineer from the town measured the depth every week, since a flood had once carried away the wooden bridge.",
    )
)
ENGLISH_RULES, RULES_CONFIG = EnglishRules(), RulesConfig()
CHINESE = "\n".join(
    (
        "春天的时候，河水从老磨坊旁边流过，住在这里的人们常常带着孩子沿着河边散步，看看两岸新长出来的柳树。",
        "到了夏天，水变得很浅，孩子们在石头之间捉小鱼，大人坐在树下聊天，一直到太阳落山才慢慢地走回家去。",
        "秋天落叶漂满了水面，老人说这条河已经有一千多年的历史，他们的祖先也是喝着这里的水长大的，从来没有离开过。",
    )
)


def failing(text: str, limits=ENGLISH_RULES) -> list[str]:
    return [finding.reason for finding in step.rule(text, limits).findings if not finding.passed]


def test_good_texts_pass_every_rule_of_their_language():
    assert failing(ENGLISH) == []
    assert failing(CHINESE, ChineseRules()) == []


def test_each_language_has_thresholds_of_its_own():
    """Claim: Chinese texts meet Chinese thresholds; the English ones would remove them."""
    assert "gopher stop words" in failing(CHINESE)
    assert "chinese Han characters" in failing(ENGLISH, ChineseRules())


PROSE = ENGLISH.split("\n")
BAD = {
    "gopher words": "The river runs past the old mill and people have walked along it.",
    "gopher mean word length": " ".join(["of it is to be at we go"] * 12) + ".",
    "gopher hashes": ENGLISH.replace(" the ", " ### the "),
    "gopher ellipses": ENGLISH.replace(",", " ... and so ... it went on,").replace("past", "... past ..."),
    "gopher bullet lines": "\n".join(f"- {line}" for line in PROSE),
    "gopher ellipsis lines": "\n".join(line + ".." for line in PROSE),
    "gopher words with a letter": ENGLISH + " " + " ".join(map(str, range(1000, 1040))) + ".",
    "gopher stop words": " ".join(f"{a}{b}" for a in "brown quick lazy".split() for b in "abcdefghijklmnopqrstuvwx")
    + ".",
    "gopher duplicate paragraphs": "\n\n".join([*PROSE, PROSE[0], PROSE[1], PROSE[0]]),
    "gopher duplicate paragraph characters": "\n\n".join([*PROSE, PROSE[0], PROSE[1], PROSE[0]]),
    "gopher duplicate lines": "\n".join([*PROSE, PROSE[0], PROSE[1], PROSE[0]]),
    "gopher duplicate line characters": "\n".join([*PROSE, PROSE[0], PROSE[1], PROSE[0]]),
    "fineweb lines with punctuation": ENGLISH.replace(".", ""),
    "fineweb short lines": "\n".join([*PROSE, *(f"A short one of number {n}." for n in range(20))]),
    "fineweb repeated line characters": "\n".join([*PROSE, PROSE[0]]),
    "fineweb newlines": "\n".join(" ".join(ENGLISH.split()[n : n + 3]) for n in range(0, 75, 3)),
    "gopher top 2-gram": " ".join(f"{word} old mill and" for word in ENGLISH.split()),
    "gopher duplicate 5-gram": " ".join(PROSE * 2),
    "refinedweb clutter words": "\n".join([*PROSE, *(f"{n} likes" for n in range(20))]),
}
BAD_CHINESE = {
    "chinese characters": CHINESE[:90],
    "chinese Han characters": CHINESE[:60] + ENGLISH,
    "chinese characters with punctuation": CHINESE.replace("。\n", "，").removesuffix("。") + "\n短句。\n短句！",
    "chinese mean line length": CHINESE.replace("，", "\n").replace("的", "\n"),
}


@pytest.mark.parametrize("reason", BAD)
def test_each_rule_has_its_reason(reason):
    assert reason in failing(BAD[reason])


@pytest.mark.parametrize("reason", BAD_CHINESE)
def test_each_chinese_rule_has_its_reason(reason):
    assert reason in failing(BAD_CHINESE[reason], ChineseRules())


def test_every_rule_of_the_table_has_a_bad_text_here():
    assert {f"{rule.source} {rule.number}" for rule in RULES} <= {*BAD, *BAD_CHINESE}


def test_none_switches_a_rule_off():
    limits = EnglishRules(min_words=None)
    assert "gopher words" not in failing(BAD["gopher words"], limits)


def test_ngram_repetition_equals_the_definition():
    """Top and duplicate n-grams against loops over strings, as the reference implementation writes them."""
    draw = random.Random(3)
    for _ in range(30):
        tokens = draw.choices(
            [f"w{'x' * (n % 4)}{n}" for n in range(draw.choice([3, 12, 200]))], k=draw.choice([1, 4, 9, 120])
        )
        numbers = {word: n for n, word in enumerate(dict.fromkeys(tokens))}
        ids, lengths = np.array([numbers[t] for t in tokens]), np.array([len(t) for t in tokens])
        found = ngrams.repetition(ids, lengths, (2, 3), (2, 5, 6))
        for n in (2, 3):
            grams = [" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
            best = max(dict.fromkeys(grams), key=grams.count, default="")
            assert found["top", n] == len(best) * grams.count(best)
        for n in (2, 5, 6):
            seen, place, total = set(), 0, 0
            while place <= len(tokens) - n:
                gram = "".join(tokens[place : place + n])
                place, total = (place + n, total + len(gram)) if gram in seen else (place + 1, total)
                seen.add(gram)
            assert found["duplicate", n] == total


def test_tokens_of_another_tokenizer_decide_when_given():
    tokens = [*ENGLISH.split(), *"." * 60]
    assert measure(ENGLISH, EnglishRules(), tokens)["words with a letter"] < 0.6
    assert (
        first_failure(measure(ENGLISH, EnglishRules(), tokens), EnglishRules()).reason == "gopher words with a letter"
    )


@pytest.mark.parametrize(
    "line, reason",
    [
        ("1,204 likes", "clutter counter"), ("(12 comments)", "clutter counter"), ("2019 - 11 - 05", "clutter digits"),
        ("Subscribe", "clutter one word"), ("FOLLOW US ON ALL CHANNELS", "clutter capitals"),
        ("3 items in cart", "clutter prompt"), ("About the mill. Read more...", "clutter prompt"),
        ("Sign-in to comment", "clutter prompt"), ("阅读 1.2万", "clutter counter"), ("评论(35)", "clutter counter"),
        ("点击查看更多", "clutter prompt"),
    ],
)  # fmt: skip
def test_a_line_of_clutter_goes_and_all_other_bytes_stay(line, reason):
    text = f"{PROSE[0]}  \n\n{line}\n{PROSE[1]}\n"
    found = clutter.find(text)
    assert [each.reason for each in found] == [reason]
    assert clutter.without(text, found) == f"{PROSE[0]}  \n\n{PROSE[1]}\n"


def run_step(documents: list[Document], config=RULES_CONFIG):
    with step.opened(CurateConfig(rules=config)) as apply:
        outcome = apply(documents)
    Books().add("rules", documents, outcome.kept, outcome.removed)  # raises if lines or characters are lost
    return outcome


def test_the_ledger_has_each_removed_line_and_each_document_with_its_score():
    """Claim: rules leave a row for every line and document that they remove, with the reason and the number."""
    good = Document("good", "http://a.org/1", f"{ENGLISH}\n12 likes", language="en")
    short = Document("short", "", "The river runs to the mill.", language="en")
    outcome = run_step([good, short])
    assert [document.text for document in outcome.kept] == [ENGLISH]
    line, document = outcome.removed
    assert (line.kind, line.id, line.text, line.characters, line.detail) == ("line", "good", "12 likes", 9, "line 5")
    assert (document.reason, document.score, document.detail, document.id) == (
        "gopher words",
        6,
        "at least 50",
        "short",
    )


def test_a_document_that_goes_has_one_row_with_all_its_lines():
    document = Document("a", "", BAD["refinedweb clutter words"], language="en")
    (row,) = run_step([document]).removed
    assert (row.kind, row.reason, row.characters) == ("document", "refinedweb clutter words", len(document.text))


def test_a_language_without_thresholds_stays_or_goes_by_name():
    document = Document("a", "", "Kurz und gut.", language="de")
    assert run_step([document]).kept == [document]
    (row,) = run_step([document], RulesConfig(other_languages="remove")).removed
    assert (row.reason, row.detail) == ("no thresholds", "de")


def test_a_text_without_words_does_not_break_the_numbers():
    for text in ("", "\n", "...", "。", "#\n#", "\x0b", "-"):
        assert step.rule(text, EnglishRules()).failure
        assert step.rule(text, ChineseRules()).failure


@pytest.mark.parametrize("text", ["\na\nb\n", "a\n\n\nb\n\nb\n\na", "\n\na", "a\n", "a\n\n\n\na\na", "b"])
def test_lines_and_paragraphs_are_cut_as_the_definition_says(text):
    numbers = measure(text, ENGLISH_RULES)
    for name, parts in (("lines", re.split("\n+", text)), ("paragraphs", re.split("\n{2,}", text.strip()))):
        assert numbers[f"duplicate {name}"] == (len(parts) - len(set(parts))) / len(parts)


def test_c4_rules_when_switched_on():
    limits = EnglishRules(c4=True, c4_min_sentences=2)
    assert failing(ENGLISH, limits) == []
    assert "c4 curly bracket" in failing(ENGLISH + "\nvoid main() { return; }.", limits)
    assert "c4 lorem ipsum" in failing(ENGLISH + "\nLorem ipsum dolor sit amet.", limits)
    assert "c4 sentences" in failing(ENGLISH, dataclasses.replace(limits, c4_min_sentences=50))
    ruling = step.rule(ENGLISH + "\nWe use cookies to serve you.\nOur pictures of it", limits)
    assert [line.reason for line in ruling.lines] == ["c4 policy", "c4 no end"]


SITES = """
[[site]]
domain = "mill.org"
drop_lines = ["Share this article"]
drop_matching = ['Tags: .*']
cut_from = ['Related articles']
[[site]]
domain = "shop.mill.org"
drop = true
[[site]]
domain = "news.mill.org"
min_characters = 10000
"""


def sites_config(tmp_path, text=SITES) -> RulesConfig:
    path = tmp_path / "sites.toml"
    path.write_text(text)
    return RulesConfig(sites=str(path))


def test_rules_of_a_site_hold_for_it_and_its_subdomains(tmp_path):
    text = f" Share this article\n{ENGLISH}\nTags: mill, river\nRelated articles\nThe mill of the next town."
    urls = ("http://www.mill.org/a", "http://other.org/a", "http://shop.mill.org/b", "http://news.mill.org/")
    documents = [Document(str(n), url, text, language="en") for n, url in enumerate(urls)]
    outcome = run_step(documents, sites_config(tmp_path))
    assert [(document.id, document.text) for document in outcome.kept] == [("0", ENGLISH), ("1", text)]
    reasons = [(row.id, row.reason) for row in outcome.removed]
    assert reasons == [("0", "site line")] * 2 + [("0", "site cut")] * 2 + [
        ("2", "site drop"),
        ("3", "site characters"),
    ]


@pytest.mark.parametrize(
    "text, says",
    [
        ("site =", "no TOML"), ("", "holds no"), ("[[page]]\n", "page"), ("[[site]]\ndrop = true", "no domain"),
        ('[[site]]\ndomain = "a.org"\ndrop = 1', "drop must be bool"), ('[[site]]\ndomain = "a.org"\ncss = "x"', "css"),
        ("[[site]]\ndomain = 'a.org'\ncut_from = ['(']", "no regular expression"),
        ("[[site]]\ndomain = 'a.org'\n[[site]]\ndomain = 'a.org'", "twice"),
    ],
)  # fmt: skip
def test_a_bad_file_of_sites_gets_one_sentence(tmp_path, text, says):
    with pytest.raises(UserError, match=says):
        sites.read_sites(sites_config(tmp_path, text).sites)


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"min_words": 10, "max_words": 5}, "no document satisfies both"), ({"top_ngrams": ((2, 1.5),)}, "between 0 and 1"),
        ({"min_stop_words": 3, "stop_words": ("the",)}, "stop_words has 1"), ({"max_hashes": -1.0}, "not be negative"),
    ],
)  # fmt: skip
def test_thresholds_that_cannot_be_met_get_one_sentence(settings, says):
    with pytest.raises(UserError, match=says):
        EnglishRules(**settings)


def test_real_gold_texts_are_kept_by_the_thresholds_of_their_language():
    """Claim: the rules keep at least 85 % of real English articles and 90 % of real Chinese ones."""
    folder = shared_web()
    for file, field, language, least in (
        ("zyte/ground-truth.json.gz", "articleBody", "en", 0.85),
        ("zh_articles/gold.json.gz", "content", "zh", 0.90),
    ):
        with gzip.open(folder / file) as opened:
            texts = [row[field] for row in json.load(opened).values()]
        texts = [text for text in texts if identify(text)[0] == language]
        limits = step.thresholds(language, RULES_CONFIG)
        kept = sum(step.rule(text, limits).failure is None for text in texts)
        assert kept / len(texts) >= least
