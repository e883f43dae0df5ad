"""Judge samples, by the answer of their question or by its tests in a sandbox.

    dots rft verify --questions=Q.jsonl --samples=S.jsonl --output=V.jsonl

V.jsonl: the rows of S.jsonl with "verdict" (correct, wrong, no_answer, timeout, error) and
"extracted". Started again, it continues.
"""

from dots_jax.cli.options import RftVerifyOptions

OPTIONS = RftVerifyOptions


def main(options: RftVerifyOptions) -> None:
    from dots_jax.posttraining.verify import verify

    verify(options)
