"""The log-probability of each token of your own texts.

    dots score --checkpoint=runs/tiny --input=IN.jsonl --output=OUT.jsonl

Rows are {"text": ...} or {"tokens": [...]}, and are written again with "logprobs": one number a
token after the first.
"""

from dots_jax.cli.options import ScoreOptions

OPTIONS = ScoreOptions


def main(options: ScoreOptions) -> None:
    from dots_jax.inference.session import score
    from dots_jax.parallel.distributed import require_backend

    require_backend()
    score(options)
