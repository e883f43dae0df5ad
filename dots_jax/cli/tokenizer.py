"""Train a tokenizer of dots.llm1's kind, on the Python library's own sources or on your text.

    dots tokenizer --vocab_size=2048 --output=runs/tokenizer.json
    dots tokenizer --vocab_size=32000 --output=runs/mine.json --files='corpus/*.txt,corpus/*.jsonl'

DataConfig.tokenizer names the file in a run.
"""

from dots_jax.cli.execute import load_tensorflow
from dots_jax.cli.options import TokenizerOptions
from dots_jax.config import UserError, home_path

OPTIONS = TokenizerOptions


def main(options: TokenizerOptions) -> None:
    if not options.output:
        raise UserError("Missing --output: say which file to write, as in --output=runs/tokenizer.json.")
    files = options.files and ",".join(home_path("--files", glob) for glob in options.files.split(","))
    load_tensorflow(options.debug)
    from dots_jax.data.tokenizers.training import train_to_file

    train_to_file(
        options.output, options.vocab_size, files=files, task=options.task,
        tasks_modules=options.tasks_modules.split(","), cache_dir=options.cache_dir, field=options.field,
        max_malformed=options.max_malformed,
    )  # fmt: skip
