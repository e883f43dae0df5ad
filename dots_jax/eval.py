"""Evaluate what a run trained: python -m dots_jax.eval --gin_file=gin/eval_tiny.gin --workdir=runs/tiny"""

from dots_jax import gin_cli
from dots_jax.config import EvalConfig


def main(config: EvalConfig, options) -> int:
    from dots_jax.parallel.distributed import initialize

    initialize(options.distributed)
    from dots_jax.evaluation.checkpoints import evaluate

    return evaluate(config, options)


if __name__ == "__main__":
    gin_cli.run(EvalConfig, main, gin_cli.DISTRIBUTED)
