"""Draw answers of a model to questions: the first step of rejection-sampling fine-tuning.

    dots rft sample --checkpoint=runs/sft --questions=Q.jsonl --output=S.jsonl --samples=8

Q.jsonl: {"id", "messages" or "prompt", "answer" or "tests"}. S.jsonl: {"id", "sample", "text",
"finish_reason"}. Started again, it continues; the same flags give the same bytes.
"""

from dots_jax.cli.options import RftSampleOptions

OPTIONS = RftSampleOptions


def main(options: RftSampleOptions) -> None:
    from dots_jax.parallel.distributed import require_backend
    from dots_jax.posttraining.sample import sample

    require_backend()
    sample(options)
