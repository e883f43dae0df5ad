"""Answers 50 prompts with several stop strings: python answer_requests.py CHECKPOINT BATCH_SIZE OUT [ADDRESS,PROCESS,PROCESSES]"""

import json
import random
import sys

import jax

from dots_jax.checkpoint.open import open_checkpoint
from dots_jax.data.tokenizers.bytes_vocabulary import BytesVocabulary
from dots_jax.evaluation.suite.answering import Answerer
from dots_jax.evaluation.suite.requests import GENERATION, RANKING, Request
from dots_jax.evaluation.tasks.task import Item
from dots_jax.parallel.distributed import initialize

STOPS = (("。", "e"), ("a", "\n\n", "是"), ("zz", "Z"), ("，", "qu", "\x00"), ())
WORDS = "the 一个 sum is 42 答案 def f(x): 。 of ， return\n".split(" ")
ITEM = Item("", "", "", None)


def main(checkpoint: str, batch_size: str, out: str, distributed: str | None = None) -> None:
    initialize(distributed)
    vocabulary = BytesVocabulary()
    answerer = Answerer(open_checkpoint(checkpoint), "float32", int(batch_size), vocabulary)
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(3, 25))) for _ in range(50)]
    requests = [
        Request(GENERATION, None, "", ITEM, vocabulary.encode(text), (), 24, STOPS[n % len(STOPS)], 0, 0, 0, "")
        for n, text in enumerate(texts)
    ]
    ranked = []
    for text in texts[:8]:
        rows = tuple((vocabulary.encode(text + end), len(text.encode())) for end in "AB")
        ranked.append(Request(RANKING, None, "", ITEM, [], rows, 0, (), 0, 0, 0, ""))
    found = [[answer.text, answer.ended] for pairs in answerer.answers(requests) for _, answer in pairs]
    logprobs = [answer.logprobs for pairs in answerer.answers(ranked) for _, answer in pairs]
    if jax.process_index() == 0:
        with open(out, "w", encoding="utf-8") as file:
            json.dump({"texts": found, "logprobs": logprobs, "devices": jax.device_count()}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
