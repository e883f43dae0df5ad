"""`dots evaluate --prompts`: the prompts of the rows as text, without a model."""

import json
import sys

from dots_jax.checkpoint.open import open_checkpoint
from dots_jax.cli.options import EvaluateOptions
from dots_jax.config import UserError
from dots_jax.data.tokenizers.bytes_vocabulary import BytesVocabulary
from dots_jax.data.tokenizers.tokenizer_file import TokenizerFile
from dots_jax.evaluation.suite.plan import groups_of, making_of, plan_row, row_names
from dots_jax.inference.session import open_vocabulary
from dots_jax.storage import atomic_write


def write_prompts(options: EvaluateOptions) -> None:
    """A line an item: row, group, id, prompt with its shots, its tokens, stop strings, and the expected answer.

    The tokenizer is --tokenizer, else that of --checkpoint, else bytes. RULER's prompts are made for it.
    """
    if options.checkpoint:
        vocabulary = open_vocabulary(options.tokenizer, open_checkpoint(options.checkpoint, options.step))
        if vocabulary is None:
            raise UserError("This checkpoint has no tokenizer: give one, as --tokenizer=FILE.")
    else:
        vocabulary = TokenizerFile(options.tokenizer) if options.tokenizer else BytesVocabulary()
    making = making_of(options, vocabulary.encode, None)
    rows = [plan_row(name, options.data, making, "none") for name in row_names(options)]
    with atomic_write(options.prompts) as file:
        for row in rows:
            written = 0
            for group in groups_of(row, making) if row.task else ():
                for item in group.items:
                    if options.limit and not row.task.make and written == options.limit:
                        break
                    prompt = row.task.prompt(group, item)
                    line = {"row": row.name, "group": group.name, "id": item.id, "prompt": prompt,
                            "tokens": len(vocabulary.encode(prompt)), "max_new_tokens": row.task.max_new_tokens,
                            "stop": row.task.stop, "expected": item.answer.strip()}  # fmt: skip
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    written += 1
            print(f"{row.name}: {row.missing or f'{written:,} prompts'}", file=sys.stderr)
    print(options.prompts)
