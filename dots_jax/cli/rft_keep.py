"""Keep right answers as conversations to fine-tune on.

    dots rft keep --questions=Q.jsonl --verified=V.jsonl --output=KEPT.jsonl --mix=SFT.jsonl

One answer of each path, --cap a question; none that was cut, and none of a question that every
sample answers. KEPT.left_out.jsonl names each sample that is left out, with its reason;
KEPT.report.json and KEPT.png count them.
"""

from dots_jax.cli.options import RftKeepOptions

OPTIONS = RftKeepOptions


def main(options: RftKeepOptions) -> None:
    from dots_jax.posttraining.keep import keep

    keep(options)
