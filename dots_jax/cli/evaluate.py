"""Answer the benchmarks of the report with a checkpoint, or judge answers that are there.

    dots evaluate --suite=table2 --checkpoint=DIR --data=DIR --output=DIR --rows=gsm8k,mmlu
    dots evaluate --row=gsm8k --verdicts=IN.jsonl --output=OUT.jsonl
    dots evaluate --list

A suite that was stopped goes on where it was. IN.jsonl holds {"id", "prediction", "gold"}, OUT
the same rows with "extracted", "correct" and "score". Programs run in a sandbox.
"""

from dots_jax.cli.options import EvaluateOptions
from dots_jax.config import UserError

OPTIONS = EvaluateOptions


def main(options: EvaluateOptions) -> None:
    if options.suite:
        _suite(options)
        return
    from dots_jax.evaluation.verdicts import judge_file, list_rows

    if options.list:
        print(list_rows(options.data))
        return
    for name, example in (("row", "gsm8k"), ("verdicts", "IN.jsonl"), ("output", "OUT.jsonl")):
        if not getattr(options, name):
            raise UserError(f"Missing --{name}: as in --{name}={example}; --list shows the rows.")
    judge_file(options.row, options.verdicts, options.output, options.unsafe_code)


def _suite(options: EvaluateOptions) -> None:
    if options.prompts:
        if not options.data:
            raise UserError(f"Missing --data: as in --suite={options.suite} --data=DIR.")
        from dots_jax.evaluation.suite.prompts import write_prompts

        write_prompts(options)
        return
    for name in ("checkpoint", "data", "output"):
        if not getattr(options, name):
            raise UserError(f"Missing --{name}: as in --suite={options.suite} --{name}=DIR.")
    if options.row or options.verdicts:
        raise UserError("--suite answers with a checkpoint, --row --verdicts judges answers: give one of the two.")
    from dots_jax.evaluation.suite.run import evaluate
    from dots_jax.parallel.distributed import initialize

    initialize(options.distributed)
    evaluate(options)
