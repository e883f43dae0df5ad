"""Evaluate what a run trained: python -m dots_jax.eval --gin_file=gin/eval_tiny.gin --workdir=runs/tiny

Or the log-probability of each token of your own texts, without a gin file:

    python -m dots_jax.eval --checkpoint=DIR --score=IN.jsonl --output=OUT.jsonl [--tokenizer=FILE] [--dtype=float32]

Rows are {"text": ...} or {"tokens": [...]}, and are written again with "logprobs": one number a token after the first.
--checkpoint is a training workdir or what `python -m dots_jax.convert from_hf` wrote.
"""

import sys

from dots_jax import gin_cli
from dots_jax.config import EvalConfig
from dots_jax.generate import CHECKPOINT

SCORE_FLAGS = (*CHECKPOINT, gin_cli.Flag("score", str, "a .jsonl of texts"))


def main(config: EvalConfig, options) -> int:
    from dots_jax.parallel.distributed import initialize

    initialize(options.distributed)
    from dots_jax.evaluation.checkpoints import evaluate

    return evaluate(config, options)


def score(options) -> None:
    from dots_jax.inference import session

    session.score(options)


if __name__ == "__main__":
    if any(argument.lstrip("-").startswith(("score", "checkpoint")) for argument in sys.argv[1:]):
        gin_cli.run(None, score, *SCORE_FLAGS)
    gin_cli.run(EvalConfig, main, gin_cli.DISTRIBUTED)
