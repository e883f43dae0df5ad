"""Evaluate what a run trained: loss, perplexity and bits per byte of tasks.

    dots eval --gin_file=gin/eval_tiny.gin --workdir=runs/tiny

Or score your own texts without a gin file, as `dots score` does:

    dots eval --checkpoint=runs/tiny --score=IN.jsonl --output=OUT.jsonl
"""

from dots_jax.cli import score
from dots_jax.cli.execute import load_tensorflow
from dots_jax.cli.gin_config import load
from dots_jax.cli.options import EvalOptions, ScoreOptions
from dots_jax.config import EvalConfig, UserError

OPTIONS = EvalOptions
SCORE_FLAGS = ("score", "checkpoint", "step", "tokenizer", "dtype", "batch_size", "output")


def main(options: EvalOptions) -> int | None:
    given = {name: getattr(options, name) for name in SCORE_FLAGS if getattr(options, name) is not None}
    if given:
        for name in ("gin_file", "gin_bindings", "workdir", "distributed"):
            if getattr(options, name):
                raise UserError(
                    f"--{name} is for tasks and --{next(iter(given))} for texts of a file: give one of them."
                )
        if "score" not in given:
            raise UserError("Missing --score: say which texts to score, as in --score=IN.jsonl.")
        given["input"] = given.pop("score")
        return score.main(ScoreOptions(debug=options.debug, **given))
    if not options.workdir:
        raise UserError("Missing --workdir: say where the run lives, as in --workdir=runs/tiny.")
    config, options = load(EvalConfig, options)
    load_tensorflow(options.debug)
    from dots_jax.parallel.distributed import initialize

    initialize(options.distributed)
    from dots_jax.evaluation.checkpoints import evaluate

    return evaluate(config, options.workdir)
