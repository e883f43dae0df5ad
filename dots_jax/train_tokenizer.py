"""Train a tokenizer of dots.llm1's kind: python -m dots_jax.train_tokenizer --vocab_size=2048 --output=runs/tokenizer.json

On the Python library's own sources; on your text with --files='corpus/*.txt' or --task=NAME. DataConfig.tokenizer names
the file in a run.
"""

from dots_jax import gin_cli
from dots_jax.config import DataConfig, UserError

FLAGS = (
    gin_cli.Flag("output", str, "the tokenizer.json to write"),
    gin_cli.Flag("vocab_size", int, "ids, the special tokens among them", 2048),
    gin_cli.Flag("files", str, "text in UTF-8, or *.jsonl with a field text: globs, separated by commas"),
    gin_cli.Flag("task", str, "without --files: the seqio task on whose train split to train", "python_stdlib"),
    gin_cli.Flag(
        "tasks_modules", str, "modules that register tasks, separated by commas", DataConfig().tasks_modules[0]
    ),
    gin_cli.Flag("cache_dir", str, "where data sets are made, as DataConfig.cache_dir", DataConfig().cache_dir),
)


def main(options) -> None:
    if not options.output:
        raise UserError("Missing --output: say which file to write, as in --output=runs/tokenizer.json.")
    from dots_jax.data.tokenizers.training import train_to_file

    train_to_file(
        options.output, options.vocab_size, files=options.files, task=options.task,
        tasks_modules=options.tasks_modules.split(","), cache_dir=options.cache_dir,
    )  # fmt: skip


if __name__ == "__main__":
    gin_cli.run(None, main, *FLAGS)
