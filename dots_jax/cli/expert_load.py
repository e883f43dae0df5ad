"""Which experts the tokens of each domain meet (figure 5 of the report): exact counts, and a picture.

    dots expert_load --checkpoint=DIR --domain=code=a.jsonl --domain=prose=b.txt --output=DIR

A file holds JSON lines with the field text, or plain text. Domains that are counted already are
kept.
"""

from dots_jax.cli.execute import load_tensorflow
from dots_jax.cli.options import ExpertLoadOptions
from dots_jax.config import UserError

OPTIONS = ExpertLoadOptions


def main(options: ExpertLoadOptions) -> None:
    for name in ("checkpoint", "output"):
        if not getattr(options, name):
            raise UserError(f"Missing --{name}: as in --{name}=DIR.")
    load_tensorflow(options.debug)
    from dots_jax.parallel.distributed import initialize

    initialize(options.distributed)
    from dots_jax.analysis.expert_load_run import run

    run(options)
