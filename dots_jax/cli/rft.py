"""Rejection-sampling fine-tuning: right answers of a model as data. JSON lines lie between the steps:

    dots rft sample --checkpoint=DIR --questions=Q.jsonl --output=S.jsonl --samples=8
    dots rft verify --questions=Q.jsonl --samples=S.jsonl --output=V.jsonl
    dots rft keep --questions=Q.jsonl --verified=V.jsonl --output=KEPT.jsonl --mix=SFT.jsonl

Another engine may write S.jsonl: rows of id, sample, text, finish_reason.
`dots train` learns KEPT.jsonl as a Source of format 'messages'.
"""

from dots_jax.cli.options import Options
from dots_jax.config import UserError

OPTIONS = Options


def main(options: Options) -> None:
    raise UserError("dots rft has the steps sample, verify and keep, in this order; dots rft --help shows them.")
