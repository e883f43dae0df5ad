"""dots.llm1 in JAX: train, evaluate and use a mixture-of-experts language model.

    dots train --gin_file=gin/tiny.gin --workdir=runs/tiny
    dots generate --checkpoint=runs/tiny --prompt='def main('

`dots COMMAND --help` shows the flags of one. Without installation, from a checkout: python -m dots_jax COMMAND.
"""

import ast
import importlib
import inspect
import sys
import types
from collections.abc import Sequence

from dots_jax.cli.execute import execute
from dots_jax.cli.options import Options
from dots_jax.cli.suggestion import did_you_mean

# The command `plan pod` is the module plan_pod of this folder: its OPTIONS, its main(options), and its docstring for --help.
COMMANDS = {
    "train": "train a model, or go on with a run",
    "eval": "loss, perplexity and bits per byte of what a run trained",
    "evaluate": "answers to the benchmarks of the report's tables 2, 3 and 5",
    "expert_load": "which experts the tokens of each domain meet, as figure 5",
    "score": "the log-probability of each token of your own texts",
    "generate": "text for a prompt, a conversation, or every row of a file",
    "rft": "rejection sampling: a model's right answers as data to fine-tune on",
    "rft sample": "k answers of a model to each question",
    "rft verify": "verdicts on answers, by the known answer or by tests",
    "rft keep": "right answers to conversations, with phase 1's data among them",
    "convert": "weights from Hugging Face and back",
    "curate": "web pages to a corpus, with a ledger of everything removed",
    "classifier": "train a model of curation on your labels: type, quality, clutter",
    "cache": "tokenise data sets ahead of training",
    "takedown": "where a run holds listed documents, and which checkpoints learned them",
    "inspect_source": "rows, tokens, languages and lengths of record files, from a sample",
    "fetch_source": "a data set of the Hugging Face hub into a folder or a bucket",
    "tokenizer": "train a tokenizer of dots.llm1's kind",
    "plan": "what a run will do; the plan commands by their flags",
    "plan curriculum": "stages, steps, batches, learning rates, epochs of each source",
    "plan pod": "memory and time of a step on a TPU pod, without having one",
    "plan serving": "memory and tokens/s of serving the model on TPU hosts",
    "plan bundles": "what each Pallas kernel costs on a TPU, by the compiler's schedule",
    "plan hlo": "where the time of a compiled module goes",
}


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command that these words are, by default those of the process; returns its exit status."""
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in ("--help", "-h", "help"):
        return execute(Options, lambda _: print(_overview()), "", []) or (0 if words else 2)
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS), None)
    rest = words[len((name or "").split()) :]
    subcommands = [command.split()[1] for command in COMMANDS if command.startswith(f"{name} ")]
    if name is None or (subcommands and rest and not rest[0].startswith("-")):
        wrong, choices = (words[0], [c for c in COMMANDS if " " not in c]) if name is None else (rest[0], subcommands)
        what = "dots has no command" if name is None else f"dots {name} has no subcommand"
        suggestion = did_you_mean(wrong, choices) or f"; there are {', '.join(choices)}."
        print(f"error: {what} {wrong}{suggestion}", file=sys.stderr)
        return 2
    command = importlib.import_module(f"dots_jax.cli.{name.replace(' ', '_')}")
    return execute(command.OPTIONS, command.main, _docstring(command), rest)


def _overview() -> str:
    commands = (f"  {name:<18}{line}" for name, line in COMMANDS.items())
    return "\n".join([_docstring(sys.modules[__name__]).strip(), "", *commands])


def _docstring(module: types.ModuleType) -> str:
    """python -OO leaves it out of what it compiles."""
    return module.__doc__ or ast.get_docstring(ast.parse(inspect.getsource(module)), clean=False) or ""


if __name__ == "__main__":
    sys.exit(main())
