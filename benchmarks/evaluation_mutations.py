"""Predictions made from published answers: the ways in which models and typists change a text, drawn with a seed."""

import random
import string
import unicodedata

MARKS = string.punctuation + "“”‘’´`—–…％。，"


def at(text: str, rng: random.Random) -> int:
    return rng.randint(0, len(text))


def _insert(text: str, rng: random.Random, what: str) -> str:
    place = at(text, rng)
    return text[:place] + what + text[place:]


def _words(text: str, rng: random.Random, change) -> str:
    words = text.split(" ")
    change(words, rng.randrange(len(words)))
    return " ".join(words)


def _drop_word(words: list[str], n: int) -> None:
    if len(words) > 1:
        del words[n]


# (text, rng, another answer) -> text
MUTATIONS = (
    lambda text, rng, other: text.upper(),
    lambda text, rng, other: text.lower(),
    lambda text, rng, other: text.title(),
    lambda text, rng, other: f"{rng.choice(('The', 'a', 'an', 'THE', 'about', 'approximately'))} {text}",
    lambda text, rng, other: f"{text}{rng.choice('.!?,;:')}",
    lambda text, rng, other: rng.choice(('"{}"', "'{}'", "“{}”", "({})", "`{}`", "${}", "{}%", "{}s")).format(text),
    lambda text, rng, other: _insert(text, rng, rng.choice(MARKS)),
    lambda text, rng, other: _insert(text, rng, rng.choice(" \t\u00a0\u3000")),
    lambda text, rng, other: _insert(text, rng, rng.choice(string.ascii_letters + string.digits)),
    lambda text, rng, other: _insert(text, rng, rng.choice((" the ", " a", "an ", "\u0301", "é", "ß", "İ", "東"))),
    lambda text, rng, other: text[: (n := at(text, rng))] + text[n + 1 :],
    lambda text, rng, other: text.replace(" ", rng.choice(("_", "-", "  ", "", " - ", "\t"))),
    lambda text, rng, other: text.replace("-", " "),
    lambda text, rng, other: _words(text, rng, lambda words, n: words.insert(n, words[n])),
    lambda text, rng, other: _words(text, rng, _drop_word),
    lambda text, rng, other: " ".join(reversed(text.split(" "))),
    lambda text, rng, other: f"{text} {rng.choice(('yards', 'in 1972', 'years old', 'or so', 'and', 'the'))}",
    lambda text, rng, other: rng.choice(("{}, {}", "{} {}", "{} and {}", "{}/{}")).format(text, other),
    lambda text, rng, other: other,
    lambda text, rng, other: f"{text}.0" if text.isdecimal() else f"{text} 7",
    lambda text, rng, other: f"{int(text):,}" if text.isdecimal() else f"{text} 1,000.50",
    lambda text, rng, other: f"0{text}",
    lambda text, rng, other: rng.choice(("12", "1e3", "nan", "inf", "-4", "3.50", "1_000", "½", "٣")),
    lambda text, rng, other: unicodedata.normalize(rng.choice(("NFD", "NFC")), text),
    lambda text, rng, other: f" {text}  ",
    lambda text, rng, other: f"{text}\n{rng.choice(('It is so.', other, text))}" if rng.random() < 0.2 else text,
    lambda text, rng, other: rng.choice(("", " ", "the", ".", "none")) if rng.random() < 0.3 else text,
)


def mutated(text: str, rng: random.Random, other: str) -> str:
    """The text after none to three mutations; half of the pairs of a benchmark should stay right."""
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3))):
        text = rng.choice(MUTATIONS)(text, rng, other)
    return text


def mutated_answer(text: str, rng: random.Random, other: str) -> str:
    """A published answer, half of the time with a letter that has two Unicode forms."""
    text = _insert(text, rng, unicodedata.normalize(rng.choice(("NFC", "NFD")), rng.choice("éüÅñ")))
    return text if rng.random() < 0.5 else mutated(text, rng, other)


# --- responses to instructions -----------------------------------------------------------------------------------------------

