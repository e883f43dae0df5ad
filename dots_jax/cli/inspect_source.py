"""What record files hold: rows, tokens with their error, languages by script, lengths.

    dots inspect_source --files='corpora/fineweb-2/*.parquet' --tokenizer=tokenizer.json

Reads the footers of Parquet files and a thousand documents, and counts malformed records.
`Source.tokens` is the line for the gin file.
"""

from dots_jax.cli.execute import load_tensorflow
from dots_jax.cli.options import InspectOptions

OPTIONS = InspectOptions


def main(options: InspectOptions) -> int:
    load_tensorflow(options.debug)
    from dots_jax.data.sources.inspect import inspect

    return inspect(options)
