"""Judge answers to the benchmarks of the report: tables 2, 3 and 5, and LAMBADA.

    dots evaluate --row=gsm8k --verdicts=IN.jsonl --output=OUT.jsonl
    dots evaluate --list

IN.jsonl holds {"id", "prediction", "gold"}: gold is what the row's published file holds. OUT.jsonl
holds the same rows with "extracted", "correct" and "score". Programs run in a sandbox.
"""

from dots_jax.cli.options import EvaluateOptions
from dots_jax.config import UserError

OPTIONS = EvaluateOptions


def main(options: EvaluateOptions) -> None:
    from dots_jax.evaluation.verdicts import judge_file, list_rows

    if options.list:
        print(list_rows())
        return
    for name, example in (("row", "gsm8k"), ("verdicts", "IN.jsonl"), ("output", "OUT.jsonl")):
        if not getattr(options, name):
            raise UserError(f"Missing --{name}: as in --{name}={example}; --list shows the rows.")
    judge_file(options.row, options.verdicts, options.output, options.unsafe_code)