SENTENCES = (
    "The harbour was quiet before the first boats left.", "Nobody could say why the old clock had stopped!",
    "Dr. Smith arrived at 5 p.m. and left at once.", "Is this the road to the mill?", "I think it's fine, honestly.",
    "这是一个很好的答案。", "Das Wetter war gestern besser als heute.", "El libro está sobre la mesa de la cocina.",
    "Prices rose by 3.5% in U.S. cities.", "NASA and ESA agreed on a plan.", "ये किताब बहुत अच्छी है।",
    "We walked; we talked; we sang - and then... silence.",
)  # fmt: skip
OPENINGS = ("", "", "Sure, here it is:\n", "**Answer**\n", "\n\n", "Dear all,\n\n")


def _parts(item: dict, rng: random.Random) -> list[str]:
    """What the instructions of an item ask for, sometimes a little too much or too little of it."""
    more = lambda n: max(0, (n or 1) + rng.choice((-1, 0, 0, 0, 1)))
    said = [rng.choice(SENTENCES) for _ in range(rng.randint(1, 6))]
    parts = [" ".join(said)]
    for name, given in zip(item["instruction_id_list"], item["kwargs"], strict=True):
        kind = name.partition(":")[2]
        if words := given.get("keywords") or given.get("forbidden_words"):
            parts.append(" ".join(rng.sample(words, rng.randint(0, len(words)))))
        if word := given.get("keyword"):
            parts.append(" ".join([rng.choice((word, word.upper(), f"{word}s"))] * more(given.get("frequency"))))
        if letter := given.get("letter"):
            parts.append(letter * more(given.get("let_frequency")))
        number = more(next((n for key, n in given.items() if key.startswith("num_")), 1))
        made = {
            "number_placeholders": ["[name]"] * number, "number_bullet_lists": ["\n" + rng.choice("*-") + " point"] * number,
            "number_highlighted_sections": [rng.choice((" *part*", " **part**", " * *", " ***x***"))] * number,
            "multiple_sections": [f"\n{given.get('section_spliter')} {n + 1}\ntext" for n in range(number)],
            "number_paragraphs": ["\n***\n".join(["A paragraph."] * max(1, number))],
            "nth_paragraph_first_word": ["\n\n".join([f"{given.get('first_word')} and more."] * max(1, number))],
            "number_sentences": [" One more here."] * min(number, 80), "number_words": [" word"] * min(number, 700),
            "capital_word_frequency": [" LOUD"] * more(given.get("capital_frequency")),
            "postscript": [f"\n{given.get('postscript_marker')} See you."], "title": ["\n<<A title>>"],
            "json_format": ['\n```json\n{"a": [1, 2]}\n```'], "constrained_response": ["My answer is yes."],
            "two_responses": ["First one.\n******\nSecond one."], "no_comma": [rng.choice(("", ","))],
        }.get(kind, [])  # fmt: skip
        parts.append("".join(made[: rng.choice((len(made), 10**6))]))
    return parts


def followed(item: dict, rng: random.Random) -> str:
    """A response to an item of IFEval that follows some of its instructions, mutated."""
    parts, names = _parts(item, rng), " ".join(item["instruction_id_list"])
    if rng.random() < 0.3:
        rng.shuffle(parts)
    alone = [part for part in parts[1:] if part.strip()]
    text = rng.choice(alone).strip() if alone and rng.random() < 0.25 else rng.choice((" ", "\n", "\n\n")).join(parts)
    ends = [given["end_phrase"] for given in item["kwargs"] if given.get("end_phrase")]
    text = f"{rng.choice(OPENINGS)}{text}{''.join(f' {end}' for end in ends) if rng.random() < 0.7 else ''}"
    for given in item["kwargs"]:
        if given.get("prompt_to_repeat") and rng.random() < 0.7:
            text = f"{given['prompt_to_repeat']}\n{text}"
    for wanted, change in (("english_capital", str.upper), ("lowercase", str.lower), ("quotation", '"{}"'.format)):
        if wanted in names and rng.random() < 0.7:
            text = change(text)
    return mutated(text, rng, rng.choice(SENTENCES)) if rng.random() < 0.5 else text
